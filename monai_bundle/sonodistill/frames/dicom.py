"""DICOM stills and clips as frames, decoded one at a time by a decoder that is named for each transfer syntax."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, get_decoder
from pydicom.pixels.utils import as_pixel_options

from sonodistill.errors import SonoDistillError, UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.calibration import calibration_of
from sonodistill.frames.dicom_header import Header, read_header
from sonodistill.frames.encapsulated import encapsulated_stream
from sonodistill.frames.frame import Frame, Provenance
from sonodistill.frames.gray import linear, luma
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
# Decoded by Pillow alone, straight to luma.
_JPEG = frozenset({uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit})
_VIDEOS = frozenset(f"1.2.840.10008.1.2.4.{number}" for name in range(100, 109) for number in (str(name), f"{name}.1"))
_KNOWN = frozenset(_PLUGINS) | _JPEG | _VIDEOS
_RGB_IDS = ([82, 71, 66], [114, 103, 98])


def read_dicom(path: Path) -> Iterator[Frame]:
    """Frames of an image or clip (PS3.3 C.7.6.3), lazily.

    Gray values: YBR gives its Y, RGB and PALETTE COLOR their luma, 8-bit MONOCHROME is kept. Deeper MONOCHROME is
    rescaled (slope, intercept) and windowed (Window Center and Width, C.11.2.1.2.1), or scaled by its full stored
    range where there is no window. MONOCHROME1 is inverted.

    Time follows Frame Increment Pointer to Frame Time or Frame Time Vector, else these where present, else Cine Rate,
    else Recommended Display Frame Rate; otherwise it is None.

    Errors: UnreadableFileError, naming the frame where one is damaged (those before it have been yielded), and
        UnsupportedFormatError, both before any decoding where the header shows it.
    """
    with path.open("rb") as file:
        header = read_header(file, path, known=_KNOWN, videos=_VIDEOS)
        calibration = calibration_of(header.ds)
        times, time_source = frame_times(header.ds, header.frames)
        provenance = Provenance(path, "dicom", header.frames, {**_details(header), "time_source": time_source})
        for index, image in enumerate(_named_errors(_gray_frames(file, header, path), header.frames, path)):
            if image.shape != (header.rows, header.columns):
                raise UnreadableFileError(
                    f"frame {index + 1} is {image.shape[0]} x {image.shape[1]}, the header states "
                    f"{header.rows} x {header.columns}",
                    path=path,
                )
            yield Frame(image, index, None if times is None else times[index], calibration, provenance)


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
    except (TypeError, ValueError):
        return False


def _details(header: Header) -> dict[str, Any]:
    ds = header.ds

    def text(keyword: str) -> str | None:
        # LO and UI hold 64 characters; what is longer is a damaged length, and might run into other attributes.
        value = str(ds.get(keyword) or "")
        return value if 0 < len(value) <= 64 else None

    return {
        "sop_instance_uid": text("SOPInstanceUID"),
        "sop_class_uid": text("SOPClassUID"),
        "transfer_syntax": str(header.syntax),
        "photometric": header.photometric,
        "modality": text("Modality"),
        "manufacturer": text("Manufacturer"),
        "manufacturer_model": text("ManufacturerModelName"),
    }


def _gray_frames(file: BinaryIO, header: Header, path: Path) -> Iterator[NDArray[np.uint8]]:
    """(H, W) uint8 of each frame; the file is read as far as the frames asked for."""
    file.seek(header.pixels_at)
    if header.syntax in _VIDEOS:
        return decode_stream(encapsulated_stream(file), path)
    if header.syntax in _JPEG and header.bits_stored == 8:
        offsets = (header.ds.get("ExtendedOffsetTable"), header.ds.get("ExtendedOffsetTableLengths"))
        encoded = generate_frames(
            file,
            number_of_frames=header.frames,
            extended_offsets=offsets if offsets[0] and offsets[1] else None,
        )
        return (_jpeg_luma(data, header) for data in encoded)
    return _decoded_by_pydicom(file, header, path)


def _jpeg_luma(data: bytes, header: Header) -> NDArray[np.uint8]:
    """Luma of a JPEG frame: where it stores YCbCr only the Y is decoded, four times as fast as RGB."""
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    if image.size != (header.columns, header.rows):
        raise ValueError(
            f"its JPEG is {image.size[1]} x {image.size[0]}, the header states {header.rows} x {header.columns}"
        )
    if image.mode == "L":
        gray = np.array(image)
        return 255 - gray if header.photometric == "MONOCHROME1" else gray
    marked = "jfif" in image.info or "adobe_transform" in image.info
    rgb_ids = [component[0] for component in image.layer] in _RGB_IDS  # type: ignore[attr-defined]
    if header.photometric == "RGB" and not marked and not rgb_ids:
        # Nothing in the stream says how its components were made; Pillow would guess YCbCr, the header says RGB.
        # Drafting YCbCr hands the components out as they are.
        image.draft("YCbCr", image.size)
        return luma(np.asarray(image))
    image.draft("L", image.size)
    return np.array(image.convert("L"))


def _decoded_by_pydicom(file: BinaryIO, header: Header, path: Path) -> Iterator[NDArray[np.uint8]]:
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
    if header.pixels_vr is not None:
        options["pixel_vr"] = header.pixels_vr
    to_gray = _one_sample(header) if header.samples == 1 else None
    for values, properties in decoder.iter_array(file, raw=True, decoding_plugin=plugin, **options):
        if to_gray is not None:
            yield to_gray(values)
        else:
            yield _three_samples(values, str(properties["photometric_interpretation"]), header.bits_stored)


def _three_samples(values: NDArray, photometric: str, bits_stored: int) -> NDArray[np.uint8]:
    """(H, W, 3) as decoded to luma; deeper than 8 bits loses its lowest bits."""
    if bits_stored > 8:
        values = values >> (bits_stored - 8)
    if photometric.startswith("YBR_FULL"):
        return np.ascontiguousarray(values[..., 0]).astype(np.uint8)
    if photometric != "RGB":
        raise ValueError(f"the decoder left it in {photometric}")
    return luma(values.astype(np.uint8))


def _one_sample(header: Header) -> Callable[[NDArray], NDArray[np.uint8]]:
    """The gray value of each stored value, as a function of (H, W) arrays."""
    ds = header.ds
    if header.photometric == "PALETTE COLOR":
        table = _palette_luma(ds, header.bits_allocated, little_endian=header.syntax.is_little_endian)
        return lambda values: table[values]
    signed = ds.get("PixelRepresentation") == 1
    invert = header.photometric == "MONOCHROME1"
    if header.bits_stored == 8 and not signed:
        return lambda values: 255 - values.astype(np.uint8) if invert else values.astype(np.uint8)
    slope, intercept = _first(ds, "RescaleSlope", 1.0), _first(ds, "RescaleIntercept", 0.0)
    centre, width = _first(ds, "WindowCenter", math.nan), _first(ds, "WindowWidth", math.nan)
    if math.isfinite(centre) and math.isfinite(width) and width > 1:
        low, high = centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    else:
        stored = 1 << header.bits_stored
        ends = (-stored // 2, stored // 2 - 1) if signed else (0, stored - 1)
        low, high = sorted(slope * end + intercept for end in ends)

    def gray(values: NDArray) -> NDArray[np.uint8]:
        shown = linear(values * np.float32(slope) + np.float32(intercept), low, high)
        return 255 - shown if invert else shown

    return gray


def _palette_luma(ds: Dataset, bits_allocated: int, *, little_endian: bool) -> NDArray[np.uint8]:
    """(2 ** bits_allocated,) luma of each palette index (PS3.3 C.7.6.3.1.5); 16-bit entries lose their lower byte."""
    for colour in ("Red", "Green", "Blue"):
        data = ds.get(f"{colour}PaletteColorLookupTableData")
        if data is not None and not little_endian and ds[f"{colour}PaletteColorLookupTableDescriptor"].value[2] == 16:
            # pydicom reads these words in the machine's byte order, whatever the file's is.
            ds[f"{colour}PaletteColorLookupTableData"].value = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    indices = np.arange(1 << bits_allocated, dtype=np.uint8 if bits_allocated == 8 else np.uint16)
    colours = apply_color_lut(indices[None], ds)[..., :3]
    if colours.dtype == np.uint16:
        colours = (colours >> 8).astype(np.uint8)
    return luma(colours)[0]


def _first(ds: Dataset, keyword: str, default: float) -> float:
    value = ds.get(keyword)
    if value is None or value == "":
        return default
    return float(value[0] if isinstance(value, MultiValue) else value)


def _named_errors(frames: Iterator[NDArray[np.uint8]], count: int, path: Path) -> Iterator[NDArray[np.uint8]]:
    """Exactly ``count`` frames; whatever a decoder throws becomes an UnreadableFileError that names the frame."""
    for index in range(count):
        try:
            image = next(frames)
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
        yield image
