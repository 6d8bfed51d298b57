"""Damaged and hostile files never end a build: each is read, refused in words, or contained with its decoder."""

from __future__ import annotations

import gzip
import importlib.util
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom import uid

from sonodistill.errors import UnreadableFileError
from sonodistill.frames import read
from sonodistill_training.corpus.sandbox import ChildDiedError, Limits, Sandbox


def _beside(name: str) -> ModuleType:
    """The module of that name beside this file."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


case, hostile_case = _beside("fuzz_case"), _beside("hostile_case")

LIMITS = Limits(memory_bytes=2 << 30, silence_seconds=30)
# Sound but for what nobody reads: they are read, and nothing of them is kept.
HARMLESS = {"gzip_bomb_behind_a_small_image.nii.gz", "nested_regions_with_lengths.dcm"}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    return [*case.generated(tmp_path_factory.mktemp("seeds")), *case.public_dicom(largest=60_000)]


@pytest.fixture
def sandbox(tmp_path, monkeypatch):
    """As a build has it, in a folder of its own."""
    for name in ("here", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    with Sandbox("sonodistill_training.corpus.extract", "extract", LIMITS) as box:
        yield box


@pytest.fixture
def task(tmp_path, monkeypatch):
    """A sandbox around the body of a generator."""
    boxes = []

    def made(body: str, **limits) -> Sandbox:
        (tmp_path / "made_up_task.py").write_text(f"def work():\n    yield {{'kind': 'item'}}, b''\n    {body}\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        boxes.append(Sandbox("made_up_task", "work", Limits(memory_bytes=1 << 30, **limits)))
        return boxes[-1]

    yield made
    for box in boxes:
        box.close()


def fuzz(sandbox: Sandbox, seeds: list, count: int, seed: int) -> Counter:
    """Damage ``count`` files, extract each, and check how it ended; how many ended in which way."""
    rng = np.random.default_rng(seed)
    before = case.children_of_this_process()
    # Named like a patient: no reason may say so.
    folder = Path.cwd().parent / case.PATIENT
    folder.mkdir()
    ends: Counter = Counter()
    for number in range(count):
        chosen, damage = seeds[int(rng.integers(len(seeds)))], case.DAMAGES[number % len(case.DAMAGES)]
        path = folder / f"{case.PATIENT}_{number}{chosen.suffix}"
        path.write_bytes(case.damaged(chosen, damage, rng))
        end = case.run(sandbox, path)
        what = f"file {number} of seed {seed} ({chosen.name}, {damage}): {end}"
        assert not end.faults, what
        assert end.seconds < 2 * LIMITS.silence_seconds, what
        assert end.peak_bytes is None or end.peak_bytes <= LIMITS.memory_bytes, what
        if end.status == "died":
            assert end.reason.startswith(("its decoder ", "its decoding ", "the decoding ")), what
        path.unlink()
        ends[end.status] += 1
    sound = folder / f"sound{seeds[0].suffix}"
    sound.write_bytes(seeds[0].data)
    assert case.run(sandbox, sound).status == "read"
    sandbox.close()
    assert case.children_of_this_process() <= before
    written = [path for name in ("here", "temporary") for path in (folder.parent / name).rglob("*")]
    assert not written, f"a child wrote {written}"
    return ends


def test_damaged_files_are_read_or_refused_in_words_and_leave_nothing_behind(sandbox, seeds):
    ends = fuzz(sandbox, seeds, 312, seed=0)
    assert min(ends["read"], ends["corrupt"]) > 50, ends


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_thousands_of_damaged_files_are_read_or_refused_in_words(sandbox, seeds, seed):
    large = [*seeds, *case.public_dicom(largest=1_100_000)]
    ends = fuzz(sandbox, large, 2500, seed)
    assert min(ends["read"], ends["corrupt"]) > 500, ends


def test_hostile_files_are_refused_in_words_within_seconds(sandbox, tmp_path):
    for path in hostile_case.hostile(tmp_path / "hostile"):
        end = case.run(sandbox, path)
        what = f"{path.name}: {end}"
        assert end.status == ("read" if path.name in HARMLESS else "corrupt"), what
        assert not end.faults, what
        assert end.seconds < 20, what
        assert end.peak_bytes is None or end.peak_bytes <= LIMITS.memory_bytes, what


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("import ctypes; ctypes.string_at(0)", "its decoder crashed .signal 11"),
        ("yield {'kind': 7}, b''", "its decoder answered nonsense"),
        ("import os; os.close(3); __import__('time').sleep(60)", "its decoder answered nonsense|stood still"),
    ],
)
def test_a_child_that_crashes_or_talks_nonsense_is_named_and_gone(task, body, said):
    box = task(body, silence_seconds=8)
    started = time.monotonic()
    with pytest.raises(ChildDiedError, match=said):
        list(box.run({}))
    assert time.monotonic() - started < 60
    assert box.pid is None


def test_a_crash_leaves_no_core_dump_and_no_zombie(task, tmp_path, monkeypatch):
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    before = case.children_of_this_process()
    box = task(f"import os; os.kill(os.getpid(), {int(signal.SIGSEGV)})")
    for _ in range(2):
        with pytest.raises(ChildDiedError, match="signal 11"):
            list(box.run({}))
    assert case.children_of_this_process() <= before
    assert not list(folder.iterdir())


def test_a_child_imports_nothing_from_the_folder_it_was_started_in(task, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    for module in ("json", "queue", "numpy", "sonodistill_training"):
        (folder / f"{module}.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(folder)
    box = task("import numpy; yield {'kind': 'numpy', 'file': numpy.__file__}, b''")
    answers = [header for header, _ in box.run({})]
    assert [answer["kind"] for answer in answers] == ["item", "numpy"]
    assert str(folder) not in answers[1]["file"]


def _with_element(data: bytes, tag: bytes, element: bytes) -> bytes:
    """An Explicit VR Little Endian file whose unsigned short ``tag`` is replaced."""
    start = data.index(tag + b"US\x02\x00")
    return data[:start] + element + data[start + 10 :]


def _infinite(tag: bytes) -> bytes:
    return tag + b"FD\x08\x00" + struct.pack("<d", np.inf)


@pytest.fixture
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 24, 30), dtype=np.uint8)


def test_an_infinite_number_of_rows_is_refused(clip, tmp_path):
    whole = case.dicom_factory.save(case.dicom_factory.ultrasound(clip), tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(_with_element(whole, b"\x28\x00\x10\x00", _infinite(b"\x28\x00\x10\x00")))
    with pytest.raises(UnreadableFileError, match="Rows is not a number"):
        next(read(tmp_path / "b.dcm"))


def test_a_region_without_end_drops_the_list_of_regions(clip, tmp_path):
    factory = case.dicom_factory
    ds = factory.ultrasound(clip, SequenceOfUltrasoundRegions=[factory.region(0, 0, 29, 23)])
    whole = factory.save(ds, tmp_path / "a.dcm").read_bytes()
    tag = b"\x18\x00\x1e\x60"  # Region Location Max X1
    start = whole.index(tag + b"UL\x04\x00")
    # Eight bytes more, in the item and in the sequence around it.
    item, longer = whole.index(b"\xfe\xff\x00\xe0"), b""
    sequence = whole.index(b"\x18\x00\x11\x60SQ") + 8
    for place, size in ((sequence, struct.unpack_from("<L", whole, sequence)), (item + 4, ())):
        length = size[0] if size else struct.unpack_from("<L", whole, item + 4)[0]
        longer = length if length == 0xFFFFFFFF else length + 4
        whole = whole[:place] + struct.pack("<L", longer) + whole[place + 4 :]
    (tmp_path / "b.dcm").write_bytes(whole[:start] + _infinite(tag) + whole[start + 12 :])
    frame = next(read(tmp_path / "b.dcm"))
    assert "regions" not in frame.provenance.details
    assert frame.mm_per_pixel is None


def test_the_message_about_a_damaged_jpeg_frame_holds_no_address(clip, tmp_path):
    factory = case.dicom_factory
    ds = factory.encapsulated(factory.ultrasound(clip), uid.JPEGBaseline8Bit, [b"\x12" * 64] * 2)
    with pytest.raises(UnreadableFileError, match="it is no JPEG image") as caught:
        next(read(factory.save(ds, tmp_path / "a.dcm")))
    assert "0x" not in str(caught.value)


def test_the_message_about_a_damaged_nifti_file_holds_no_address(tmp_path):
    path = tmp_path / "a.nii"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 8, 8), np.uint8)), str(path))
    data = bytearray(path.read_bytes())
    data[40:42] = struct.pack("<h", 99)  # dimensions
    path.write_bytes(data)
    with pytest.raises(UnreadableFileError, match="cannot be read") as caught:
        next(read(path))
    assert "0x" not in str(caught.value)


def test_gigabytes_behind_a_compressed_volume_are_not_inflated(tmp_path):
    path = tmp_path / "a.nii.gz"
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((3, 8, 8), np.uint8)), str(path))
    path.write_bytes(path.read_bytes() + gzip.compress(bytes(1 << 26), 9) * 1000)
    started = time.monotonic()
    assert len(list(read(path))) == 3
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_a_picture_larger_than_any_frame_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    options = {"compression": "tiff_deflate"} if suffix == ".tif" else {"compress_level": 1}
    Image.fromarray(np.zeros((8300, 8300), np.uint8)).save(path, **options)
    with pytest.raises(UnreadableFileError, match="8300 rows and 8300 columns"):
        next(read(path))


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_a_playlist_named_as_a_video_opens_no_other_file(tmp_path, suffix):
    with av.open(str(tmp_path / "other.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64), np.uint8), format="gray")))
        container.mux(stream.encode())
    assert len(list(read(tmp_path / "other.mp4"))) == 1
    playlist = tmp_path / f"a{suffix}"
    playlist.write_text("ffconcat version 1.0\nfile other.mp4\n")
    with pytest.raises(UnreadableFileError, match="cannot be opened"):
        next(read(playlist))


def test_a_clip_that_ends_within_its_last_fragment_is_refused_before_decoding(tmp_path, clip):
    whole = case.dicom_factory.lossless_clip(tmp_path / "a.dcm", clip).read_bytes()
    (tmp_path / "b.dcm").write_bytes(whole[:-60])
    with pytest.raises(UnreadableFileError, match="truncated: its last fragment"):
        next(read(tmp_path / "b.dcm"))
