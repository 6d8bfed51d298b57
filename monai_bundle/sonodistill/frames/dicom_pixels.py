"""What a DICOM file stores for a frame becomes its gray values, and its colours where it has any."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut

from sonodistill.frames.dicom_header import Header
from sonodistill.frames.gray import linear, luma

# (H, W) uint8, and a function that gives (H, W, 3) uint8 RGB, or None where the frame is gray.
Pixels = tuple[NDArray[np.uint8], Callable[[], NDArray[np.uint8]] | None]

_RGB_IDS = ([82, 71, 66], [114, 103, 98])


def jpeg_pixels(data: bytes, header: Header) -> Pixels:
    """A baseline JPEG: where it stores YCbCr only the Y is decoded, four times as fast as RGB; colours on demand."""
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG",))
    except UnidentifiedImageError:
        raise ValueError("it is no JPEG image") from None  # Pillow's message is an address in memory
    if image.size != (header.columns, header.rows):
        raise ValueError(
            f"its JPEG is {image.size[1]} x {image.size[0]}, the header states {header.rows} x {header.columns}"
        )
    if image.mode == "L":
        gray = np.array(image)
        return 255 - gray if header.photometric == "MONOCHROME1" else gray, None
    marked = "jfif" in image.info or "adobe_transform" in image.info
    rgb_ids = [component[0] for component in image.layer] in _RGB_IDS  # type: ignore[attr-defined]
    # Nothing in the stream says how its components were made; Pillow would guess YCbCr, the header says RGB.
    unmarked_rgb = header.photometric == "RGB" and not marked and not rgb_ids
    colour = partial(_jpeg_rgb, data, unmarked_rgb=unmarked_rgb)
    if unmarked_rgb:
        return luma(colour()), colour
    image.draft("L", image.size)
    return np.array(image.convert("L")), colour


def _jpeg_rgb(data: bytes, *, unmarked_rgb: bool) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data), formats=("JPEG",))
    if unmarked_rgb:
        # Drafting YCbCr hands the components out as they are.
        image.draft("YCbCr", image.size)
        return np.array(image)
    return np.array(image.convert("RGB"))


def paired_pixels(data: bytes, header: Header) -> Pixels:
    """A frame of native YBR_FULL_422 (PS3.3 C.7.6.3.1.2): Y, Y, Cb, Cr for each two pixels of a row."""
    pairs = np.frombuffer(data, np.uint8).reshape(header.rows, header.columns // 2, 4)

    def colour() -> NDArray[np.uint8]:
        planes = [pairs[..., :2].reshape(gray.shape), *(np.repeat(pairs[..., i], 2, axis=1) for i in (2, 3))]
        return _ybr_to_rgb(np.stack(planes, axis=-1))

    gray = pairs[..., :2].reshape(header.rows, header.columns)
    return gray, colour


def converter(header: Header) -> Callable[[NDArray, str], Pixels]:
    """A function of a frame as pydicom decodes it, (H, W) or (H, W, 3), and its photometric interpretation."""
    if header.samples == 3:
        return partial(_three_samples, bits_stored=header.bits_stored)
    if header.photometric == "PALETTE COLOR":
        colours = _palette(header.ds, header.bits_allocated, little_endian=header.syntax.is_little_endian)
        shades = luma(colours[None])[0]
        return lambda values, _: (shades[values], partial(np.take, colours, values, axis=0))
    to_gray = _monochrome(header)
    return lambda values, _: (to_gray(values), None)


def _three_samples(values: NDArray, photometric: str, *, bits_stored: int) -> Pixels:
    """(H, W, 3) as decoded; deeper than 8 bits loses its lowest bits."""
    if bits_stored > 8:
        values = values >> (bits_stored - 8)
    values = np.ascontiguousarray(values, dtype=np.uint8)
    if photometric.startswith("YBR_FULL"):
        return np.ascontiguousarray(values[..., 0]), partial(_ybr_to_rgb, values)
    if photometric != "RGB":
        raise ValueError(f"the decoder left it in {photometric}")
    return luma(values), values.copy


def _ybr_to_rgb(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """PS3.3 C.7.6.3.1.2 YBR_FULL, which is JFIF's YCbCr, to RGB."""
    size = (values.shape[1], values.shape[0])
    return np.array(Image.frombytes("YCbCr", size, values.tobytes()).convert("RGB"))


def _monochrome(header: Header) -> Callable[[NDArray], NDArray[np.uint8]]:
    """The gray value of each stored value, as a function of (H, W) arrays."""
    ds = header.ds
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


def _palette(ds: Dataset, bits_allocated: int, *, little_endian: bool) -> NDArray[np.uint8]:
    """(2 ** bits_allocated, 3) RGB of each palette index (PS3.3 C.7.6.3.1.5); 16-bit entries lose their lower byte."""
    for colour in ("Red", "Green", "Blue"):
        data = ds.get(f"{colour}PaletteColorLookupTableData")
        if data is not None and not little_endian and ds[f"{colour}PaletteColorLookupTableDescriptor"].value[2] == 16:
            # pydicom reads these words in the machine's byte order, whatever the file's is.
            ds[f"{colour}PaletteColorLookupTableData"].value = np.frombuffer(data, ">u2").astype("<u2").tobytes()
    indices = np.arange(1 << bits_allocated, dtype=np.uint8 if bits_allocated == 8 else np.uint16)
    colours = apply_color_lut(indices[None], ds)[..., :3]
    if colours.dtype == np.uint16:
        colours = (colours >> 8).astype(np.uint8)
    return np.ascontiguousarray(colours[0])


def _first(ds: Dataset, keyword: str, default: float) -> float:
    value = ds.get(keyword)
    if value is None or value == "":
        return default
    return float(value[0] if isinstance(value, MultiValue) else value)
