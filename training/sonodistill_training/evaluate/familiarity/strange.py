"""Frames that are no ultrasound, for a measurement: noise of natural spectra, blank screens, photographs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import EmptyInputError

KINDS = ("noise", "blank", "photos")
_SIDE, _NOISES, _CROPS, _LEVELS = 256, 96, 24, 32
_EXPONENTS = (0.0, 1.0, 1.5, 2.0)  # of the frequency by which the amplitude falls: white, 1/f as photographs, 1/f^2

Image = NDArray[np.uint8]


def strange(kind: str, seed: int = 0) -> Iterator[tuple[str, Image]]:
    """(group, (H, W) uint8) of every image of a kind of :data:`KINDS`.

    Raises:
        EmptyInputError: no installed package brings a photograph.
    """
    generator = np.random.default_rng(seed)
    return {"noise": _noise, "blank": _blank, "photos": _photos}[kind](generator)


def _noise(generator: np.random.Generator) -> Iterator[tuple[str, Image]]:
    down, across = np.meshgrid(np.fft.fftfreq(_SIDE), np.fft.fftfreq(_SIDE), indexing="ij")
    frequency = np.hypot(down, across)
    frequency[0, 0] = 1 / _SIDE
    for number in range(_NOISES):
        white = np.fft.fft2(generator.standard_normal((_SIDE, _SIDE)))
        field = np.fft.ifft2(white / frequency ** _EXPONENTS[number % len(_EXPONENTS)]).real
        level, contrast = generator.uniform(40, 140), generator.uniform(20, 60)
        image = level + (field - field.mean()) / field.std() * contrast
        yield f"noise{number}", np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _blank(_: np.random.Generator) -> Iterator[tuple[str, Image]]:
    for level in np.linspace(0, 255, _LEVELS).round().astype(np.uint8):
        yield f"level{level}", np.full((_SIDE, _SIDE), level, np.uint8)


def _photos(generator: np.random.Generator) -> Iterator[tuple[str, Image]]:
    """Crops of 30 to 100 % of the sides of photographs that installed packages bring."""
    paths = [path for path in _paths() if path.is_file()]
    if not paths:
        raise EmptyInputError("no photograph is installed", remedy="pip install scikit-learn matplotlib")
    for path in paths:
        photo = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if photo is None:
            continue
        for _ in range(_CROPS):
            height, width = (round(side * generator.uniform(0.3, 1)) for side in photo.shape)
            top = int(generator.integers(photo.shape[0] - height + 1))
            left = int(generator.integers(photo.shape[1] - width + 1))
            yield path.stem, np.ascontiguousarray(photo[top : top + height, left : left + width]).astype(np.uint8)


def _paths() -> Iterator[Path]:
    wanted = {
        "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
        "matplotlib": ("mpl-data/sample_data/grace_hopper.jpg",),
        "skimage": tuple(f"data/{name}" for name in ("astronaut.png", "camera.png", "coffee.png", "chelsea.png")),
    }
    for package, files in wanted.items():
        spec = find_spec(package)
        if spec is not None and spec.origin:
            yield from (Path(spec.origin).parent / file for file in files)
