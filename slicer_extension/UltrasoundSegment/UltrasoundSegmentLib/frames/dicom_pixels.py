"""Frames of a DICOM file: by the SonoDistill runtime where it is installed, else by pydicom alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.frames.image import gray


def decoded(path: Path, ds: Any) -> Iterator[NDArray[np.uint8]]:
    """(H, W) gray or (H, W, 3) RGB of each frame, uint8, one at a time.

    Errors: whatever the decoders raise.
    """
    try:
        from sonodistill.frames.dicom import read_dicom
    except ImportError:
        yield from decoded_by_pydicom(path, ds)
        return
    for frame in read_dicom(path):
        colour = frame.rgb()
        yield frame.image if colour is None else colour


def decoded_by_pydicom(path: Path, ds: Any) -> Iterator[NDArray[np.uint8]]:
    """As ``decoded``, without the runtime: what pydicom and its plugins can decode.

    YBR becomes RGB, a palette its colours, MONOCHROME1 is inverted. Deeper values are rescaled, and windowed where the
    file states a window, else mapped from the full range of the bits stored.
    """
    from pydicom.pixels import iter_pixels

    monochrome = str(ds.get("PhotometricInterpretation", "")).startswith("MONOCHROME")
    for values in iter_pixels(path):
        if monochrome:
            yield _monochrome(values, ds)
        elif values.ndim == 2:
            yield _palette(values, ds)
        else:
            yield eight_bits(values)


def eight_bits(values: NDArray) -> NDArray[np.uint8]:
    """(H, W, 3) of any depth to uint8 by the full range of its type."""
    return values if values.dtype == np.uint8 else (values >> 8 * (values.dtype.itemsize - 1)).astype(np.uint8)


def _monochrome(values: NDArray, ds: Any) -> NDArray[np.uint8]:
    bits = int(ds.get("BitsStored") or 8)
    if bits > 8:
        slope, intercept = float(ds.get("RescaleSlope") or 1), float(ds.get("RescaleIntercept") or 0)
        low, high = _window(ds) or _stored_range(bits, bool(ds.get("PixelRepresentation")), slope, intercept)
        image = gray(values.astype(np.float32) * slope + intercept, low, high)
    else:
        image = np.ascontiguousarray(values, dtype=np.uint8)
    return 255 - image if ds.get("PhotometricInterpretation") == "MONOCHROME1" else image


def _palette(values: NDArray, ds: Any) -> NDArray[np.uint8]:
    """(H, W, 3) of palette numbers; pydicom mistakes the byte order of big-endian tables."""
    from pydicom.pixels import apply_color_lut

    if "RedPaletteColorLookupTableData" not in ds:
        return eight_bits(apply_color_lut(values, ds))
    tables = []
    for colour in ("Red", "Green", "Blue"):
        entries, first, bits = (int(one) for one in ds[f"{colour}PaletteColorLookupTableDescriptor"].value)
        data, entries = ds[f"{colour}PaletteColorLookupTableData"].value, entries or 65536
        wide = np.dtype("<u2" if ds.original_encoding[1] else ">u2")
        table: Any = np.frombuffer(data, np.uint8 if len(data) < 2 * entries else wide)[:entries]
        table = table >> 8 if bits == 16 else table
        tables.append(table.astype(np.uint8)[np.clip(values.astype(np.int64) - first, 0, entries - 1)])
    return np.stack(tables, axis=-1)


def _window(ds: Any) -> tuple[float, float] | None:
    centre, width = (_first(ds.get(keyword)) for keyword in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or width < 1:
        return None
    # PS3.3 C.11.2.1.2.1: the window holds width - 1 steps about centre - 0.5.
    return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2


def _stored_range(bits: int, signed: bool, slope: float, intercept: float) -> tuple[float, float]:
    ends = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    low, high = sorted(end * slope + intercept for end in ends)
    return low, high


def _first(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__getitem__") and not isinstance(value, str) else value)
