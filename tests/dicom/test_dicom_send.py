"""Sending results: to a real Orthanc, to servers that fail in every way, and into a folder."""

from __future__ import annotations

import logging
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from findings_case import clip, public_file, random_findings
from orthanc import Orthanc, free_ports, orthanc
from pydicom import dcmread, examples
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE, StoragePresentationContexts, _config, evt
from pynetdicom.dsutils import split_dataset
from pynetdicom.events import Event

from sonodistill.dicom.errors import DeliveryError, RefusedDeliveryError
from sonodistill.dicom.send.dimse import DimseDestination
from sonodistill.dicom.send.folder import FolderDestination
from sonodistill.dicom.settings import DestinationSettings, Tls
from sonodistill.dicom.tls import server_context
from sonodistill.dicom.write.common import write_file
from sonodistill.dicom.write.report import report
from sonodistill.dicom.write.seg import segmentation

CALLER = "SONODISTILL"
CINE = Path(examples.get_path("ybr_color"))


@pytest.fixture(autouse=True)
def _own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sending changes a setting of pynetdicom for its process."""
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", False)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A segmentation and a report of it."""
    folder = tmp_path_factory.mktemp("results")
    findings = random_findings(clip(folder / "clip.dcm", frames=2))
    seg = segmentation(findings)
    write_file(seg, folder / "seg.dcm")
    write_file(report(findings, seg), folder / "sr.dcm")
    return [folder / "seg.dcm", folder / "sr.dcm"]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    folder = tmp_path_factory.mktemp("pacs")
    with orthanc(folder, modalities={"us": (CALLER, free_ports(1)[0])}, plugins=False) as running:
        yield running


def destination(port: int, **settings: Any) -> DimseDestination:
    given = {"ae_title": "ORTHANC", "host": "127.0.0.1", "timeout_seconds": 10.0, **settings}
    return DimseDestination(DestinationSettings("pacs", "dimse", port=port, **given))


@contextmanager
def scp(
    answer: Callable[[Event], Any],
    syntaxes: Any = (ExplicitVRLittleEndian, JPEGBaseline8Bit),
    context: Any = None,
    **settings: Any,
) -> Iterator[int]:
    """A Storage SCP that answers as it is told."""
    ae = AE("ORTHANC")
    for name, value in settings.items():
        setattr(ae, name, value)
    for each in StoragePresentationContexts:
        ae.add_supported_context(each.abstract_syntax, list(syntaxes))
    ae.add_supported_context("1.2.840.10008.5.1.4.1.1.66.4", list(syntaxes))
    server = ae.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, answer)], ssl_context=context
    )
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def test_orthanc_has_a_result_once_after_three_sends(pacs: Orthanc, results: list[Path]) -> None:
    pacs.delete_all()
    to = destination(pacs.dicom_port)
    for _ in range(3):
        to.send([*results, CINE])
    to.close()
    assert len(pacs.instances()) == 3 and pacs.sop_uids() == {uid_of(path) for path in [*results, CINE]}


def test_files_arrive_byte_for_byte_in_their_own_transfer_syntax(pacs: Orthanc, tmp_path: Path) -> None:
    pacs.delete_all()
    files = [CINE, public_file("US1_J2KR.dcm"), public_file("OBXXXX1A_rle.dcm"), public_file("US1_UNCI.dcm")]
    sent = {uid_of(file): file.read_bytes()[split_dataset(file)[1] :] for file in files}
    syntaxes = {dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID for file in files}
    arrived: dict[str, bytes] = {}

    def answer(event: Event) -> int:
        arrived[event.request.AffectedSOPInstanceUID] = event.encoded_dataset(include_meta=False)
        return 0

    with scp(answer, syntaxes=sorted(syntaxes)) as port:
        destination(port).send(files)
    assert arrived == sent
    destination(pacs.dicom_port).send(files)
    kept = [dcmread(BytesIO(pacs.file(instance))) for instance in pacs.instances()]
    assert {ds.file_meta.TransferSyntaxUID for ds in kept} == syntaxes
    assert {ds.SOPInstanceUID: ds.PixelData for ds in kept} == {
        ds.SOPInstanceUID: ds.PixelData for ds in map(dcmread, files)
    }


def test_orthanc_called_by_another_title_rejects_and_is_tried_again(pacs: Orthanc, results: list[Path]) -> None:
    with pytest.raises(DeliveryError, match="rejected, it is not called by that AE title") as error:
        destination(pacs.dicom_port, ae_title="SOMEBODY").send(results)
    assert not error.value.permanent


def test_orthanc_does_not_answer_a_caller_it_does_not_know(pacs: Orthanc, results: list[Path]) -> None:
    pacs.delete_all()
    with pytest.raises(DeliveryError) as error:
        destination(pacs.dicom_port, calling_ae_title="STRANGER").send(results)
    assert not error.value.permanent and not pacs.instances()


def test_down_then_up(tmp_path: Path, results: list[Path]) -> None:
    (port,) = free_ports(1)
    to = destination(port)
    with pytest.raises(DeliveryError) as error:
        to.send(results)
    assert not error.value.permanent
    with orthanc(tmp_path, modalities={"us": (CALLER, 1)}, plugins=False, dicom_port=port) as pacs:
        to.send(results)
        assert len(pacs.instances()) == 2


@pytest.mark.parametrize("status", [0x0000, 0xB000, 0xB006, 0xB007])
def test_success_and_warnings_are_a_delivery(results: list[Path], status: int) -> None:
    with scp(lambda event: status) as port:
        destination(port).send(results)


@pytest.mark.parametrize("status", [0xA700, 0xA702, 0x0110, 0x0124, 0x0211])
def test_what_may_change_is_tried_again(results: list[Path], status: int) -> None:
    with scp(lambda event: status) as port, pytest.raises(DeliveryError, match=f"0x{status:04X}") as error:
        destination(port).send(results)
    assert not error.value.permanent


@pytest.mark.parametrize("status", [0xA900, 0xC000, 0xC123, 0x0122])
def test_what_is_refused_for_what_it_is_is_not(results: list[Path], status: int) -> None:
    with scp(lambda event: status) as port, pytest.raises(RefusedDeliveryError, match=f"0x{status:04X}") as error:
        destination(port).send(results)
    assert error.value.permanent


def test_one_that_is_refused_does_not_keep_the_others_back(results: list[Path]) -> None:
    taken: list[str] = []

    def answer(event: Event) -> int:
        taken.append(event.request.AffectedSOPInstanceUID)
        return 0xC000 if len(taken) == 1 else 0

    with scp(answer) as port, pytest.raises(RefusedDeliveryError) as error:
        destination(port).send(results)
    assert error.value.path == results[0] and taken == [uid_of(path) for path in results]


def test_a_class_or_syntax_that_is_not_taken_is_refused(results: list[Path]) -> None:
    taken: list[str] = []

    def answer(event: Event) -> int:
        taken.append(event.request.AffectedSOPInstanceUID)
        return 0

    with scp(answer, syntaxes=(JPEGBaseline8Bit,)) as port:
        with pytest.raises(RefusedDeliveryError, match="takes none"):
            destination(port).send(results)
        with pytest.raises(RefusedDeliveryError, match="does not take"):
            destination(port).send([*results, CINE])
        destination(port).send([CINE])
    assert taken == [uid_of(CINE)] * 2


def test_a_caller_that_is_not_recognised_is_tried_again(results: list[Path]) -> None:
    rejected = pytest.raises(DeliveryError, match="does not know our AE title")
    with scp(lambda event: 0, require_calling_aet=["OTHER"]) as port, rejected as error:
        destination(port).send(results)
    assert not error.value.permanent


def test_an_abort_in_the_middle_is_tried_again(results: list[Path]) -> None:
    def answer(event: Event) -> int:
        event.assoc.abort()
        return 0

    with scp(answer) as port, pytest.raises(DeliveryError) as error:
        destination(port).send(results)
    assert not error.value.permanent


def test_a_server_that_never_answers_costs_no_more_than_the_timeout(results: list[Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(DeliveryError):
            destination(silent.getsockname()[1], timeout_seconds=1.0).send(results)
        assert time.monotonic() - start < 20


def test_a_server_that_stops_reading_costs_no_more_than_the_timeout(tmp_path: Path) -> None:
    """It accepts the association, and then neither reads nor answers: buffers fill up, and sending blocks."""
    large = clip(tmp_path / "large.dcm", frames=64, rows=512, columns=512)
    accepted: list[bytes] = []

    with scp(lambda event: 0, syntaxes=(ExplicitVRLittleEndian,)) as real, socket.socket() as middle:
        middle.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        middle.bind(("127.0.0.1", 0))
        middle.listen()

        def relay() -> None:
            connection, _ = middle.accept()
            with socket.create_connection(("127.0.0.1", real)) as behind:
                behind.sendall(connection.recv(65536))
                accepted.append(behind.recv(65536))
                connection.sendall(accepted[0])
                done.wait(60)
            connection.close()

        done = threading.Event()
        thread = threading.Thread(target=relay, daemon=True)
        thread.start()
        finished: list[BaseException] = []

        def send() -> None:
            try:
                destination(middle.getsockname()[1], timeout_seconds=1.0).send([large])
            except DeliveryError as error:
                finished.append(error)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        sender.join(20)
        stuck = sender.is_alive()
        done.set()
        thread.join(10)
    assert accepted[0][0] == 2, "the association was not accepted"
    assert not stuck and finished and not finished[0].permanent


def test_files_that_are_no_dicom_are_refused_before_anything_is_sent(tmp_path: Path, results: list[Path]) -> None:
    text = tmp_path / "text.dcm"
    text.write_text("no DICOM")
    with scp(lambda event: pytest.fail("sent")) as port:
        for path in (text, tmp_path / "missing.dcm"):
            with pytest.raises(RefusedDeliveryError) as error:
                destination(port).send([*results, path])
            assert error.value.path == path
        destination(port).send([])


def test_tls_to_whom_the_authority_knows_and_to_nobody_else(tmp_path: Path, results: list[Path]) -> None:
    ours, rogue = Authority(tmp_path, "ours"), Authority(tmp_path, "rogue")
    server, client = ours.issue("server"), ours.issue("client")
    elsewhere = ours.issue("elsewhere", address="10.0.0.1")
    trusted = Tls(client.certificate, client.key, ours.certificate)
    with scp(lambda event: 0, context=server_context(Tls(server.certificate, server.key, ours.certificate))) as port:
        destination(port, tls=trusted, timeout_seconds=3.0).send(results)
        for tls in (None, Tls(authority=ours.certificate), Tls(client.certificate, client.key, rogue.certificate)):
            with pytest.raises(DeliveryError):
                destination(port, tls=tls, timeout_seconds=2.0).send(results)
    context = server_context(Tls(elsewhere.certificate, elsewhere.key, ours.certificate))
    with scp(lambda event: 0, context=context) as port, pytest.raises(DeliveryError):
        destination(port, tls=trusted, timeout_seconds=3.0).send(results)


def folder_destination(folder: Path) -> FolderDestination:
    return FolderDestination(DestinationSettings("folder", "folder", folder=folder))


def test_a_folder_gets_each_result_once_under_its_uid(tmp_path: Path, results: list[Path]) -> None:
    to = folder_destination(tmp_path)
    for _ in range(2):
        to.send(results)
    to.close()
    assert {path.name for path in tmp_path.iterdir()} == {f"{uid_of(path)}.dcm" for path in results}
    for path in results:
        target = tmp_path / f"{uid_of(path)}.dcm"
        assert target.read_bytes() == path.read_bytes() and stat.S_IMODE(target.stat().st_mode) == 0o640


@pytest.mark.parametrize("there", ["other content", "link"])
def test_what_is_in_the_folder_stays_as_it_is(
    tmp_path: Path, results: list[Path], there: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.write_bytes(b"first")
    target = folder / f"{uid_of(results[0])}.dcm"
    if there == "link":
        target.symlink_to(outside)
    else:
        target.write_bytes(b"first")
    with caplog.at_level(logging.WARNING):
        folder_destination(folder).send(results[:1])
    assert target.read_bytes() == outside.read_bytes() == b"first" and "stays" in caplog.text


def test_a_folder_that_is_not_there_is_tried_again(tmp_path: Path, results: list[Path]) -> None:
    to = folder_destination(tmp_path / "not mounted")
    with pytest.raises(DeliveryError) as error:
        to.send(results)
    assert not error.value.permanent and not (tmp_path / "not mounted").exists()


@pytest.mark.filterwarnings("ignore:Invalid value")
@pytest.mark.parametrize("uid", ["../../escaped", "1.2/3", "", "1.02"])
def test_a_path_is_never_made_of_a_malformed_uid(tmp_path: Path, uid: str) -> None:
    folder, path = tmp_path / "folder", tmp_path / "bad.dcm"
    folder.mkdir()
    ds = dcmread(CINE, stop_before_pixels=True)
    ds.file_meta.MediaStorageSOPInstanceUID = uid
    ds.save_as(path, enforce_file_format=False)
    with pytest.raises(RefusedDeliveryError, match="malformed"):
        folder_destination(folder).send([path])
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bad.dcm", "folder"] and not list(folder.iterdir())
