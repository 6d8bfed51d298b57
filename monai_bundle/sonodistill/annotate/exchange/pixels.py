"""Images of an exchange: written whole, read only where they lie in the folder and have a possible size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sonodistill.annotate.errors import InvalidLabelError
from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path
from sonodistill.frames.bounds import check_size

MAX_BYTES = 1 << 26
"""Of a PNG file that is read."""


def save_png(image: NDArray[np.uint8], path: Path) -> None:
    """Write (H, W) uint8 as a gray PNG file, atomically."""
    with atomic_path(path) as temporary:
        Image.fromarray(image).save(temporary, "PNG", compress_level=1)


def inside(folder: Path, name: Any) -> Path:
    """A file that an index names relative to its folder.

    Errors: InvalidLabelError for one that lies outside, also by a link, or is not there.
    """
    if not isinstance(name, str) or not 0 < len(name) <= 512 or not name.isprintable() or "\\" in name:
        raise InvalidLabelError("it names its file in no way that can be followed")
    try:
        path = (folder / name).resolve()
        found = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, RuntimeError, ValueError):
        found = False
    if not found:
        raise InvalidLabelError(f"{name!r} is no file of its folder")
    return path


def read_mask(path: Path) -> NDArray[np.uint8]:
    """(H, W) uint8 of a PNG file: the values of a gray one, the numbers of a palette, 0 and 1 of a bilevel one.

    Errors: InvalidLabelError.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InvalidLabelError(f"its mask has more than {MAX_BYTES >> 20} MB")
        with path.open("rb") as file, Image.open(file, formats=("PNG",)) as image:
            check_size(image.height, image.width, path)
            if image.mode not in ("L", "P", "1"):
                raise InvalidLabelError(
                    f"its mask has colours or 16 bits (mode {image.mode})", remedy="save label numbers in 8 bits"
                )
            return np.array(image).astype(np.uint8)
    except SonoDistillError as error:
        raise InvalidLabelError(error.message) from None
    except Exception as error:  # noqa: BLE001 - Pillow raises what it likes for damaged data
        raise InvalidLabelError(f"its mask cannot be decoded ({type(error).__name__})") from None
