"""Screens of an imaginary scanner with an insonified region of known geometry, and how well one is found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.frames.sector import NoSectorError, find_sector

KINDS = ("linear", "steered", "trapezoid", "convex", "phased")
SIZES = ((240, 320), (288, 384), (480, 640), (600, 800), (768, 1024), (720, 960))
_BEAM = (160, 320)  # lines, samples


@dataclass(frozen=True)
class SectorCase:
    """A screen, the mask of what was insonified, and what was drawn: one of ``KINDS``, and names of the furniture."""

    image: NDArray[np.uint8]
    truth: NDArray[np.bool_]
    kind: str
    drawn: tuple[str, ...]


def sector_case(seed: int, *, kind: str | None = None, furniture: bool = True) -> SectorCase:
    """A random screen; the same arguments give the same pixels."""
    random = np.random.default_rng(seed)
    kind = kind or KINDS[seed % len(KINDS)]
    shape = SIZES[int(random.integers(len(SIZES)))]
    lateral, depth, drawn = _coordinates(random, shape, kind)
    truth = (np.abs(lateral) <= 1) & (depth >= 0) & (depth <= 1)
    lines, samples = _BEAM
    beam = _echoes(random, kind)
    image = cv2.remap(
        beam,
        ((depth * samples) - 0.5).astype(np.float32),
        ((lateral + 1) * lines / 2 - 0.5).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    image = np.where(truth, image, 0).astype(np.uint8)
    if furniture:
        drawn += _furnish(random, image, truth)
    if random.random() < 0.6:
        coded = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, int(random.integers(70, 96))))[1]
        image = cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE)
    return SectorCase(image, truth, kind, drawn)


def iou(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Intersection over union of two masks."""
    return float(np.count_nonzero(found & truth) / max(np.count_nonzero(found | truth), 1))


def score(cases: Iterable[SectorCase]) -> NDArray[np.float64]:
    """IoU of the region found with the true one for each case; 0 where none is found."""
    results = []
    for case in cases:
        try:
            results.append(iou(find_sector(case.image).mask(case.image.shape), case.truth))
        except NoSectorError:
            results.append(0.0)
    return np.array(results)


def _coordinates(random: np.random.Generator, shape: tuple[int, int], kind: str) -> tuple[NDArray, NDArray, tuple]:
    """Beam coordinates of every pixel: position across (-1 to 1) and depth (0 to 1), for a region somewhere on it."""
    height, width = shape
    y, x = np.mgrid[:height, :width].astype(np.float64) + 0.5
    tall = height * random.uniform(0.62, 0.86)
    top = random.uniform(0.05, 0.97 - tall / height) * height
    middle = width * random.uniform(0.45, 0.55)
    drawn: tuple[str, ...] = ()
    if kind in ("convex", "phased"):
        half = np.deg2rad(random.uniform(25, 38) if kind == "convex" else random.uniform(32, 46))
        inner = random.uniform(0.25, 0.5) if kind == "convex" else random.uniform(0.0, 0.05)
        outer = tall / (1 - inner * np.cos(half))
        outer = min(outer, 0.45 * width / np.sin(half))
        if random.random() < 0.15:
            middle, drawn = width * random.choice((0.22, 0.78)), ("cut by the side",)
        apex = top - inner * outer * np.cos(half)
        radius, angle = np.hypot(x - middle, y - apex), np.arctan2(x - middle, y - apex)
        return angle / half, (radius / outer - inner) / (1 - inner), drawn
    half = min(tall * random.uniform(0.35, 0.7), width * 0.33)
    depth = (y - top) / tall
    lean = random.choice((-1, 1)) * random.uniform(0.12, 0.35) * tall if kind == "steered" else 0.0
    widening = random.uniform(0.1, 0.35) if kind == "trapezoid" else 0.0
    return (x - middle - lean * (depth - 0.5)) / (half * (1 + widening * depth)), depth, drawn


def _echoes(random: np.random.Generator, kind: str) -> NDArray[np.float32]:
    """(lines, samples) gray values: speckle over layers, with fluid, a shadow, a weak far field, each in some."""
    lines, samples = _BEAM
    parts = random.standard_normal((2, lines, samples), dtype=np.float32)
    speckle = np.hypot(*(cv2.GaussianBlur(part, (0, 0), 1.0, sigmaY=1.6) for part in parts))
    level = 20 * np.log10(speckle / speckle.mean() + 1e-4)
    coarse = random.standard_normal((9, 7), dtype=np.float32)
    level += 4 * cv2.resize(coarse, (samples, lines), interpolation=cv2.INTER_CUBIC)
    line, sample = np.mgrid[:lines, :samples].astype(np.float32)
    for _ in range(int(random.integers(0, 3))):
        across, along = random.uniform(0.15, 0.85) * lines, random.uniform(0.25, 0.75) * samples
        size = random.uniform(0.06, 0.2)
        level[((line - across) / (size * lines)) ** 2 + ((sample - along) / (size * samples)) ** 2 < 1] = -80
    if random.random() < 0.3:
        begin, thick = random.uniform(0.1, 0.8) * lines, random.uniform(0.04, 0.14) * lines
        level[(line > begin) & (line < begin + thick) & (sample > random.uniform(0.1, 0.5) * samples)] -= 45
    if random.random() < 0.35:
        level -= np.float32(random.uniform(10, 32)) * (sample / samples) ** 2
    level[:, : int(0.03 * samples)] += 10
    gray = random.uniform(70, 130) + level * (255 / random.uniform(50, 65))
    noise = random.uniform(0, 6) * np.abs(random.standard_normal((lines, samples), dtype=np.float32))
    return np.clip(np.maximum(gray, noise), 0, 255).astype(np.float32)


def _furnish(random: np.random.Generator, image: NDArray[np.uint8], truth: NDArray[np.bool_]) -> tuple[str, ...]:
    """Draw what a scanner draws beside, below and on its image; in place."""
    height, width = image.shape
    scale, drawn = height / 480, []
    white = int(random.integers(160, 256))

    def write(text: str, x: float, y: float) -> None:
        size = scale * float(random.uniform(0.35, 0.6))
        cv2.putText(image, text, (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX, size, white, max(1, round(scale)), 8)

    for name, x, y in (("left", 0.01, 0.05), ("right", 0.84, 0.05), ("foot", 0.02, 0.88), ("head", 0.35, 0.03)):
        if random.random() < 0.6:
            drawn.append(f"text {name}")
            for row in range(int(random.integers(1, 5 if name != "head" else 2))):
                write(_word(random), x * width, y * height + row * 20 * scale)
    if random.random() < 0.6:
        drawn.append("ruler")
        columns = np.flatnonzero(truth.any(axis=0))
        x = min(int(columns[-1] + random.uniform(4, 20) * scale), width - 6)
        for y in np.linspace(0.08, 0.95, int(random.integers(8, 30))):
            cv2.line(image, (x, int(y * height)), (x + int(random.uniform(3, 9) * scale), int(y * height)), white, 1)
    if random.random() < 0.5:
        drawn.append("gray bar")
        x, bar = int(random.choice((0.015, 0.965)) * width), np.linspace(255, 0, int(0.35 * height))
        image[int(0.3 * height) :, x : x + int(0.014 * width) + 2][: bar.size] = bar[:, None]
    if random.random() < 0.25:
        drawn.append("electrocardiogram")
        x = np.arange(int(0.1 * width), int(0.9 * width))
        beat = np.abs((x / width * 7) % 1 - 0.5) < 0.05
        y = 0.95 * height - 0.05 * height * beat + 2 * scale * np.sin(x / 9)
        cv2.polylines(image, [np.stack((x, y), axis=1).astype(np.int32)], False, white, max(1, round(scale)))
    if random.random() < 0.2:
        drawn.append("logo")
        cv2.circle(image, (int(0.06 * width), int(0.45 * height)), int(12 * scale), white, -1)
    if random.random() < 0.3:
        drawn.append("calipers")
        rows, columns = np.nonzero(truth)
        ends = [(int(columns[i]), int(rows[i])) for i in random.integers(0, rows.size, 2)]
        cv2.line(image, *ends, white, 1)
    if random.random() < 0.1:
        drawn.append("border")
        cv2.rectangle(image, (0, 0), (width - 1, height - 1), white, max(1, round(2 * scale)))
    return tuple(drawn)


def _word(random: np.random.Generator) -> str:
    return "".join(random.choice(list("ABCDEFGHKMNORST0123456789 .:"), int(random.integers(3, 9))))
