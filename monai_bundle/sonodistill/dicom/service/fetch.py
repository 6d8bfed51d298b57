"""One instance from a DICOMweb server into a file (WADO-RS, PS3.18 10.4): a clip in batches of frames, else whole."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import config, dcmwrite, uid
from pydicom.filereader import read_file_meta_info

from sonodistill.dicom.multipart import MultipartError, media_type, parts
from sonodistill.dicom.service.metadata import MetadataError, dataset_of
from sonodistill.dicom.web import Client, Response, WebError
from sonodistill.errors import SonoDistillError, UnreadableFileError
from sonodistill.frames.bounds import check_size
from sonodistill.frames.dicom import check_dicom

_JSON = "application/dicom+json"
_FRAMES = 'multipart/related; type="application/octet-stream"; transfer-syntax=*'
_WHOLE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
_MAX_METADATA = 16 << 20
_MAX_FRAMES = 1 << 17
_MAX_PIXELS = 1 << 33
_MAX_OFFSET = 0xFFFFFFFF
_ENVELOPE = 1 << 16
# Those with a fragment a frame; what is native or a video is fetched whole.
_BY_FRAMES = frozenset(
    {
        *(uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1, uid.RLELossless),
        *(uid.JPEGLSLossless, uid.JPEGLSNearLossless, uid.JPEG2000Lossless, uid.JPEG2000),
    }
)
_WHOLE_ONLY = frozenset(
    {
        *(uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
        *(f"1.2.840.10008.1.2.4.{number}{more}" for number in range(100, 109) for more in ("", ".1")),
    }
)


class RefusedInstanceError(SonoDistillError):
    """The instance is not one that is processed, whatever is tried: too large, or in a form that is not read."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an instance is: its UIDs, each checked to be one."""

    study: str
    series: str
    sop: str

    @property
    def url(self) -> str:
        return f"/studies/{self.study}/series/{self.series}/instances/{self.sop}"


class _UnsuitedError(Exception):
    """The frames cannot be had one by one, or not with all that belongs to them."""


def fetch(client: Client, place: Place, path: Path, *, batch: int, max_bytes: int) -> None:
    """Write the instance to ``path`` as a DICOM file, in the transfer syntax it is kept in.

    Its metadata come first, and are refused before any pixel is asked for. A clip that is kept compressed is then
    fetched ``batch`` frames at a time, each written as it arrives; its other attributes are those of the metadata, in
    Unicode. Where that is not possible, or would lose something, and for everything else, the file is fetched whole,
    as it is.

    Errors: RefusedInstanceError (too large, a form that is not read), WebError (no answer, or a broken one) and
        UnreadableFileError (what came is not what was asked for).
    """
    item = _metadata(client, place)
    frames, rows, columns = _checked_size(item)
    syntax = str(_first(item, "00083002") or "")
    if syntax and syntax not in _BY_FRAMES | _WHOLE_ONLY:
        raise RefusedInstanceError(f"transfer syntax {syntax[:64]} is not read")
    if frames > 1 and syntax not in _WHOLE_ONLY:
        try:
            with path.open("wb") as file:
                _by_frames(client, place, item, frames, file, batch, max_bytes)
        except (_UnsuitedError, MultipartError, MetadataError):
            _whole(client, place, path, max_bytes)
    else:
        _whole(client, place, path, max_bytes)
    _check(path, place, (frames, rows, columns))


def _metadata(client: Client, place: Place) -> dict[str, Any]:
    with client.get(f"{place.url}/metadata", accept=_JSON) as response:
        _expect_ok(response, "metadata")
        found = response.json(_MAX_METADATA)
    item = found[0] if isinstance(found, list) and len(found) == 1 else None
    if not isinstance(item, dict):
        raise WebError(f"{client.host} answered with no metadata")
    stated = (_first(item, "0020000D"), _first(item, "0020000E"), _first(item, "00080018"))
    if stated != (place.study, place.series, place.sop):
        raise WebError(f"{client.host} answered with the metadata of another instance")
    return item


def _checked_size(item: dict[str, Any]) -> tuple[int, int, int]:
    """(frames, rows, columns), within their bounds."""
    try:
        rows, columns = int(_first(item, "00280010")), int(_first(item, "00280011"))
        frames = int(_first(item, "00280008") or 1)
        check_size(rows, columns, Path())
    except (TypeError, ValueError, OverflowError, SonoDistillError):
        raise RefusedInstanceError("its metadata state no image size, or one that no scanner makes") from None
    if not 1 <= frames <= _MAX_FRAMES or rows * columns * frames > _MAX_PIXELS:
        raise RefusedInstanceError(f"its metadata state {frames} frames of {rows} x {columns}")
    return frames, rows, columns


def _by_frames(
    client: Client, place: Place, item: dict[str, Any], frames: int, file: BinaryIO, batch: int, max_bytes: int
) -> None:
    """Write the file of a compressed clip; the frames, of which one piece is in memory at a time, come in batches."""
    syntax, offsets, start = "", [], 0
    for first in range(1, frames + 1, batch):
        numbers = range(first, min(first + batch, frames + 1))
        with client.get(f"{place.url}/frames/{','.join(map(str, numbers))}", accept=_FRAMES) as response:
            if response.status != 200:
                raise _UnsuitedError
            kind, parameters = media_type(response.headers.get("Content-Type"))
            if kind != "multipart/related":
                raise _UnsuitedError
            count = 0
            for headers, body in parts(response.read, parameters.get("boundary", ""), max_parts=len(numbers)):
                stated = _stated_syntax(headers, parameters)
                if stated not in _BY_FRAMES or (syntax and stated != syntax) or not _is_frame(headers, numbers[count]):
                    raise _UnsuitedError
                if not syntax:
                    syntax = stated
                    dcmwrite(file, dataset_of(item, client, syntax), enforce_file_format=True)
                    file.write(struct.pack("<HH2sHL", 0x7FE0, 0x0010, b"OB", 0, _MAX_OFFSET))
                    file.write(struct.pack("<HHL", 0xFFFE, 0xE000, 4 * frames) + bytes(4 * frames))
                    start = file.tell()
                offsets.append(file.tell() - start)
                _write_frame(body, file, min(max_bytes, _MAX_OFFSET))
                count += 1
            if count != len(numbers):
                raise _UnsuitedError
    file.write(struct.pack("<HHL", 0xFFFE, 0xE0DD, 0))
    file.seek(start - 4 * frames)
    file.write(struct.pack(f"<{frames}L", *offsets))


def _stated_syntax(headers: dict[str, str], parameters: dict[str, str]) -> str:
    """The transfer syntax of a part: its own, or that of the answer's type parameter (Orthanc says both)."""
    own = media_type(headers.get("content-type"))[1].get("transfer-syntax")
    return own or media_type(parameters.get("type"))[1].get("transfer-syntax") or ""


def _is_frame(headers: dict[str, str], number: int) -> bool:
    """Whether a part is the frame that it should be, as far as it says."""
    named, _, frame = headers.get("content-location", "").rstrip("/").rpartition("/frames/")
    return not named or frame == str(number)


def _write_frame(body: Iterator[bytes], file: BinaryIO, max_bytes: int) -> None:
    at, size = file.tell(), 0
    file.write(struct.pack("<HHL", 0xFFFE, 0xE000, 0))
    for piece in body:
        size += len(piece)
        if at + size > max_bytes:
            raise RefusedInstanceError("it is larger than a file may be")
        file.write(piece)
    if not size:
        raise _UnsuitedError
    file.write(b"\0" * (size % 2))
    file.seek(at + 4)
    file.write(struct.pack("<L", size + size % 2))
    file.seek(0, 2)


def _whole(client: Client, place: Place, path: Path, max_bytes: int) -> None:
    with client.get(place.url, accept=_WHOLE) as response:
        _expect_ok(response, "the instance")
        kind, parameters = media_type(response.headers.get("Content-Type"))
        if kind != "multipart/related":
            raise WebError(f"{client.host} answered with {kind[:40]!r}, not multipart/related")
        if response.length > max_bytes + _ENVELOPE:
            raise RefusedInstanceError("it is larger than a file may be")
        size = count = 0
        with path.open("wb") as file:
            try:
                for _, body in parts(response.read, parameters.get("boundary", ""), max_parts=1):
                    count += 1
                    for piece in body:
                        size += len(piece)
                        if size > max_bytes:
                            raise RefusedInstanceError("it is larger than a file may be")
                        file.write(piece)
            except MultipartError as error:
                raise WebError(f"the answer of {client.host} cannot be taken apart: {error.message}") from None
    if not count:
        raise WebError(f"{client.host} answered without the instance")


def _check(path: Path, place: Place, size: tuple[int, int, int]) -> None:
    """That the file is the instance that was asked for, and whole."""
    try:
        with config.disable_value_validation():
            meta = read_file_meta_info(path)
            sop, syntax = str(meta.get("MediaStorageSOPInstanceUID")), str(meta.get("TransferSyntaxUID"))
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise UnreadableFileError(f"what came is no DICOM file ({type(error).__name__})") from None
    if sop != place.sop:
        raise UnreadableFileError("what came is another instance")
    if syntax not in _BY_FRAMES | _WHOLE_ONLY:
        raise RefusedInstanceError(f"transfer syntax {syntax[:64]} is not read")
    header = check_dicom(path)
    if (header.frames, header.rows, header.columns) != size or header.ds.get("SOPInstanceUID") != place.sop:
        raise UnreadableFileError("what came is not what its metadata say")


def _expect_ok(response: Response, what: str) -> None:
    if response.status != 200:
        raise WebError(f"asked for {what}, the server answered {response.status}")


def _first(item: dict[str, Any], tag: str) -> Any:
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
