"""Mask files: where each frame's mask goes, and writing it whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.files import atomic_path


def mask_path(output_dir: str | Path, source: str | Path, frame: int, root: str | Path) -> Path:
    """``<output_dir>/<source relative to root>_<frame, 5 digits>_mask.png``.

    The folders under ``root`` are kept, so that two sources of the same name do not overwrite each other's masks.
    """
    source, root = Path(source).resolve(), Path(root).resolve()
    inside = source.relative_to(root) if root in source.parents else Path(source.name)
    return Path(output_dir) / inside.parent / f"{inside.name}_{frame:05d}_mask.png"


def common_root(sources: str | Path | Sequence[str | Path]) -> Path:
    """The deepest folder that holds every source: the root of their masks' tree."""
    listed = [sources] if isinstance(sources, (str, Path)) else sources
    folders = [source if source.is_dir() else source.parent for source in (Path(s).resolve() for s in listed)]
    return Path(os.path.commonpath(folders))


def write_mask(path: str | Path, mask: NDArray[np.uint8]) -> None:
    """Write an (H, W) mask of 0 and 1 as a PNG of 0 and 255, atomically."""
    _, png = cv2.imencode(".png", mask * np.uint8(255))
    with atomic_path(path) as temporary:
        temporary.write_bytes(png.tobytes())
