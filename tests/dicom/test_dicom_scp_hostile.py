"""The Storage SCP: what hostile or broken senders can do to it, over TLS too, and how it ends."""

from __future__ import annotations

import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from certificates import Authority
from dicom_factory import save, ultrasound
from pydicom.uid import (
    SegmentationStorage,
    generate_uid,
)
from pynetdicom import _config
from scp_client_case import STILL, associate, data_set, echoes, eventually, raw_answer, request_pdu, send_raw, store
from scp_server import CALLED, CALLER, TIMEOUTS, Running, scp_process, scp_thread

from sonodistill.dicom.service import scp as scp_module
from sonodistill.dicom.service.intake import Outcome
from sonodistill.dicom.settings import Tls
from sonodistill.dicom.tls import TlsError, client_context, server_context

pytestmark = pytest.mark.usefixtures("own_configuration")


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
