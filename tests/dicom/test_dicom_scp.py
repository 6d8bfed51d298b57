"""The Storage SCP: what it takes and from whom, and what hostile or broken senders can do to it."""

from __future__ import annotations

import errno
import io
import logging
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import data_store
import dcmtk
import numpy as np
import pytest
from certificates import Authority
from dicom_factory import encapsulated, lossless_clip, save, ultrasound
from pydicom import config, dcmread, examples
from pydicom.dataset import Dataset
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    SegmentationStorage,
    UltrasoundImageStorage,
    generate_uid,
)
from pynetdicom import AE, _config, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.dsutils import split_dataset
from pynetdicom.events import Event
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification
from scp_server import CALLED, CALLER, TIMEOUTS, Running, scp_process, scp_thread

from sonodistill.dicom.errors import NoRoomError, ServiceConfigError
from sonodistill.dicom.service import scp as scp_module
from sonodistill.dicom.service.intake import Outcome
from sonodistill.dicom.service.scp import Callers
from sonodistill.dicom.service.spool import open_spool
from sonodistill.dicom.settings import Service, Tls
from sonodistill.dicom.tls import TlsError, client_context, server_context

DATA = Path(data_store.__file__).parent / "data"
STILL = DATA / "US1_J2KR.dcm"
SYNTAXES = {
    "implicit little endian": DATA / "gdcm-US-ALOKA-16.dcm",
    "explicit little endian": DATA / "US1_UNCI.dcm",
    "explicit big endian": DATA / "OBXXXX1A_expb.dcm",
    "RLE": DATA / "OBXXXX1A_rle_2frame.dcm",
    "JPEG baseline": Path(examples.get_path("ybr_color")),
    "JPEG lossless": DATA / "JPGLosslessP14SV1_1s_1f_8b.dcm",
    "JPEG 2000 lossless": STILL,
    "JPEG 2000": DATA / "US1_J2KI.dcm",
}


@pytest.fixture(autouse=True)
def _own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server changes settings of pynetdicom for its process, and clients of these tests do."""
    for name in ("LOG_HANDLER_LEVEL", "LOG_REQUEST_IDENTIFIERS", "LOG_RESPONSE_IDENTIFIERS", "ENFORCE_UID_CONFORMANCE"):
        monkeypatch.setattr(_config, name, getattr(_config, name))
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    with scp_thread(tmp_path / "server") as running:
        yield running


def associate(port: int, *files: Path, caller: str = CALLER, called: str = CALLED, **options: Any) -> Association:
    ae = AE(caller)
    ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = 20
    kinds = {(meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID) for meta, _ in map(split_dataset, files)}
    contexts = [build_context(Verification), *(build_context(*each) for each in kinds)]
    return ae.associate("127.0.0.1", port, contexts=contexts, ae_title=called, **options)


def store(port: int, *files: Path, **options: Any) -> list[Dataset]:
    """The answers to the C-STOREs of one association."""
    association = associate(port, *files, **options)
    assert association.is_established
    try:
        return [association.send_c_store(file) for file in files]
    finally:
        association.release()


def echoes(port: int) -> bool:
    association = associate(port)
    if not association.is_established:
        return False
    status = association.send_c_echo().get("Status")
    association.release()
    return status == 0


def eventually(holds: Callable[[], bool], seconds: float = 15.0) -> bool:
    until = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def data_set(file: Path) -> bytes:
    return file.read_bytes()[split_dataset(file)[1] :]


@pytest.mark.parametrize("name", SYNTAXES)
def test_a_data_set_is_kept_byte_for_byte_in_its_transfer_syntax(server: Running, name: str) -> None:
    assert [answer.Status for answer in store(server.port, SYNTAXES[name])] == [0]
    (kept,) = server.intake.files()
    assert data_set(kept) == data_set(SYNTAXES[name])
    with config.disable_value_validation():
        sent, got = dcmread(SYNTAXES[name], stop_before_pixels=True), dcmread(kept, stop_before_pixels=True)
    assert got.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
    assert got.file_meta.MediaStorageSOPClassUID == sent.SOPClassUID
    assert got.file_meta.MediaStorageSOPInstanceUID == sent.SOPInstanceUID
    assert server.intake.peers == [("dimse", CALLER)]


def test_jpeg_ls_and_video_are_taken_too(server: Running, tmp_path: Path) -> None:
    clip = lossless_clip(tmp_path / "ls.dcm", np.zeros((2, 16, 16), np.uint8), syntax=JPEGLSLossless)
    video = encapsulated(ultrasound(np.zeros((2, 16, 16), np.uint8)), MPEG4HP41, [b"\0\0\0\1never decoded"])
    files = [clip, save(video, tmp_path / "video.dcm")]
    assert [answer.Status for answer in store(server.port, *files)] == [0, 0]
    assert {data_set(file) for file in server.intake.files()} == {data_set(file) for file in files}


@pytest.mark.parametrize("name", ["storescu", "dcmsend"])
def test_dcmtk_sends(server: Running, name: str) -> None:
    files = [str(DATA / "US1_UNCI.dcm"), str(DATA / "OBXXXX1A.dcm")]
    sent = subprocess.run(
        [dcmtk.program(name), "-aet", CALLER, "-aec", CALLED, "127.0.0.1", str(server.port), *files],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert sent.returncode == 0, sent.stderr
    pixels = {dcmread(file).pixel_array.tobytes() for file in files}
    assert {dcmread(file).pixel_array.tobytes() for file in server.intake.files()} == pixels


def test_associations_send_at_once(server: Running, tmp_path: Path) -> None:
    files = []
    for number in range(12):
        ds = ultrasound(np.full((4, 100 + number, 200), number, np.uint8))
        files.append(save(ds, tmp_path / f"{number}.dcm"))
    statuses: list[int] = []

    def send(part: list[Path]) -> None:
        statuses.extend(answer.Status for answer in store(server.port, *part))

    threads = [threading.Thread(target=send, args=(files[start::4],)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert statuses == [0] * 12
    assert {data_set(file) for file in server.intake.files()} == {data_set(file) for file in files}


def test_neither_other_objects_nor_the_deflated_syntax_are_accepted(server: Running) -> None:
    ae = AE(CALLER)
    contexts = [
        build_context(SegmentationStorage),
        build_context(UltrasoundImageStorage, DeflatedExplicitVRLittleEndian),
        build_context(Verification),
    ]
    association = ae.associate("127.0.0.1", server.port, contexts=contexts, ae_title=CALLED)
    accepted = [each.abstract_syntax for each in association.accepted_contexts]
    association.release()
    assert accepted == [Verification]


@pytest.mark.parametrize(
    ("options", "reason"), [({"caller": "STRANGER"}, (1, 1, 3)), ({"called": "ANY-SCP"}, (1, 1, 7))]
)
def test_unknown_callers_and_other_called_titles_are_rejected(
    server: Running, options: dict[str, str], reason: tuple[int, int, int]
) -> None:
    association = associate(server.port, **options)
    answer = association.acceptor.primitive
    assert association.is_rejected and (answer.result, answer.result_source, answer.diagnostic) == reason


def test_a_known_title_from_another_address_is_rejected(tmp_path: Path) -> None:
    with scp_thread(tmp_path, allow=(f"{CALLER}@10.1.2.3", "HERE@127.0.0.0/8")) as server:
        assert associate(server.port).is_rejected
        association = associate(server.port, caller="HERE")
        assert association.is_established
        association.release()


def test_the_allow_list_knows_titles_addresses_and_networks() -> None:
    callers = Callers(("ANYWHERE", "ONE@10.0.0.5", "ONE@fd00::1", "NET@192.168.0.0/24"))
    assert callers.allows("ANYWHERE", "8.8.8.8") and callers.allows("ANYWHERE  ", "::1")
    assert callers.allows("ONE", "10.0.0.5") and callers.allows("ONE", "::ffff:10.0.0.5")
    assert callers.allows("ONE", "fd00::1") and not callers.allows("ONE", "10.0.0.6")
    assert callers.allows("NET", "192.168.0.77") and not callers.allows("NET", "192.168.1.77")
    assert not callers.allows("", "10.0.0.5") and not callers.allows("one", "10.0.0.5")
    with pytest.raises(ServiceConfigError, match="no IP address"):
        Callers(("PACS@pacs.example",))


def test_associations_above_the_maximum_are_rejected_for_now(tmp_path: Path) -> None:
    with scp_thread(tmp_path, max_associations=2) as server:
        held = [associate(server.port) for _ in range(2)]
        third = associate(server.port)
        assert third.is_rejected and third.acceptor.primitive.result == 2  # transient
        for association in held:
            association.release()
        assert eventually(lambda: echoes(server.port))


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome.KNOWN, 0x0000),
        (Outcome.REFUSED, 0xA900),
        (OSError(errno.ENOSPC, "full"), 0xA700),
        (NoRoomError("full"), 0xA700),
        (OSError(errno.EIO, "/secret/path"), 0xC001),
        (RuntimeError("Doe^Jane"), 0xC001),
    ],
)
def test_what_the_intake_says_is_the_answer(server: Running, outcome: Any, status: int) -> None:
    server.intake.outcome = outcome
    (answer,) = store(server.port, STILL)
    assert answer.Status == status
    assert "secret" not in str(answer) and "Doe" not in str(answer)
    assert not list(server.intake.arriving.iterdir()) and not server.intake.files()


def test_the_spool_of_the_service_takes_what_arrives_once(tmp_path: Path) -> None:
    spool = open_spool(Service(spool=tmp_path / "spool", reserve_gb=0, max_used_percent=100))
    with scp_thread(tmp_path / "unused", intake=spool) as server:
        answers = [*store(server.port, STILL, SYNTAXES["JPEG baseline"]), *store(server.port, STILL)]
    assert [answer.Status for answer in answers] == [0, 0, 0]
    jobs = {spool.jobs.job(number).sop_uid: spool.source(spool.jobs.job(number)) for number in (1, 2)}
    assert data_set(jobs[str(dcmread(STILL).SOPInstanceUID)]) == data_set(STILL)
    spool.close()


def test_without_room_the_sender_is_told_to_come_again(server: Running) -> None:
    server.intake.room = False
    assert [answer.Status for answer in store(server.port, STILL, SYNTAXES["JPEG baseline"])] == [0xA700, 0xA700]
    server.intake.room = True
    assert [answer.Status for answer in store(server.port, STILL)] == [0]
    assert len(server.intake.files()) == 1


def test_a_data_set_above_the_limit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with scp_thread(tmp_path, max_file_bytes=200_000) as server:
        answers = store(server.port, SYNTAXES["explicit little endian"], STILL)
        assert [answer.Status for answer in answers] == [0xC000, 0]
        assert server.intake.turned_away == [("larger than the limit", "dimse", CALLER)]
        assert len(server.intake.files()) == 1 and not list(server.intake.arriving.iterdir())


def send_raw(association: Association, data: bytes, *, uid: str, kind: str = "", whole: bool = True) -> None:
    """A C-STORE-RQ of any data set under any identifiers; its last fragment is left out unless it is to be whole."""
    (context,) = (each for each in association.accepted_contexts if each.abstract_syntax != Verification)
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = kind or context.abstract_syntax
    request.AffectedSOPInstanceUID = uid
    request.DataSet = io.BytesIO(data)
    message = C_STORE_RQ()
    message.primitive_to_message(request)
    parts = list(message.encode_msg(context.context_id, 16384))
    for part in parts if whole else parts[:-1]:
        association.dul.send_pdu(part)


@pytest.mark.parametrize("end", ["abort", "disconnect"])
def test_a_sender_that_hangs_up_in_the_middle_leaves_nothing(server: Running, end: str) -> None:
    association = associate(server.port, STILL)
    send_raw(association, data_set(STILL), uid="1.2.3", whole=False)
    assert eventually(lambda: len(list(server.intake.arriving.iterdir())) == 1)
    if end == "abort":
        association.abort()
    else:
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)
    assert eventually(lambda: not list(server.intake.arriving.iterdir()))
    assert not server.intake.files() and echoes(server.port)
    association.abort()


def test_a_sender_that_falls_silent_in_the_middle_is_dropped(server: Running) -> None:
    association = associate(server.port, STILL)
    send_raw(association, data_set(STILL), uid="1.2.3", whole=False)
    assert eventually(lambda: len(list(server.intake.arriving.iterdir())) == 1)
    assert eventually(lambda: not list(server.intake.arriving.iterdir()))
    assert eventually(lambda: not association.is_established)


def raw_answer(port: int, *, uid: str, kind: str = "") -> int:
    """The status of a C-STORE of the still under other identifiers; 0xFFFF when the association ends instead."""
    statuses: list[int] = []

    def received(event: Event) -> None:
        statuses.append(event.message.command_set.Status)

    association = associate(port, STILL, evt_handlers=[(evt.EVT_DIMSE_RECV, received)])
    send_raw(association, data_set(STILL), uid=uid, kind=kind)
    assert eventually(lambda: bool(statuses) or not association.is_established)
    association.abort()
    return statuses[0] if statuses else 0xFFFF


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize("uid", ["1.2.3/../../..", "../../etc/passwd", "1.2.3\\4", "1..2", "0" * 64, "1." + "3" * 70])
def test_malformed_uids_are_refused(server: Running, uid: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # The client is not to be stopped by its own checks; those of the server's code do not depend on it.
    monkeypatch.setattr(_config, "ENFORCE_UID_CONFORMANCE", False)
    monkeypatch.setitem(_config.VALIDATORS, "UI", lambda value: (True, ""))
    assert raw_answer(server.port, uid=uid) == 0xA900
    assert not server.intake.files() and not list(server.intake.arriving.iterdir())
    assert echoes(server.port)


@pytest.mark.filterwarnings("ignore:Invalid value")
def test_a_malformed_uid_is_refused_by_a_server_with_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_config, "ENFORCE_UID_CONFORMANCE", False)
    with scp_process(tmp_path, memory_mb=1024) as (_, port):
        assert raw_answer(port, uid="1.2.3/../../..") >= 0xA900
        assert echoes(port)
    assert not list((tmp_path / "kept").iterdir()) and not list((tmp_path / "arriving").iterdir())


def test_a_class_other_than_that_of_its_context_is_refused(server: Running) -> None:
    assert raw_answer(server.port, uid="1.2.3", kind=SegmentationStorage) == 0x0122
    assert not server.intake.files()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the client's, cut off as it sends
def test_requests_that_do_not_wait_for_their_answers_end_the_association(server: Running) -> None:
    server.intake.seconds = 0.1
    association = associate(server.port, STILL)
    for number in range(60):
        send_raw(association, data_set(STILL)[:2000], uid=f"1.2.{number}")
    assert eventually(lambda: not list(server.intake.arriving.iterdir()) and not association.dul.is_alive(), 30)
    assert len(server.intake.files()) < 10
    assert echoes(server.port)


def request_pdu(length: int) -> bytes:
    """The start of an A-ASSOCIATE-RQ that states a length."""
    return struct.pack(">BBL", 1, 0, length)


def resident_mb(process: subprocess.Popen[str], name: str = "VmHWM") -> float:
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0]) / 1024


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_giant_pdus_and_garbage_neither_grow_the_process_nor_end_it(tmp_path: Path) -> None:
    with scp_process(tmp_path, memory_mb=1024) as (process, port):
        assert echoes(port)
        before = resident_mb(process)
        block = b"\1" * (1 << 20)
        for length in (256 << 20, 0xFFFFFFFF):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as giant:
                giant.sendall(request_pdu(length))
                with pytest.raises(OSError):
                    for _ in range(256):
                        giant.sendall(block)
        rng = np.random.default_rng(1)
        for number in range(60):
            with socket.create_connection(("127.0.0.1", port), timeout=10) as garbage:
                data = rng.bytes(int(rng.integers(1, 4000)))
                start = request_pdu(len(data)) if number % 2 else bytes([number % 9]) + b"\0"
                garbage.sendall(start + data)
        assert eventually(lambda: echoes(port))
        assert store(port, STILL)[0].Status == 0
        assert process.poll() is None
        assert resident_mb(process) < before + 40


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux")
def test_memory_stays_flat_while_a_large_clip_arrives(tmp_path: Path) -> None:
    large = ultrasound(np.zeros((96, 1024, 1024), np.uint8))  # 96 MB
    large.SOPInstanceUID = generate_uid()
    file = save(large, tmp_path / "large.dcm")
    with scp_process(tmp_path / "server", memory_mb=384) as (process, port):
        before = resident_mb(process)
        options = f"127.0.0.1 {port} {file} -aet {CALLER} -aec {CALLED} -xe"
        sent = subprocess.run(
            [sys.executable, "-m", "pynetdicom", "storescu", *options.split()],
            timeout=120,
            capture_output=True,
            text=True,
        )
        assert sent.returncode == 0, sent.stderr
        assert resident_mb(process) < before + 40
    (kept,) = (tmp_path / "server" / "kept").iterdir()
    assert kept.stat().st_size > 96 << 20


def test_idle_connections_keep_nobody_out(server: Running) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(30)]
    try:
        for each in idle[::2]:
            each.sendall(request_pdu(2000)[:5])  # some in the middle of a PDU
        assert store(server.port, STILL)[0].Status == 0
        for each in idle:  # ... and they are hung up on
            each.settimeout(20)
            with pytest.raises((ConnectionError, EOFError)):
                if not each.recv(1):
                    raise EOFError
    finally:
        for each in idle:
            each.close()


def test_as_many_idle_connections_as_there_is_place_for_are_gone_after_the_timeout(tmp_path: Path) -> None:
    with scp_thread(tmp_path, max_associations=1) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        try:
            assert eventually(lambda: echoes(server.port), 10 * TIMEOUTS.silence)
        finally:
            for each in idle:
                each.close()


def test_slow_bytes_do_not_hold_a_connection(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(request_pdu(5000))
        slow.settimeout(0.2)
        until = time.monotonic() + 10 * TIMEOUTS.silence
        with pytest.raises(ConnectionError):
            while time.monotonic() < until:
                slow.sendall(b"\1")
                try:
                    if not slow.recv(1):
                        raise ConnectionResetError
                except TimeoutError:
                    pass


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("tls")
    ours, rogue = Authority(folder, "ours"), Authority(folder, "rogue")
    return SimpleNamespace(
        authority=ours.certificate,
        rogue_authority=rogue.certificate,
        server=ours.issue("server"),
        client=ours.issue("client"),
        rogue=rogue.issue("rogue-client"),
    )


def test_tls_lets_in_who_has_a_certificate_of_the_authority_and_nobody_else(
    tmp_path: Path, tls: SimpleNamespace
) -> None:
    settings = Tls(tls.server.certificate, tls.server.key, tls.authority)
    clients = {
        "good": Tls(tls.client.certificate, tls.client.key, tls.authority),
        "no certificate": Tls(authority=tls.authority),
        "rogue": Tls(tls.rogue.certificate, tls.rogue.key, tls.authority),
        "trusts another authority": Tls(tls.client.certificate, tls.client.key, tls.rogue_authority),
    }
    with scp_thread(tmp_path, tls=settings) as server:
        established = {}
        for name, client in clients.items():
            association = associate(server.port, STILL, tls_args=(client_context(client), "127.0.0.1"))
            established[name] = association.is_established and association.send_c_store(STILL).get("Status") == 0
            association.release()
        established["plain"] = associate(server.port).is_established
        assert established == {name: name == "good" for name in [*clients, "plain"]}


def test_silent_connections_do_not_stop_a_tls_server(tmp_path: Path, tls: SimpleNamespace) -> None:
    settings = Tls(tls.server.certificate, tls.server.key, tls.authority)
    good = client_context(Tls(tls.client.certificate, tls.client.key, tls.authority))
    with scp_thread(tmp_path, tls=settings) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(10)]
        association = associate(server.port, STILL, tls_args=(good, "127.0.0.1"))
        assert association.is_established
        association.release()
        for each in idle:
            each.settimeout(20)
            assert each.recv(1) == b""
            each.close()


def test_tls_files_that_cannot_work_are_named(tmp_path: Path, tls: SimpleNamespace) -> None:
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no PEM")
    missing = tmp_path / "missing.pem"
    good = tls.server
    for settings, named in [
        (Tls(missing, good.key), missing),
        (Tls(good.certificate, missing), missing),
        (Tls(garbage, good.key), garbage),
        (Tls(good.certificate, tls.client.key), tls.client.key),
        (Tls(good.certificate, good.key, garbage), garbage),
        (Tls(good.certificate, good.key, tmp_path), tmp_path),
    ]:
        with pytest.raises(TlsError) as error:
            server_context(settings)
        assert error.value.path == named
    with pytest.raises(TlsError, match="needs a certificate"):
        server_context(Tls(authority=tls.authority))
    with pytest.raises(TlsError, match="its key"):
        client_context(Tls(certificate=good.certificate))
    assert server_context(Tls(good.certificate, good.key)).verify_mode == ssl.CERT_NONE
    assert client_context(None).check_hostname


def test_nothing_of_the_patient_is_logged(server: Running, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = save(ultrasound(np.zeros((1, 8, 8), np.uint8)), tmp_path / "named.dcm")
    with caplog.at_level(logging.DEBUG):
        store(server.port, file)
        server.intake.outcome = Outcome.REFUSED
        store(server.port, file)
        server.intake.outcome = ValueError("Secret^Name")
        store(server.port, file)
    assert caplog.records
    assert "Secret" not in caplog.text and "SECRET" not in caplog.text


def test_when_stopped_it_lets_a_sender_finish_and_takes_no_more(tmp_path: Path) -> None:
    with scp_thread(tmp_path) as server:
        port = server.port
        association = associate(port, STILL)
        threading.Timer(0.3, association.release).start()
        status = association.send_c_store(STILL).Status
    assert status == 0
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=2)


def test_when_stopped_it_does_not_wait_for_who_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scp_module, "_DRAIN_SECONDS", 0.5)
    with scp_thread(tmp_path) as server:
        association = associate(server.port)
        idle = socket.create_connection(("127.0.0.1", server.port))
    with idle, suppress(ConnectionResetError):
        assert idle.recv(1) == b""
    assert eventually(lambda: not association.is_established)
