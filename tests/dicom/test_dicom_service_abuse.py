"""The whole service under attack: it stays up within its memory, and every file that came is accounted for."""

from __future__ import annotations

import socket
import struct
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pydicom
import pytest
from abuse_case import TOKEN, Attacked, Memory, by_stow, processes, request
from dicom_factory import jpeg, lossless_clip, save, ultrasound
from findings_case import public_file
from orthanc import free_ports
from pydicom import uid
from pydicom.uid import generate_uid
from pynetdicom import _config
from pynetdicom.dsutils import split_dataset
from scp_client_case import associate, eventually, raw_answer, request_pdu
from service_case import configuration, service
from test_frames_abuse import damaged, encoded, nested, resized_jpeg, rle, still, video

from sonodistill.dicom.service.audit import verify
from sonodistill.dicom.source import read_source

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

# One or more of each transfer syntax that pydicom and pydicom-data have ultrasound in, and two that they have not.
SEEDS = (
    *("ExplVR_BigEnd.dcm", "color-pl.dcm", "examples_palette.dcm", "gdcm-US-ALOKA-16.dcm", "OBXXXX1A_rle.dcm"),
    *("OBXXXX1A_rle_2frame.dcm", "examples_ybr_color.dcm", "US1_J2KI.dcm", "US1_J2KR.dcm"),
    *("JPGLosslessP14SV1_1s_1f_8b.dcm", "JPEG-LS", "H.264"),
)
WAYS = ("dimse", "stow", "watch")
QUICK, ALL = 60, 2000
MEMORY_MB = 512
CAPS = {"receive": 256, "http": 256, "gather": 256, "deliver": 256, "compute": 512, "decoder": MEMORY_MB}
STRANGE_UIDS = (
    "1.2.3/../../../../..(scratch)",
    "../../../../etc/passwd",
    "1.2.3\\..\\..\\x",
    "1..2.3",
    "-1.2",
    "1.2\n3",
)


@contextmanager
def attacked(folder: Path) -> Iterator[Attacked]:
    dimse, http = free_ports(2)
    (folder / "token").write_text(TOKEN)
    for name in ("in", "out"):
        (folder / name).mkdir()
    limits = f"decode_memory_mb = {MEMORY_MB}, decode_seconds = 20, max_file_mb = 16"
    text = (
        f'scp = {{allow = ["TESTER@127.0.0.1"], port = {dimse}, memory_mb = 1024}}\n'
        f'http = {{port = {http}, token_file = "token", stow = true}}\n'
        '[[watch]]\nfolder = "in"\nquiet_seconds = 0.2\npoll_seconds = 0.2\nremove = true\n'
        '[[destination]]\nname = "out"\nkind = "folder"\nfolder = "out"\n'
    )
    path = configuration(folder, text)
    path.write_text(path.read_text().replace("threads = 1}", f"threads = 1, {limits}}}"))
    with service(path) as running, Memory(running.process.pid).watched() as memory:
        target = Attacked(running, folder / "in", dimse, http, folder / "out", memory, CAPS)
        target.roles = {pid: role for pid, role in processes(running.process.pid).items() if role != "decoder"}
        assert sorted(target.roles.values()) == ["compute", "deliver", "gather", "http", "receive"]
        yield target
    assert verify(running.spool / "audit.jsonl").broken == ""


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    with attacked(tmp_path_factory.mktemp("attacked")) as found:
        yield found


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("seeds")
    frames = np.random.default_rng(0).integers(0, 60, (3, 120, 160), np.uint8)
    made = {
        "JPEG-LS": lambda: lossless_clip(folder / "ls.dcm", frames),
        "H.264": lambda: video(folder / "video.dcm"),
    }
    found = {}
    for name in SEEDS:
        path = made[name]() if name in made else public_file(name)
        ds = pydicom.dcmread(path)
        if "StudyInstanceUID" not in ds:
            ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
            save(ds, path)
        found[name] = path.read_bytes()
    return found


def fresh(whole: bytes) -> bytes:
    """The same file as another instance."""
    old = pydicom.dcmread(pydicom.filebase.DicomBytesIO(whole), stop_before_pixels=True).SOPInstanceUID.encode()
    new = f"2.25.{generate_uid(prefix=None)[5:]}".encode()
    new = (new + b"7" * 64)[: len(old)]
    assert not new.endswith(b".")
    return whole.replace(old, new)


def harm(whole: bytes, number: int, *, sendable: bool) -> bytes:
    """One of many ways in which a file comes to harm; one that is to be sent by C-STORE keeps its meta information."""
    rng = np.random.default_rng(number)
    if not sendable:
        return damaged(whole, rng)
    at = whole.index(b"\x02\x00\x00\x00UL\x04\x00")
    start = at + 12 + struct.unpack("<L", whole[at + 8 : at + 12])[0]
    return whole[:start] + damaged(bytes(132) + whole[start:], rng)[132:]


def send_damaged(target: Attacked, seeds: dict[str, bytes], folder: Path, numbers: range) -> None:
    """Each seed through each way in, a batch of each at a time."""
    batches: dict[str, list[Path]] = {way: [] for way in WAYS}
    for number in numbers:
        way, name = WAYS[number % len(WAYS)], SEEDS[number // len(WAYS) % len(SEEDS)]
        path = folder / f"{number}.dcm"
        path.write_bytes(harm(fresh(seeds[name]), number, sendable=way == "dimse"))
        batches[way].append(path)
    for way, files in batches.items():
        target.send(way, files)
    for files in batches.values():
        for file in files:
            file.unlink()


def sound(target: Attacked, seeds: dict[str, bytes], folder: Path) -> None:
    """A clip that is in order goes through by each way in, and its SEG says which it is of."""
    for way in WAYS:
        clip = folder / f"sound-{way}.dcm"
        clip.write_bytes(fresh(seeds["examples_ybr_color.dcm"]))
        target.delivers(way, clip)
        source = read_source(clip)
        made = [pydicom.dcmread(path) for path in target.out.glob("*.dcm")]
        evidence = [
            each.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
            for each in made
            if each.Modality == "SEG"
        ]
        assert evidence.count(source.sop_uid) == 1
    target.settle()
    target.check()


def test_damaged_files_of_every_transfer_syntax_are_each_accounted_for(target, seeds, tmp_path):
    send_damaged(target, seeds, tmp_path, range(QUICK))
    account = target.settle()
    assert account.jobs["done"] and account.jobs["refused"]
    assert set(target.statuses) <= {0x0000, 0xA900, 200, 202, 409}
    sound(target, seeds, tmp_path)


def bombs(folder: Path) -> Iterator[Path]:
    """Files that claim, or grow to, much more than they are."""

    def of(name: str, syntax: str, data: bytes, side: int) -> Path:
        return still(folder / f"{name}.dcm", syntax, data, side, side)

    flat = jpeg(np.zeros((64, 64), np.uint8))
    for side in (16384, 65500):
        yield of(f"jpeg-{side}", uid.JPEGBaseline8Bit, resized_jpeg(flat, b"\xff\xc0", side), side)
    jpeg_ls = resized_jpeg(encoded(uid.JPEGLSLossless, "pyjpegls"), b"\xff\xf7", 65500)
    yield of("jpeg-ls", uid.JPEGLSLossless, jpeg_ls, 4096)
    whole = encoded(uid.JPEG2000Lossless, "pylibjpeg")
    at = whole.index(b"\xff\x51") + 6
    sizes = struct.pack(">LLLLLL", 30000, 30000, 0, 0, 30000, 30000)
    yield of("jpeg-2000", uid.JPEG2000Lossless, whole[:at] + sizes + whole[at + 24 :], 64)
    yield of("rle", uid.RLELossless, rle(400 << 20), 8192)
    many = ultrasound(np.zeros((1, 8, 8), np.uint8), NumberOfFrames=2_000_000_000)
    yield save(many, folder / "frames.dcm")
    sides = ultrasound(np.zeros((1, 8, 8), np.uint8), Rows=65535, Columns=65535)
    yield save(sides, folder / "sides.dcm")
    plain = save(ultrasound(np.zeros((1, 8, 8), np.uint8)), folder / "nested.dcm").read_bytes()
    at = plain.index(b"\x28\x00\x02\x00US")
    (folder / "nested.dcm").write_bytes(plain[:at] + nested(20_000) + plain[at:])
    yield folder / "nested.dcm"


def identified(path: Path) -> Path:
    """With the identifiers that the spool asks for, so that the bomb gets as far as it can."""
    whole = path.read_bytes()
    elements = b"".join(
        struct.pack("<HH", 0x0020, element) + b"UI" + struct.pack("<H", 64) + f"{generate_uid():\0<64}".encode()
        for element in (0x000D, 0x000E)
    )
    at = whole.index(b"\x28\x00\x02\x00US" if b"nested" not in path.name.encode() else b"\x18\x00\x11\x60SQ")
    path.write_bytes(whole[:at] + elements + whole[at:])
    return path


def test_decompression_bombs_are_refused_by_every_way_in_and_harm_nobody(target, seeds, tmp_path):
    made = [identified(path) for path in bombs(tmp_path)]
    before = target.account()
    for number, path in enumerate(made):
        target.send(WAYS[number % len(WAYS)], [path])
    after = target.settle()
    bad = [after.jobs[state] - before.jobs[state] for state in ("refused", "dead")]
    assert sum(bad) == len(made), after.dead
    deflated(tmp_path / "deflated.dcm", seeds["color-pl.dcm"])
    for way in ("stow", "watch"):  # no association offers its transfer syntax
        target.send(way, [tmp_path / "deflated.dcm"])
    larger = tmp_path / "larger.dcm"
    larger.write_bytes(fresh(seeds["color-pl.dcm"]) + bytes(17 << 20))
    for way in WAYS:
        target.send(way, [larger])
    last = target.settle()
    assert last.arrived["turned away"] - after.arrived["turned away"] == 2, "C-STORE and STOW stop reading"
    assert last.jobs["refused"] - after.jobs["refused"] == 2
    sound(target, seeds, tmp_path)


def deflated(path: Path, whole: bytes) -> None:
    """A file whose header would inflate to 256 MB."""
    ds = pydicom.dcmread(pydicom.filebase.DicomBytesIO(whole))
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.save_as(path)
    _, start = split_dataset(path)
    deflate = zlib.compressobj(9, wbits=-15)
    body = b"".join([deflate.compress(bytes(1 << 20)) for _ in range(256)]) + deflate.flush()
    path.write_bytes(path.read_bytes()[:start] + body)


def test_uids_that_look_like_paths_lead_nowhere(target, seeds, tmp_path, monkeypatch):
    home = target.running.spool.parent
    before, files = target.account(), []
    for number, strange in enumerate(STRANGE_UIDS):
        for keyword in ("SOPInstanceUID", "StudyInstanceUID"):
            whole = fresh(seeds["color-pl.dcm"])
            old = getattr(pydicom.dcmread(pydicom.filebase.DicomBytesIO(whole), stop_before_pixels=True), keyword)
            at = whole.rindex(old.encode())
            new = strange.encode()[: len(old)].ljust(len(old) + len(old) % 2, b"\0")
            path = tmp_path / f"{number}-{keyword}.dcm"
            path.write_bytes(whole[:at] + new + whole[at + len(new) :])
            files.append(path)
    for way in WAYS:
        target.send(way, files)
    monkeypatch.setitem(_config.VALIDATORS, "UI", lambda value: (True, ""))
    for strange in STRANGE_UIDS[:3]:
        assert raw_answer(target.dimse, uid=strange) >= 0xA900  # or the end of the association
        target.sent += 1
    account = target.settle()
    assert account.arrived["turned away"] - before.arrived["turned away"] == 3
    refused = account.jobs["refused"] - before.jobs["refused"]
    assert refused == 2 * len(files), "C-STORE writes meta information of its own; the two others bring the same file"
    assert {path.name for path in home.iterdir() if not path.name.startswith("log-")} == {
        *("in", "out", "spool", "service.toml", "model.onnx", "token")
    }
    assert not [path for path in home.rglob("*") if path.name in ("passwd", "x", "(scratch)")]
    target.check()


def test_hostile_clients_get_nothing_and_hold_nobody_up(target, seeds, tmp_path):
    stranger = associate(target.dimse, caller="STRANGER")
    assert stranger.is_rejected
    assert associate(target.dimse, called="ANY-SCP").is_rejected
    clip = tmp_path / "clip.dcm"
    clip.write_bytes(fresh(seeds["color-pl.dcm"]))
    for token in ("", "wrong", "ü" * 9):
        assert by_stow(target.http, [clip], token=token.encode().decode("latin-1"))[0] == 401
        for path in ("/metrics", "/health/ready", "/studies"):
            assert request(target.http, path, token=token.encode().decode("latin-1"))[0] == 401
    assert request(target.http, "/health/live", token="")[0] == 200
    assert request(target.http, "/studies/../../../etc/passwd")[0] == 404
    idle = [socket.create_connection(("127.0.0.1", port)) for port in (target.dimse, target.http) for _ in range(12)]
    block = b"\1" * (1 << 20)
    try:
        for length in (256 << 20, 0xFFFFFFFF):
            with socket.create_connection(("127.0.0.1", target.dimse), timeout=10) as giant:
                giant.sendall(request_pdu(length))
                with pytest.raises(OSError):
                    for _ in range(256):
                        giant.sendall(block)
        rng = np.random.default_rng(1)
        for number in range(40):
            port = (target.dimse, target.http)[number % 2]
            with socket.create_connection(("127.0.0.1", port), timeout=10) as garbage:
                garbage.sendall(request_pdu(500)[: number % 7] + rng.bytes(int(rng.integers(1, 4000))))
        sound(target, seeds, tmp_path)  # while they are there
    finally:
        for each in idle:
            each.close()
    target.settle()
    assert eventually(lambda: not list((target.running.spool / "incoming").iterdir()))


def test_garbage_links_and_our_own_results_are_no_jobs_that_run(target, seeds, tmp_path):
    clips = [tmp_path / f"{number}.dcm" for number in range(2)]
    for clip in clips:
        clip.write_bytes(fresh(seeds["color-pl.dcm"]))
        target.delivers("watch", clip)
    before = target.settle()
    (tmp_path / "empty.dcm").write_bytes(b"")
    (tmp_path / "text.dcm").write_text("DICM is not enough")
    (tmp_path / "zeros.dcm").write_bytes(bytes(4096))
    garbage = [tmp_path / name for name in ("empty.dcm", "text.dcm", "zeros.dcm")]
    results = sorted(target.out.glob("*.dcm"), key=lambda path: path.stat().st_mtime)[-4:]
    for way in ("stow", "watch"):
        target.send(way, [*garbage, *results])
    (target.watched / "link.dcm").symlink_to("/etc/passwd")
    (target.watched / ".hidden.dcm").write_bytes(b"hidden")
    account = target.settle()
    assert account.jobs["refused"] - before.jobs["refused"] == 7, "each once, whichever way it came"
    assert account.jobs["done"] == before.jobs["done"]
    again = fresh(seeds["color-pl.dcm"])
    for way in WAYS:  # the same file, and then another of the same instance
        (tmp_path / "again.dcm").write_bytes(again)
        target.send(way, [tmp_path / "again.dcm"])
    target.settle()
    (tmp_path / "again.dcm").write_bytes(again[:-2] + b"\1\2")
    target.send("watch", [tmp_path / "again.dcm"])
    last = target.settle()
    assert last.jobs["done"] - account.jobs["done"] == 1
    assert last.jobs["duplicate"] - account.jobs["duplicate"] == 2, "C-STORE writes meta information of its own"
    target.check()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_thousand_damaged_files_are_each_accounted_for(seeds, tmp_path, record_property):
    folder = tmp_path / "files"
    folder.mkdir()
    with attacked(tmp_path) as target:
        for start in range(1000, 1000 + ALL, 100):
            send_damaged(target, seeds, folder, range(start, start + 100))
            target.settle(600)
            target.check()
        sound(target, seeds, folder)
        account = target.settle()
        assert account.arrived.total() == ALL + len(WAYS)
        for name, value in {**account.jobs, "turned away": account.arrived["turned away"]}.items():
            record_property(name, value)
        record_property("peaks", {role: round(peak) for role, peak in target.memory.peaks.items()})
        assert not target.running.files("results")
