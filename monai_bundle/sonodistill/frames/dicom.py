"""DICOM stills and clips as frames, decoded one at a time by a decoder that is named for each transfer syntax."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import get_decoder
from pydicom.pixels.utils import as_pixel_options

from sonodistill.errors import SonoDistillError, UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.calibration import calibration_of
from sonodistill.frames.dicom_header import Header, read_header
from sonodistill.frames.dicom_pixels import Pixels, converter, jpeg_pixels, paired_pixels
from sonodistill.frames.encapsulated import encapsulated_stream, encoded_frames, frame_table
from sonodistill.frames.frame import Calibration, Frame, Provenance
from sonodistill.frames.regions import regions_of
from sonodistill.frames.selection import selected
from sonodistill.frames.video import decode_stream

# The pydicom plugin of each transfer syntax; "" needs none. Left to itself pydicom would take whatever is installed,
# gdcm first, whose crashes take the process along.
_PLUGINS = {
    uid.ImplicitVRLittleEndian: "",
    uid.ExplicitVRLittleEndian: "",
    uid.ExplicitVRBigEndian: "",
    uid.RLELossless: "pydicom",
    uid.JPEGLSLossless: "pyjpegls",
    uid.JPEGLSNearLossless: "pyjpegls",
    uid.JPEG2000Lossless: "pylibjpeg",
    uid.JPEG2000: "pylibjpeg",
    uid.JPEGExtended12Bit: "pylibjpeg",
    uid.JPEGLossless: "pylibjpeg",
    uid.JPEGLosslessSV1: "pylibjpeg",
}
# Decoded by Pillow alone, straight to luma; colours follow when they are asked for.
_JPEG = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit})
_VIDEOS = frozenset(f"1.2.840.10008.1.2.4.{number}" for name in range(100, 109) for number in (str(name), f"{name}.1"))
TRANSFER_SYNTAXES = frozenset(_PLUGINS) | _JPEG | _VIDEOS
"""UIDs of those that are read."""


def read_dicom(path: Path, *, only: Collection[int] | None = None) -> Iterator[Frame]:
    """Frames of an image or clip (PS3.3 C.7.6.3), lazily.

    Gray values: YBR gives its Y, RGB and PALETTE COLOR their luma, 8-bit MONOCHROME is kept. Deeper MONOCHROME is
    rescaled (slope, intercept) and windowed (Window Center and Width, C.11.2.1.2.1), or scaled by its full stored
    range where there is no window. MONOCHROME1 is inverted.

    Time follows Frame Increment Pointer to Frame Time or Frame Time Vector, else these where present, else Cine Rate,
    else Recommended Display Frame Rate; otherwise it is None.

    Frames that are not in ``only`` are neither read nor decoded, but for an encapsulated video's.

    Errors: UnreadableFileError, naming the frame where one is damaged (those before it have been yielded), and
        UnsupportedFormatError, both before any decoding where the header shows it.
    """
    with path.open("rb") as file:
        header = read_header(file, path, known=TRANSFER_SYNTAXES, videos=_VIDEOS)
        calibration, times, provenance = description(header, path)
        for index, (image, colour) in _named_errors(_decoded(file, header, path, only), only, header.frames, path):
            if image.shape != (header.rows, header.columns):
                raise UnreadableFileError(
                    f"frame {index + 1} is {image.shape[0]} x {image.shape[1]}, the header states "
                    f"{header.rows} x {header.columns}",
                    path=path,
                )
            yield Frame(image, index, None if times is None else times[index], calibration, provenance, colour)


def check_dicom(path: Path) -> Header:
    """The header of a DICOM image after every check that needs no decoding; no patient attribute is in it.

    Errors: UnreadableFileError, UnsupportedFormatError.
    """
    with path.open("rb") as file:
        return read_header(file, path, known=TRANSFER_SYNTAXES, videos=_VIDEOS)


def description(header: Header, path: Path) -> tuple[Calibration, list[float] | None, Provenance]:
    """What the header says of its frames: their scale, the time of each in milliseconds, and where they come from."""
    times, time_source = frame_times(header.ds, header.frames)
    provenance = Provenance(path, "dicom", header.frames, {**_details(header), "time_source": time_source})
    return calibration_of(header.ds), times, provenance


def frame_times(ds: Dataset, frames: int) -> tuple[list[float] | None, str | None]:
    """(milliseconds of each frame since the first, the attribute they come from); (None, None) when nothing says.

    Frame Time (0018,1063) is in ms; Frame Time Vector (0018,1065) holds the increments in ms, its first value being
    0; the rates are in frames per second (PS3.3 C.7.6.5).
    """
    pointer = ds.get("FrameIncrementPointer")
    pointer = pointer[0] if isinstance(pointer, MultiValue) and pointer else pointer
    pointed = "FrameTime" if pointer == 0x00181063 else "FrameTimeVector"
    for keyword in dict.fromkeys((pointed, "FrameTimeVector", "FrameTime")):
        value = ds.get(keyword)
        if keyword == "FrameTimeVector" and value is not None:
            steps = list(value) if isinstance(value, MultiValue) else [value]
            if len(steps) == frames and all(_positive(step) or step == 0 for step in steps):
                times = np.cumsum([float(step) for step in steps])
                return [float(time) for time in times - times[0]], keyword
        elif keyword == "FrameTime" and value is not None and _positive(value):
            return [index * float(value) for index in range(frames)], keyword
    for keyword in ("CineRate", "RecommendedDisplayFrameRate"):
        rate = ds.get(keyword)
        if rate is not None and _positive(rate):
            return [1000.0 * index / float(rate) for index in range(frames)], keyword
    return None, None


def _positive(value: Any) -> bool:
    try:
        return math.isfinite(float(value)) and float(value) > 0
    except (TypeError, ValueError, OverflowError):
        return False


def _details(header: Header) -> dict[str, Any]:
    ds = header.ds

    def text(keyword: str) -> str | None:
        # LO and UI hold 64 characters; what is longer is a damaged length, and might run into other attributes.
        value = str(ds.get(keyword) or "")
        return value if 0 < len(value) <= 64 else None

    regions = regions_of(ds, header.rows, header.columns)
    return {
        "sop_instance_uid": text("SOPInstanceUID"),
        "sop_class_uid": text("SOPClassUID"),
        "transfer_syntax": str(header.syntax),
        "photometric": header.photometric,
        "modality": text("Modality"),
        "manufacturer": text("Manufacturer"),
        "manufacturer_model": text("ManufacturerModelName"),
        **({} if regions is None else {"regions": regions}),
    }


def _decoded(file: BinaryIO, header: Header, path: Path, only: Collection[int] | None) -> Iterator[Pixels]:
    """The frames of ``only`` that the header says there are; the file is read as far as the frames asked for."""
    indices = None if only is None else sorted({int(index) for index in only if 0 <= index < header.frames})
    file.seek(header.pixels_at)
    if header.syntax in _VIDEOS:
        return ((seen.image, seen.colour) for seen in decode_stream(encapsulated_stream(file), path, indices))
    if header.syntax in _JPEG and header.bits_stored == 8:
        table = frame_table(file, header.frames, header.ds)
        file.seek(header.pixels_at)
        return (jpeg_pixels(data, header) for data in encoded_frames(file, header.frames, table, indices))
    if header.paired and header.syntax.is_little_endian:
        return _native_pairs(file, header, indices)
    return _decoded_by_pydicom(file, header, path, indices)


def _native_pairs(file: BinaryIO, header: Header, indices: list[int] | None) -> Iterator[Pixels]:
    """Native YBR_FULL_422, of whose frames pydicom reads the first alone."""
    size = 2 * header.rows * header.columns
    for index in range(header.frames) if indices is None else indices:
        file.seek(header.pixels_at + index * size)
        yield paired_pixels(file.read(size), header)


def _decoded_by_pydicom(file: BinaryIO, header: Header, path: Path, indices: list[int] | None) -> Iterator[Pixels]:
    plugin = _PLUGINS[header.syntax]
    decoder = get_decoder(header.syntax)
    if plugin and plugin not in decoder.available_plugins:
        package = "pylibjpeg-libjpeg" if "JPEG" in header.syntax.name and plugin == "pylibjpeg" else plugin
        package = "pylibjpeg-openjpeg" if "2000" in header.syntax.name else package
        raise UnsupportedFormatError(
            f"{header.syntax.name} ({header.syntax}) needs a decoder that is not installed",
            path=path,
            remedy=f"pip install {package}",
        )
    options = as_pixel_options(
        header.ds,
        transfer_syntax_uid=header.syntax,
        pixel_keyword="PixelData",
        number_of_frames=header.frames,
        samples_per_pixel=header.samples,
        bits_stored=header.bits_stored,
        allow_excess_frames=False,
    )
    if header.photometric == "YBR_FULL_422" and not header.syntax.is_encapsulated and not header.paired:
        options["photometric_interpretation"] = "YBR_FULL"  # that is how it is written
    if header.pixels_vr is not None:
        options["pixel_vr"] = header.pixels_vr
    if header.syntax.is_encapsulated:
        options["extended_offsets"] = frame_table(file, header.frames, header.ds)
        file.seek(header.pixels_at)
    convert = converter(header)
    # pydicom takes an empty list for all frames.
    if indices == []:
        return
    for values, properties in decoder.iter_array(file, indices=indices, raw=True, decoding_plugin=plugin, **options):
        yield convert(values, str(properties["photometric_interpretation"]))


def _named_errors(
    frames: Iterator[Pixels], only: Collection[int] | None, count: int, path: Path
) -> Iterator[tuple[int, Pixels]]:
    """The frames asked for, numbered; whatever a decoder throws becomes an UnreadableFileError that names the frame."""
    for index in selected(only, count, path):
        try:
            pixels = next(frames)
        except SonoDistillError:
            raise
        except StopIteration:
            raise UnreadableFileError(
                f"frame {index + 1} of {count} is missing", path=path, remedy="fetch the file again"
            ) from None
        except (KeyboardInterrupt, SystemExit):
            raise
        # Native decoders raise what they like on damaged data: MemoryError, RecursionError, and pyo3's PanicException,
        # which derives from BaseException.
        except BaseException as error:
            raise UnreadableFileError(
                f"frame {index + 1} of {count} cannot be decoded ({type(error).__name__}: {error})"[:300],
                path=path,
                remedy="fetch the file again",
            ) from error
        yield index, pixels
    # A video says only at its end how many frames it has.
    if only is None and _is_left(frames):
        raise UnreadableFileError(f"the header states {count} frames, the file holds more", path=path)


def _is_left(frames: Iterator[Pixels]) -> bool:
    """Whether there is another frame, be it one that cannot be decoded."""
    try:
        next(frames)
    except StopIteration:
        return False
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - as above
        return True
    return True
