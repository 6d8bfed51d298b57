"""Compare the pixel data that a DICOM file holds with what its header states, before any decoder sees them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.uid import UID

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.bounds import MAX_READS, BoundedFile

_UNDEFINED_LENGTH = 0xFFFFFFFF


def locate_pixels(file: BinaryIO, element_at: int, syntax: UID, path: Path) -> tuple[int, str | None, int]:
    """(offset of the value, value representation, stated length) of Pixel Data, an element at ``element_at``."""
    file.seek(element_at)
    order = "<" if syntax.is_little_endian else ">"
    size = 8 if syntax.is_implicit_VR else 12
    start = file.read(size)
    if len(start) < size or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
        raise UnreadableFileError(
            "the file has no pixel data; it is truncated, or holds no image", path=path, remedy="fetch it again"
        )
    length = struct.unpack(f"{order}L", start[-4:])[0]
    return element_at + size, None if syntax.is_implicit_VR else start[4:6].decode("latin-1"), length


def _remaining(file: BinaryIO, offset: int) -> int:
    return file.seek(0, 2) - offset


def check_native(file: BinaryIO, offset: int, length: int, header: dict[str, Any], path: Path) -> bool:
    """Compare the pixels' length with the header; whether they are in pairs, as ``Header.paired`` says."""
    frames, plane = header["frames"], header["rows"] * header["columns"] * header["bits_allocated"] // 8
    held = min(length, _remaining(file, offset))
    # PS3.3 C.7.6.3.1.2: uncompressed YBR_FULL_422 stores two pixels in four samples; some write three a pixel.
    paired = header["photometric"] == "YBR_FULL_422" and held not in (3 * frames * plane, 3 * frames * plane + 1)
    frame = plane * (2 if paired else header["samples"])
    expected = frames * frame
    if length == _UNDEFINED_LENGTH:
        raise UnreadableFileError("its pixel data are encapsulated, which its transfer syntax denies", path=path)
    if held < expected:
        raise UnreadableFileError(
            f"the file is truncated: the header promises {expected} bytes of pixels, the file holds {held}",
            path=path,
            remedy="fetch it again",
        )
    if held - expected % 2 >= expected + frame:
        raise UnreadableFileError(f"the header states {frames} frames, the file holds {held // frame}", path=path)
    if paired and (header["columns"] % 2 or header["bits_allocated"] != 8):
        raise UnsupportedFormatError("native YBR_FULL_422 needs an even number of columns, and 8 bits", path=path)
    return paired


def check_fragments(
    file: BinaryIO, offset: int, length: int, header: dict[str, Any], path: Path, *, video: bool, rle: bool
) -> None:
    """Compare the number of frames with the offset table and the fragments, by walking over their item headers."""
    if length != _UNDEFINED_LENGTH:
        raise UnreadableFileError("its pixel data are not encapsulated, which its transfer syntax denies", path=path)
    file.seek(offset)
    frames = header["frames"]
    bounded: Any = BoundedFile(file, 2 * frames + MAX_READS)
    try:
        offsets = parse_basic_offsets(bounded)
        fragments, starts = parse_fragments(bounded)
    except (ValueError, struct.error, OSError, MemoryError) as error:
        raise UnreadableFileError(f"the encapsulated pixel data are malformed: {_short(error)}", path=path) from error
    if bounded.exceeded:
        raise UnreadableFileError(f"its {frames} frames are in more than {fragments} fragments", path=path)
    if fragments < (1 if video else frames):
        raise UnreadableFileError(
            f"the file is truncated: the header promises {frames} frames, the file holds {fragments} fragments",
            path=path,
            remedy="fetch it again",
        )
    file.seek(starts[-1] + 4)
    last = int.from_bytes(file.read(4), "little")
    # CharLS, for one, looks for the end of a picture that has none for minutes.
    if (held := _remaining(file, starts[-1] + 8)) < last:
        raise UnreadableFileError(
            f"the file is truncated: its last fragment has {held} of {last} bytes", path=path, remedy="fetch it again"
        )
    if not video and offsets and len(offsets) != frames:
        raise UnreadableFileError(
            f"the header states {frames} frames, its offset table {len(offsets)}", path=path, remedy="fetch it again"
        )
    if not video and fragments > frames:
        pictures = fragments if rle else sum(_starts_picture(file, start) for start in starts)
        if pictures > frames:
            raise UnreadableFileError(f"the header states {frames} frames, the file holds {pictures}", path=path)


def _starts_picture(file: BinaryIO, fragment_at: int) -> bool:
    """Whether the fragment starts with the marker that starts a JPEG, JPEG-LS or JPEG 2000 stream, and nothing else."""
    file.seek(fragment_at + 8)
    return file.read(2) in (b"\xff\xd8", b"\xff\x4f")


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
