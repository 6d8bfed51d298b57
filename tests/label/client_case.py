"""Frames and masks as MONAI Label's clients have them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from app_case import Server
from PIL import Image

from sonodistill.frames import read

FRAMES, HEIGHT, WIDTH = 30, 240, 320


def cine_frames(server: Server, *indices: int) -> list[Any]:
    return list(read(server.studies / "a" / "cine.dcm", only=indices or None))


def gray(content: bytes | Path) -> np.ndarray:
    with Image.open(io.BytesIO(content) if isinstance(content, bytes) else content) as image:
        assert image.mode == "L"
        return np.array(image)


def stack(path: str | Path) -> np.ndarray:
    """(frames, H, W) of NRRD or NIfTI."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def mask_file(path: Path, mask: np.ndarray) -> str:
    if mask.ndim == 2 and path.suffix == ".png":
        Image.fromarray(mask).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(mask), str(path))
    return str(path)


def square(y: int, x: int, side: int = 20, shape: tuple[int, int] = (HEIGHT, WIDTH), number: int = 1) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[y : y + side, x : x + side] = number
    return mask
