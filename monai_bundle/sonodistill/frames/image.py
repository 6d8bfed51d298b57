"""PNG, JPEG, BMP and TIFF files as frames, by Pillow."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from sonodistill.errors import SonoDistillError, UnreadableFileError, UnsupportedFormatError
from sonodistill.frames.bounds import check_size
from sonodistill.frames.frame import Calibration, Frame, Provenance
from sonodistill.frames.gray import full_range_16
from sonodistill.frames.selection import selected

_UNCALIBRATED = Calibration(None, note="image files carry no physical scale")
_GRAY_MODES = frozenset({"1", "L", "LA", "La", "I", "F"})


def read_image(path: Path, *, only: Collection[int] | None = None) -> Iterator[Frame]:
    """Frames of a still image, or of the pages of a TIFF file; pages are decoded one at a time.

    Colour becomes luma (alpha is dropped), palettes are applied, 16-bit gray is scaled by its full range, the EXIF
    orientation is applied. Of an animated PNG or a multi-picture JPEG the main picture alone is read.

    Errors: UnreadableFileError for truncated or corrupt files and decompression bombs, UnsupportedFormatError for
        32-bit pixels, whose range the file does not state.
    """
    index = 0
    try:
        # Handed a path, Pillow maps plain TIFF files into memory and scrambles those with a turned orientation.
        with path.open("rb") as file, Image.open(file, formats=("PNG", "JPEG", "BMP", "TIFF")) as image:
            count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
            provenance = Provenance(path, "image", count, {"format": image.format, "mode": image.mode})
            for index in selected(only, count, path):
                if index:
                    image.seek(index)
                check_size(image.height, image.width, path)
                pixels, colour = _decoded(image, path)
                yield Frame(pixels, index, None, _UNCALIBRATED, provenance, colour)
    except UnidentifiedImageError as error:
        raise UnreadableFileError(
            "the content is no PNG, JPEG, BMP or TIFF image", path=path, remedy="copy it again from its source"
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableFileError(
            f"the image claims more pixels than any ultrasound frame has ({error})", path=path
        ) from error
    except SonoDistillError:
        raise
    # Pillow's parsers raise OSError, SyntaxError, TypeError, struct.error ... for damaged data; LOAD_TRUNCATED_IMAGES
    # stays off.
    except Exception as error:
        raise UnreadableFileError(
            f"frame {index + 1} cannot be decoded: {error}", path=path, remedy="copy it again from its source"
        ) from error


def _decoded(image: Image.Image, path: Path) -> tuple[NDArray[np.uint8], Callable[[], NDArray[np.uint8]] | None]:
    """The current page as (H, W) uint8, upright, and a function that gives its colours where it has them."""
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")
    if image.mode in ("I", "F") and not deep:
        raise UnsupportedFormatError(
            f"pixels of 32 bits (mode {image.mode}) have no stated range",
            path=path,
            remedy="save it with 8 or 16 bits a pixel",
        )
    upright = ImageOps.exif_transpose(image)
    if deep:
        # Some Pillow releases hand 16-bit PNG files out in 32-bit containers.
        return full_range_16(np.asarray(upright).astype(np.uint16)), None
    # exif_transpose gives a copy, so the next page leaves these colours alone.
    colour = None if upright.mode in _GRAY_MODES else partial(_rgb, upright)
    return np.array(upright.convert("L")), colour


def _rgb(image: Image.Image) -> NDArray[np.uint8]:
    return np.array(image.convert("RGB"))
