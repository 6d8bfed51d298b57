"""Pulling by DICOMweb: what a real Orthanc keeps is what arrives, once; what another server sends is looked at."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import encapsulated, jpeg, ultrasound
from orthanc import free_ports, orthanc
from pydicom import Dataset, dcmread
from pydicom.encaps import generate_frames
from pydicom.uid import PYDICOM_IMPLEMENTATION_UID, JPEGBaseline8Bit, JPEGLosslessSV1, generate_uid
from web_case import Handler, as_bytes, left_over, lying, renewed, small_spool, spooled, url_of, write

from sonodistill.dicom.errors import ServiceConfigError
from sonodistill.dicom.service.pull import pull
from sonodistill.dicom.service.spool import Spool
from sonodistill.dicom.settings import Pull
from sonodistill.frames.read import read

OPEN = {"AuthenticationEnabled": False}


def settings(url: str, **more: object) -> Pull:
    return Pull(
        **{"url": url, "query": {"ModalitiesInStudy": "US", "StudyDate": "19000101-"}, "poll_seconds": 0.1, **more}
    )


class Running:
    """A pull in a thread, until the end of the block."""

    def __init__(
        self, chosen: Pull, spool: Spool, known: Callable[[str], bool] = lambda uid: False, **more: int
    ) -> None:
        self.stop = threading.Event()
        self.thread = threading.Thread(target=pull, args=(chosen, spool, self.stop, known), kwargs=more, daemon=True)

    def __enter__(self) -> Running:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()


def until(holds: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def uid_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def assert_same(found: Path, original: Path) -> None:
    """The same attributes, the same encoded frames, the same images."""
    ours, theirs = dcmread(found), dcmread(original)
    assert ours.file_meta.TransferSyntaxUID == theirs.file_meta.TransferSyntaxUID
    encoded = ours.PixelData, theirs.PixelData
    if ours.file_meta.TransferSyntaxUID.is_compressed:
        frames = int(theirs.get("NumberOfFrames") or 1)
        encoded = tuple(list(generate_frames(data, number_of_frames=frames)) for data in encoded)
    assert encoded[0] == encoded[1]
    for ds in (ours, theirs):
        for keyword in ("PixelData", "DataSetTrailingPadding"):
            if keyword in ds:
                del ds[keyword]
        # Orthanc's metadata leave these two out where they are empty, or hold an empty item.
        for element in list(ds):
            if element.is_empty or element.keyword == "PerformedProtocolCodeSequence":
                del ds[element.tag]
    assert ours == theirs
    if ours.file_meta.TransferSyntaxUID == JPEGLosslessSV1:
        return  # its decoder is no dependency
    images = [list(read(path)) for path in (found, original)]
    assert len(images[0]) == len(images[1])
    for one, other in zip(*images, strict=True):
        assert np.array_equal(one.image, other.image)
        assert one.calibration == other.calibration and one.time_ms == other.time_ms


KINDS = {
    "JPEG baseline, 30 frames": "ybr_color",
    "JPEG lossless, 1 frame": "JPGLosslessP14SV1_1s_1f_8b",
    "RLE with a palette, 2 frames": "OBXXXX1A_rle_2frame",
    "RLE with a palette, 1 frame": "OBXXXX1A_rle",
    "native with a palette, 2 frames": "OBXXXX1A_2frame",
    "native big-endian, 2 frames": "OBXXXX1A_expb_2frame",
    "native with a palette": "palette_color",
    "native": "rgb_color",
    "JPEG 2000": "jpeg2k",
    "native implicit VR, 16-bit palette": "gdcm-US-ALOKA-16",
}


def test_everything_that_orthanc_keeps_arrives_as_it_is_and_once(tmp_path: Path) -> None:
    originals = {}
    spool = small_spool(tmp_path)
    with orthanc(tmp_path, settings=OPEN) as pacs:
        for number, name in enumerate(KINDS.values()):
            path = write(renewed(name, StudyDate="20240101"), tmp_path / f"{number}.dcm")
            pacs.upload(path)
            originals[uid_of(path)] = path
        with Running(settings(pacs.web, frames_per_request=7), spool):
            until(lambda: len(spooled(tmp_path)) == len(originals))
        fetched = spooled(tmp_path)
        assert {uid_of(path) for path in fetched} == set(originals)
        by_frames = 0
        for path in fetched:
            assert_same(path, originals[uid_of(path)])
            meta = dcmread(path, stop_before_pixels=True).file_meta
            by_frames += meta.ImplementationClassUID == PYDICOM_IMPLEMENTATION_UID
            if meta.ImplementationClassUID != PYDICOM_IMPLEMENTATION_UID:
                assert path.read_bytes() == originals[uid_of(path)].read_bytes()
        assert by_frames == 2  # the compressed clips
        # A second one, which remembers nothing, takes nothing twice: known says so.
        seen: set[str] = set()

        def known(uid: str) -> bool:
            seen.add(uid)
            return uid in originals

        with Running(settings(pacs.web), spool, known):
            until(lambda: seen == set(originals))
    assert spooled(tmp_path) == fetched
    assert left_over(tmp_path) == []


def test_text_beyond_ascii_is_the_same_text(tmp_path: Path) -> None:
    ds = renewed("ybr_color", StudyDate="20240101", PatientName="Müller^Jörg", StudyDescription="Schilddrüse")
    assert ds.SpecificCharacterSet == "ISO_IR 100"
    with orthanc(tmp_path, settings=OPEN) as pacs:
        pacs.upload(write(ds, tmp_path / "a.dcm"))
        with Running(settings(pacs.web), small_spool(tmp_path)):
            until(lambda: spooled(tmp_path))
    found = dcmread(spooled(tmp_path)[0])
    assert (str(found.PatientName), found.StudyDescription) == ("Müller^Jörg", "Schilddrüse")


def test_what_is_no_ultrasound_or_not_of_these_days_is_left(tmp_path: Path) -> None:
    today = time.strftime("%Y%m%d")
    old = renewed("rgb_color", StudyDate="20200101")
    ct = renewed("rgb_color", StudyDate=today, SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    ct.file_meta.MediaStorageSOPClassUID = ct.SOPClassUID
    new = renewed("rgb_color", StudyDate=today)
    with orthanc(tmp_path, settings=OPEN) as pacs:
        for number, ds in enumerate((old, ct, new)):
            pacs.upload(write(ds, tmp_path / f"{number}.dcm"))
        with Running(settings(pacs.web, query={"ModalitiesInStudy": "US"}), small_spool(tmp_path)):
            until(lambda: spooled(tmp_path))
            time.sleep(0.5)
    assert [uid_of(path) for path in spooled(tmp_path)] == [new.SOPInstanceUID]


class Pacs:
    """A DICOMweb server for one clip, of which each answer can be replaced.

    Attributes:
        replaced: by the last part of the path ("instances", "metadata", "frames", "whole"): answers it instead.
        counts: how often each was asked for.
    """

    def __init__(self, ds: Dataset) -> None:
        self.ds, self.data = ds, as_bytes(ds)
        self.replaced: dict[str, Callable[[Handler], None]] = {}
        self.counts: dict[str, int] = {}
        kept = Dataset()
        kept.update({element.tag: element for element in ds if element.keyword != "PixelData"})
        self.item = kept.to_json_dict()

    def __call__(self, handler: Handler) -> None:
        path, _, query = handler.path.partition("?")
        last = path.split("/")[-1]
        kind = (
            "frames"
            if "/frames/" in path
            else last
            if last in ("studies", "series", "instances", "metadata")
            else "whole"
        )
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind in self.replaced:
            self.replaced[kind](handler)
        else:
            getattr(self, kind)(handler, "offset=0" not in query, last)

    def studies(self, handler: Handler, past: bool, last: str) -> None:
        handler.reply(200, b"[]" if past else json.dumps([self.listing("0020000D")]).encode())

    def series(self, handler: Handler, past: bool, last: str) -> None:
        handler.reply(200, b"[]" if past else json.dumps([self.listing("0020000E")]).encode())

    def instances(self, handler: Handler, past: bool, last: str) -> None:
        handler.reply(200, b"[]" if past else json.dumps([self.listing("00080016", "00080018")]).encode())

    def metadata(self, handler: Handler, past: bool, last: str) -> None:
        handler.reply(200, json.dumps([self.item]).encode())

    def listing(self, *tags: str) -> dict:
        return {tag: self.item[tag] for tag in tags}

    def whole(self, handler: Handler, past: bool, last: str) -> None:
        self.multipart(handler, [self.data], "application/dicom")

    def frames(self, handler: Handler, past: bool, last: str) -> None:
        encoded = list(generate_frames(self.ds.PixelData, number_of_frames=int(self.ds.NumberOfFrames)))
        chosen = [encoded[int(number) - 1] for number in last.split(",")]
        self.multipart(handler, chosen, f"image/jpeg; transfer-syntax={self.ds.file_meta.TransferSyntaxUID}")

    @staticmethod
    def multipart(handler: Handler, bodies: list[bytes], kind: str, **headers: str) -> None:
        body = b"".join(b"\r\n--edge\r\nContent-Type: " + kind.encode() + b"\r\n\r\n" + each for each in bodies)
        handler.reply(200, body + b"\r\n--edge--\r\n", 'multipart/related; boundary="edge"', **headers)


def synthetic(frames: int = 5) -> Dataset:
    images = np.random.default_rng(0).integers(0, 255, (frames, 32, 48), np.uint8)
    ds = ultrasound(images, StudyInstanceUID=generate_uid(), SeriesInstanceUID=generate_uid())
    return encapsulated(ds, JPEGBaseline8Bit, [jpeg(image) for image in images])


def test_frames_come_in_batches_and_equal_the_original(tmp_path: Path) -> None:
    pacs = Pacs(synthetic())
    with lying(pacs) as server, Running(settings(url_of(server), frames_per_request=2), small_spool(tmp_path)):
        until(lambda: spooled(tmp_path))
    assert pacs.counts["frames"] == 3 and "whole" not in pacs.counts
    assert_same(spooled(tmp_path)[0], write(pacs.ds, tmp_path / "original.dcm"))


def too_few(pacs: Pacs) -> Callable[[Handler], None]:
    frame = next(generate_frames(pacs.ds.PixelData, number_of_frames=5))
    return lambda handler: pacs.multipart(handler, [frame], "image/jpeg; transfer-syntax=1.2.840.10008.1.2.4.50")


def native(pacs: Pacs) -> Callable[[Handler], None]:
    return lambda handler: pacs.multipart(
        handler, [b"\0" * 1536] * 5, "application/octet-stream; transfer-syntax=1.2.840.10008.1.2.1"
    )


@pytest.mark.parametrize("behave", [too_few, native, lambda pacs: lambda handler: handler.reply(406, b"")])
def test_a_clip_whose_frames_cannot_be_had_is_fetched_whole(tmp_path: Path, behave: Callable) -> None:
    pacs = Pacs(synthetic())
    pacs.replaced["frames"] = behave(pacs)
    with lying(pacs) as server, Running(settings(url_of(server)), small_spool(tmp_path)):
        until(lambda: spooled(tmp_path))
    assert spooled(tmp_path)[0].read_bytes() == pacs.data


def test_bulk_data_of_another_server_are_not_asked_for(tmp_path: Path) -> None:
    pacs = Pacs(synthetic())
    with lying(lambda handler: handler.reply(200, b"")) as elsewhere, lying(pacs) as server:
        pacs.item["00189999"] = {"vr": "OB", "BulkDataURI": f"{url_of(elsewhere)}/secret"}
        with Running(settings(url_of(server)), small_spool(tmp_path)):
            until(lambda: spooled(tmp_path))
        assert elsewhere.paths == []
    assert spooled(tmp_path)[0].read_bytes() == pacs.data


def change(tag: str, value: object) -> Callable[[Pacs], None]:
    return lambda pacs: pacs.item[tag].update(Value=[value])


REFUSED = {
    "rows": change("00280010", 65535),
    "frames": change("00280008", 10**9),
    "negative": change("00280008", -5),
    "no number": change("00280010", "many"),
    "syntax": lambda pacs: pacs.item.update({"00083002": {"vr": "UI", "Value": ["1.2.840.10008.1.2.1.99"]}}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_metadata_rule_out_costs_no_pixel(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    pacs = Pacs(synthetic())
    REFUSED[name](pacs)
    with lying(pacs) as server, Running(settings(url_of(server)), small_spool(tmp_path)):
        until(lambda: pacs.counts.get("instances", 0) >= 3)
    assert "refused" in caplog.text and pacs.counts["metadata"] == 1
    assert "frames" not in pacs.counts and "whole" not in pacs.counts
    assert spooled(tmp_path) == []


def cut_short(handler: Handler) -> None:
    handler.reply(200, b"--edge\r\n\r\nabc", 'multipart/related; boundary="edge"', Content_Length="100000")


def endless(handler: Handler) -> None:
    handler.reply(200, b"--edge\r\n\r\n", 'multipart/related; boundary="edge"', Content_Length=str(10 << 30))
    with pytest.raises(OSError):
        for _ in range(10 << 4):
            handler.wfile.write(bytes(1 << 20))


def endless_without_saying(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", 'multipart/related; boundary="edge"')
    handler.end_headers()
    handler.wfile.write(b"--edge\r\n\r\n")
    with pytest.raises(OSError):
        for _ in range(10 << 4):
            handler.wfile.write(bytes(1 << 20))


def other_instance(handler: Handler) -> None:
    Pacs.multipart(handler, [as_bytes(renewed("rgb_color"))], "application/dicom")


def garbage(handler: Handler) -> None:
    Pacs.multipart(handler, [b"Secret^Name" * 1000], "application/dicom")


def two_parts(handler: Handler) -> None:
    Pacs.multipart(handler, [b"a", b"b"], "application/dicom")


@pytest.mark.parametrize("behave", [cut_short, endless, endless_without_saying, other_instance, garbage, two_parts])
def test_what_is_not_the_instance_is_skipped_and_tried_again(
    tmp_path: Path, behave: Callable[[Handler], None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    pacs = Pacs(synthetic())
    pacs.replaced = {"frames": lambda handler: handler.reply(400, b""), "whole": behave}
    with (
        lying(pacs) as server,
        Running(settings(url_of(server), poll_seconds=0.05), small_spool(tmp_path), max_bytes=64 << 20),
    ):
        until(lambda: "later" in caplog.text or "refused" in caplog.text)
        assert spooled(tmp_path) == []
        if behave not in (endless, endless_without_saying):  # too large is so for good
            until(lambda: pacs.counts["whole"] > 1)
            del pacs.replaced["whole"]
            until(lambda: spooled(tmp_path))
    assert left_over(tmp_path) == []
    for secret in ("Secret", "SECRET-ID", str(pacs.ds.SOPInstanceUID), str(pacs.ds.StudyInstanceUID)):
        assert secret not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"{}",
        b"[[[[]]]]",
        b"[" * 50_000,
        b'[{"0020000D": {"Value": ["../../etc"]}}]',
        b"[null, 3]",
        b"\xff\xfe",
    ],
)
def test_a_search_that_answers_nonsense_changes_nothing(tmp_path: Path, body: bytes) -> None:
    pacs = Pacs(synthetic())
    pacs.replaced["studies"] = lambda handler: handler.reply(200, body)
    with lying(pacs) as server, Running(settings(url_of(server)), small_spool(tmp_path)):
        until(lambda: pacs.counts.get("studies", 0) >= 2)
        assert all(path.startswith("/studies?") for path in server.paths)
        del pacs.replaced["studies"]
        until(lambda: spooled(tmp_path))


def test_a_server_that_gives_every_page_again_is_left_alone(tmp_path: Path) -> None:
    pacs = Pacs(synthetic())
    page = json.dumps([{"0020000D": {"vr": "UI", "Value": [f"1.2.{number}"]}} for number in range(100)]).encode()
    pacs.replaced["studies"] = lambda handler: handler.reply(200, page)
    pacs.replaced["series"] = lambda handler: handler.reply(200, b"[]")
    with lying(pacs) as server, Running(settings(url_of(server), poll_seconds=600.0), small_spool(tmp_path)):
        until(lambda: pacs.counts.get("series", 0) == 100)
    assert pacs.counts["studies"] == 2


def test_a_server_that_is_down_is_asked_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (port,) = free_ports(1)
    pacs = Pacs(synthetic())
    with Running(settings(f"http://127.0.0.1:{port}"), small_spool(tmp_path)):
        until(lambda: "no answer" in caplog.text)
        with lying(pacs, port):
            until(lambda: spooled(tmp_path))


@pytest.mark.parametrize("where", ["studies", "metadata", "frames"])
def test_a_stop_is_heeded_while_the_server_is_silent(tmp_path: Path, where: str) -> None:
    pacs = Pacs(synthetic())
    asked, released = threading.Event(), threading.Event()

    def silent(handler: Handler) -> None:
        asked.set()
        released.wait(20)

    pacs.replaced[where] = silent
    with lying(pacs) as server:
        running = Running(settings(url_of(server)), small_spool(tmp_path))
        running.thread.start()
        assert asked.wait(10)
        running.stop.set()
        running.thread.join(2.0)
        ended = not running.thread.is_alive()
        released.set()
    assert ended and left_over(tmp_path) == []


def test_without_room_nothing_is_fetched(tmp_path: Path) -> None:
    pacs = Pacs(synthetic())
    with lying(pacs) as server, Running(settings(url_of(server)), small_spool(tmp_path, reserve_gb=1e9)):
        until(lambda: pacs.counts.get("instances", 0) >= 2)
    assert "metadata" not in pacs.counts


def test_a_token_is_sent_over_https_or_to_loopback(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t0ken")
    with pytest.raises(ServiceConfigError, match="https"):
        pull(settings("http://pacs.example/web", token_file=token), small_spool(tmp_path), threading.Event(), bool)
    pacs, seen = Pacs(synthetic()), []

    def check(handler: Handler) -> None:
        seen.append(handler.headers["Authorization"])
        pacs(handler)

    with lying(check) as server, Running(settings(url_of(server), token_file=token), small_spool(tmp_path)):
        until(lambda: spooled(tmp_path))
    assert set(seen) == {"Bearer t0ken"}
