"""Read the header of a DICOM image without its pixels, and refuse what cannot be decoded before any decoder sees it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom import config, dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import UID, RLELossless

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.bounds import MAX_READS, BoundedFile, check_size
from sonodistill.frames.dicom_extent import check_fragments, check_native, locate_pixels

_MAX_FRAMES = 1 << 20
# Scanners write a handful of them.
_MAX_REGIONS_BYTES = 1 << 18
_META_GROUP = 2
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
        paired: whether the pixels are native YBR_FULL_422, two of them in four bytes (Y, Y, Cb, Cr).
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
    paired: bool


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
    syntax = _transfer_syntax(file, path)
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
            ds = dcmread(BoundedFile(file, MAX_READS), stop_before_pixels=True, specific_tags=_KEYWORDS)  # type: ignore[arg-type]
            _check_regions(ds, path)
            # Elements are converted on access: do it here, where a malformed one is still a header error.
            for element in ds.iterall():
                _ = element.value
    except UnreadableFileError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        raise UnreadableFileError(f"the DICOM header is malformed ({type(error).__name__})", path=path) from None
    element_at = file.tell()
    _check_class(ds, path)
    header = _checked(ds, path, video=syntax in videos)
    pixels_at, pixels_vr, length = locate_pixels(file, element_at, syntax, path)
    paired = False
    if syntax.is_encapsulated:
        check_fragments(file, pixels_at, length, header, path, video=syntax in videos, rle=syntax == RLELossless)
    else:
        paired = check_native(file, pixels_at, length, header, path)
    return Header(**header, ds=ds, syntax=syntax, pixels_at=pixels_at, pixels_vr=pixels_vr, paired=paired)


def _transfer_syntax(file: BinaryIO, path: Path) -> UID:
    """That of the file meta information alone: of a deflated file nothing else may be read."""
    bounded: Any = BoundedFile(file, MAX_READS)
    try:
        with config.disable_value_validation():
            read_preamble(bounded, False)
            meta = read_dataset(bounded, False, True, stop_when=lambda tag, *_: tag.group != _META_GROUP)
            syntax = UID(str(meta.get("TransferSyntaxUID") or ""))
    except InvalidDicomError as error:
        raise UnreadableFileError("not a DICOM file (it has no DICOM preamble)", path=path) from error
    except Exception as error:  # noqa: BLE001 - whatever malformed bytes provoke
        message = f"the DICOM file meta information is malformed ({type(error).__name__})"
        raise UnreadableFileError(message, path=path) from None
    if not syntax.is_valid:
        raise UnreadableFileError("the file meta information states no valid transfer syntax", path=path)
    return syntax


def _check_regions(ds: Dataset, path: Path) -> None:
    """Its items become objects, each of a hundred times its size and at the cost of as much time."""
    regions = ds.get_item("SequenceOfUltrasoundRegions")
    if isinstance(regions, RawDataElement) and len(regions.value or b"") > _MAX_REGIONS_BYTES:
        raise UnreadableFileError("the header states thousands of ultrasound regions", path=path)


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
    if stored < allocated and _integer(ds, "HighBit", path, default=stored - 1) != stored - 1:
        raise UnsupportedFormatError("pixels whose lowest bits are not used are not read", path=path)
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
