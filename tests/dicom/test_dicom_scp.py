"""The Storage SCP: what it takes and from whom."""

from __future__ import annotations

import errno
import subprocess
import threading
from pathlib import Path
from typing import Any

import dcmtk
import numpy as np
import pytest
from dicom_factory import encapsulated, lossless_clip, save, ultrasound
from pydicom import config, dcmread
from pydicom.uid import (
    MPEG4HP41,
    DeflatedExplicitVRLittleEndian,
    JPEGLSLossless,
    SegmentationStorage,
    UltrasoundImageStorage,
)
from pynetdicom import AE
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification
from scp_client_case import DATA, STILL, SYNTAXES, associate, data_set, echoes, eventually, store
from scp_server import CALLED, CALLER, Running, scp_thread

from sonodistill.dicom.errors import NoRoomError, ServiceConfigError
from sonodistill.dicom.service.intake import Outcome
from sonodistill.dicom.service.scp import Callers
from sonodistill.dicom.service.spool import open_spool
from sonodistill.dicom.settings import Service

pytestmark = pytest.mark.usefixtures("own_configuration")


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
