"""Read the header of a DICOM image without its pixels, and refuse what cannot be decoded before any decoder sees it."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import config, dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import parse_basic_offsets, parse_fragments
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.bounds import check_size

_MAX_FRAMES = 1 << 20
_UNDEFINED_LENGTH = 0xFFFFFFFF
_MONOCHROME = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
# What MPEG2, H.264 and HEVC streams are labelled with; PyAV reads the real layout from the stream.
_VIDEO_COLOUR = ("YBR_PARTIAL_420", "YBR_PARTIAL_422", *_COLOUR)

_STANDARD_ROOT = "1.2.840.10008."
_REFUSED_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.6.2": "its frames are slices of a 3-D volume; export it as NRRD or NIfTI",
    "1.2.840.113543.6.6.1.3.10002": "Philips private 3-D; export it in Cartesian form from QLab",
    "1.2.840.10008.5.1.4.1.1.66.4": "it holds labels, not an ultrasound image",
    "1.2.840.10008.5.1.4.1.1.66.7": "it holds labels, not an ultrasound image",
}
_REFUSED_NAMES = {"1.2.840.113543.6.6.1.3.10002": "Philips private ultrasound volume"}

# Only these are read from the file: the image, its time and its scale. Patient attributes never enter memory.
_KEYWORDS = [
    *("SOPClassUID", "SOPInstanceUID", "Modality", "Manufacturer", "ManufacturerModelName"),
    *("SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelSpacing", "ImagerPixelSpacing"),
    *("WindowCenter", "WindowWidth", "RescaleSlope", "RescaleIntercept", "SequenceOfUltrasoundRegions"),
    *("FrameIncrementPointer", "FrameTime", "FrameTimeVector", "CineRate", "RecommendedDisplayFrameRate"),
    *(f"{c}PaletteColorLookupTable{part}" for c in ("Red", "Green", "Blue") for part in ("Data", "Descriptor")),
    *(f"Segmented{c}PaletteColorLookupTableData" for c in ("Red", "Green", "Blue")),
    *("ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
]


@dataclass(frozen=True, slots=True)
class Header:
    """A DICOM image header that passed the guard.

    Attributes:
        ds: the attributes of ``_KEYWORDS`` the file has.
        syntax: transfer syntax.
        frames, rows, columns, samples, bits_allocated, bits_stored: as the header states them; all checked.
        photometric: Photometric Interpretation.
        pixels_at: offset in the file of the pixel data's value.
        pixels_vr: value representation of the pixel data, None in implicit VR.
    """

    ds: Dataset
    syntax: UID
    frames: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    photometric: str
    pixels_at: int
    pixels_vr: str | None


def read_header(file: BinaryIO, path: Path, *, known: frozenset[str], videos: frozenset[str]) -> Header:
    """The header of the DICOM file open at its start, after every check that needs no decoding.

    Args:
        file: opened binary; left at no particular position.
        path: for the messages.
        known: transfer syntaxes that can be read.
        videos: those of them that hold one encapsulated video.

    Errors: UnreadableFileError when the file is no DICOM file, truncated, or contradicts itself; UnsupportedFormatError
        for transfer syntaxes, SOP classes and pixel formats that are not read.
    """
    syntax = _transfer_syntax(path)
    if syntax not in known:
        raise UnsupportedFormatError(
            f"transfer syntax {syntax.name if syntax.name != syntax else 'unknown'} ({syntax}) is not read",
            path=path,
            remedy="transcode it to Explicit VR Little Endian (dcmconv, gdcmconv)",
        )
    file.seek(0)
    # pydicom raises whatever malformed bytes provoke, RecursionError and MemoryError among it. Its messages and its
    # warnings quote values, which in a damaged file may be the patient's: the former are not repeated, the latter off.
    try:
        with config.disable_value_validation():
            ds = dcmread(file, stop_before_pixels=True, specific_tags=_KEYWORDS)
            # Elements are converted on access: do it here, where a malformed one is still a header error.
            for element in ds.iterall():
                _ = element.value
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise UnreadableFileError(f"the DICOM header is malformed ({type(error).__name__})", path=path) from None
    element_at = file.tell()
    _check_class(ds, path)
    header = _checked(ds, path, video=syntax in videos)
    pixels_at, pixels_vr, length = _locate_pixels(file, element_at, syntax, path)
    if syntax.is_encapsulated:
        _check_fragments(file, pixels_at, length, header, path, video=syntax in videos)
    else:
        _check_native(file, pixels_at, length, header, path)
    return Header(**header, ds=ds, syntax=syntax, pixels_at=pixels_at, pixels_vr=pixels_vr)


def _transfer_syntax(path: Path) -> UID:
    try:
        with config.disable_value_validation():
            syntax = UID(str(read_file_meta_info(path).get("TransferSyntaxUID") or ""))
    except InvalidDicomError as error:
        raise UnreadableFileError("not a DICOM file (it has no DICOM preamble)", path=path) from error
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        message = f"the DICOM file meta information is malformed ({type(error).__name__})"
        raise UnreadableFileError(message, path=path) from None
    if not syntax.is_valid:
        raise UnreadableFileError("the file meta information states no valid transfer syntax", path=path)
    return syntax


def _check_class(ds: Dataset, path: Path) -> None:
    uid = UID(str(ds.get("SOPClassUID") or ""), validation_mode=config.IGNORE)
    if uid and not uid.is_valid:
        raise UnreadableFileError("the SOP class UID is malformed", path=path)
    if uid in _REFUSED_CLASSES:
        name = _REFUSED_NAMES.get(uid, uid.name)
        raise UnsupportedFormatError(f"SOP class {name} ({uid}) is not read: {_REFUSED_CLASSES[uid]}", path=path)
    if uid and not uid.startswith(_STANDARD_ROOT):
        raise UnsupportedFormatError(
            f"the private SOP class {uid} is not read",
            path=path,
            remedy="export it as a standard ultrasound image or clip",
        )
    if "Rows" not in ds or "Columns" not in ds:
        raise UnsupportedFormatError(
            f"SOP class {uid.name or 'unknown'} holds no image (no Rows and Columns)", path=path
        )


def _checked(ds: Dataset, path: Path, *, video: bool) -> dict[str, Any]:
    """The numbers of the Image Pixel module (PS3.3 C.7.6.3), each within its sane range."""
    rows, columns = _integer(ds, "Rows", path), _integer(ds, "Columns", path)
    frames = _integer(ds, "NumberOfFrames", path, default=1)
    samples = _integer(ds, "SamplesPerPixel", path, default=1)
    allocated = _integer(ds, "BitsAllocated", path)
    stored = _integer(ds, "BitsStored", path, default=allocated)
    photometric = str(ds.get("PhotometricInterpretation", ""))[:16]
    check_size(rows, columns, path)
    if not 1 <= frames <= _MAX_FRAMES:
        raise UnreadableFileError(f"the header states {frames} frames", path=path)
    if allocated not in (8, 16) or not 1 <= stored <= allocated:
        raise UnsupportedFormatError(
            f"pixels of {stored} bits in {allocated} are not read",
            path=path,
            remedy="convert it to 8 or 16 bits a pixel",
        )
    allowed = _VIDEO_COLOUR if video else _COLOUR
    if photometric not in {1: _MONOCHROME, 3: allowed}.get(samples, ()):
        raise UnsupportedFormatError(
            f"photometric interpretation {photometric or 'missing'} with {samples} samples a pixel is not read",
            path=path,
        )
    if photometric == "PALETTE COLOR" and "RedPaletteColorLookupTableDescriptor" not in ds:
        raise UnreadableFileError("a PALETTE COLOR image without its lookup table cannot be shown", path=path)
    return {
        "frames": frames,
        "rows": rows,
        "columns": columns,
        "samples": samples,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "photometric": photometric,
    }


def _integer(ds: Dataset, keyword: str, path: Path, *, default: int | None = None) -> int:
    value = ds.get(keyword)
    if value is None or value == "":
        if default is None:
            raise UnreadableFileError(f"the header states no {keyword}", path=path)
        return default
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnreadableFileError(f"{keyword} is not a number", path=path) from error


def _locate_pixels(file: BinaryIO, element_at: int, syntax: UID, path: Path) -> tuple[int, str | None, int]:
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


def _check_native(file: BinaryIO, offset: int, length: int, header: dict[str, Any], path: Path) -> None:
    pixels = header["frames"] * header["rows"] * header["columns"]
    # PS3.3 C.7.6.3.1.2: uncompressed YBR_FULL_422 stores two pixels in four samples.
    samples = 2 if header["photometric"] == "YBR_FULL_422" else header["samples"]
    expected = pixels * samples * header["bits_allocated"] // 8
    held = min(length, _remaining(file, offset))
    if length == _UNDEFINED_LENGTH:
        raise UnreadableFileError("its pixel data are encapsulated, which its transfer syntax denies", path=path)
    if held < expected:
        raise UnreadableFileError(
            f"the file is truncated: the header promises {expected} bytes of pixels, the file holds {held}",
            path=path,
            remedy="fetch it again",
        )


def _check_fragments(
    file: BinaryIO, offset: int, length: int, header: dict[str, Any], path: Path, *, video: bool
) -> None:
    """Compare the number of frames with the offset table and the fragments, by walking over their item headers."""
    if length != _UNDEFINED_LENGTH:
        raise UnreadableFileError("its pixel data are not encapsulated, which its transfer syntax denies", path=path)
    file.seek(offset)
    try:
        offsets = parse_basic_offsets(file)
        fragments, starts = parse_fragments(file)
    except (ValueError, struct.error, OSError, MemoryError) as error:
        raise UnreadableFileError(f"the encapsulated pixel data are malformed: {_short(error)}", path=path) from error
    frames = header["frames"]
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


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:200]
