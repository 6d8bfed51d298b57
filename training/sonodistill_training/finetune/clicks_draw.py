"""Prompts of a simulated annotator: where the first clicks and the box are put, and which error is clicked on next."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.annotate.clicks.propagate import prompts_of
from sonodistill.networks.click import prompt_maps

Mask = NDArray[np.bool_]
_MOST_POINTS = 4  # of a kind, at the beginning
_MORE_POINTS = 0.5  # each further one is half as likely
_NEARBY = 0.25  # of the image's side: how far from the structure a negative click is of interest
_JITTER = 0.1  # of the box's sides: standard deviation of its edges
_STARTS = ("clicks", "box", "box and click", "mask before", "mask to correct")
_SHARES = (0.4, 0.12, 0.08, 0.25, 0.15)


@dataclass
class Annotation:
    """What the annotator has said of one image so far; points (x, y) and the box in its pixels.

    Attributes:
        truth: (H, W) the structure meant.
        positive, negative, box: the prompts.
        mask: (H, W) what the network answered, or None.
    """

    truth: Mask
    positive: list[tuple[float, float]] = field(default_factory=list)
    negative: list[tuple[float, float]] = field(default_factory=list)
    box: tuple[float, float, float, float] | None = None
    mask: Mask | None = None

    def correct(self, answer: Mask, rng: np.random.Generator | None = None) -> None:
        """Take the answer for the mask so far and click on its largest error, if it has any.

        Args:
            answer: (H, W).
            rng: to click anywhere near the centre of the error; without it, at the centre.
        """
        self.mask = answer
        missed, wrong = _depth(self.truth & ~answer), _depth(answer & ~self.truth)
        positive = missed.max() >= wrong.max()
        depth = missed if positive else wrong
        if depth.max() > 0:
            (self.positive if positive else self.negative).append(_centre(depth, rng))

    def maps(self, *, without_mask: bool = False) -> NDArray[np.float32]:
        """(6, H / 4, W / 4), see ``networks.click.prompt_maps``."""
        mask = None if without_mask else self.mask
        return prompt_maps(self.truth.shape, self.positive, self.negative, self.box, mask)


def begin(truth: Mask, rng: np.random.Generator) -> Annotation:
    """Random first prompts: clicks, a box, both, what a propagation says of the next frame, or a wrong mask and a click
    on its largest error.

    An image without the structure gets negative clicks alone.
    """
    annotation = Annotation(truth)
    start = str(rng.choice(_STARTS, p=_SHARES)) if truth.any() else "clicks"
    if start == "mask before":
        before = moved(truth, rng)
        if before.any():
            prompts = prompts_of(before)
            annotation.mask, annotation.box = before, prompts.box
            annotation.positive += prompts.positive
            return annotation
    if start == "mask to correct":
        annotation.correct(spoilt(moved(truth, rng), rng), rng)
        return annotation
    if start in ("box", "box and click"):
        annotation.box = jittered(bounding_box(truth), rng, truth.shape)
    if start != "box":
        if truth.any():
            annotation.positive += _inside(truth, 1 + _more(rng), rng)
        annotation.negative += _outside(truth, _more(rng) if truth.any() else 1 + _more(rng), rng)
    return annotation


def bounding_box(mask: Mask) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) of the outermost pixels of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def jittered(
    box: tuple[float, float, float, float], rng: np.random.Generator, shape: tuple[int, ...]
) -> tuple[float, float, float, float]:
    """Each edge moved by a tenth of the side, or by two pixels where that is more (standard deviation)."""
    width, height = box[2] - box[0], box[3] - box[1]
    by = rng.normal(size=4).clip(-2, 2) * np.maximum(_JITTER * np.array([width, height, width, height]), 2)
    x0, y0, x1, y1 = (float(value) for value in np.asarray(box) + by)
    return _within((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), shape)


def moved(mask: Mask, rng: np.random.Generator) -> Mask:
    """As it may have been a frame before or some: moved, of another size, and with a rougher edge."""
    height, width = mask.shape
    x0, y0, x1, y1 = bounding_box(mask)
    far = rng.uniform(0.2, 1)
    scale, angle = float(np.exp(np.clip(rng.normal(0, 0.12 * far), -0.3, 0.3))), float(rng.normal(0, 8 * far))
    matrix = cv2.getRotationMatrix2D(((x0 + x1) / 2, (y0 + y1) / 2), angle, scale)
    matrix[:, 2] += rng.normal(size=2).clip(-2, 2) * 0.1 * far * np.array([x1 - x0 + 1, y1 - y0 + 1])
    rough = cv2.GaussianBlur(rng.normal(size=mask.shape).astype(np.float32), (0, 0), max(height, width) / 32)
    warped = cv2.warpAffine(mask.astype(np.float32), matrix, (width, height), flags=cv2.INTER_LINEAR)
    soft = cv2.GaussianBlur(warped, (0, 0), max(height, width) / 64)
    soft += 0.15 * far * rough / max(float(rough.std()), 1e-6) * (soft > 0.02)
    # As large as it was moved: blurred and cut at a half, small ones shrink, and a network learns to let masks grow.
    area = int(np.count_nonzero(warped > 0.5))
    return soft > np.partition(soft, -area - 1, axis=None)[-area - 1] if 0 < area < soft.size else warped > 0.5


def spoilt(mask: Mask, rng: np.random.Generator) -> Mask:
    """With an ellipse too many somewhere, or without one of its own."""
    across, down = (np.ptp(bounding_box(mask)[at::2]) + 4 for at in (0, 1)) if mask.any() else (16.0, 16.0)
    axes = rng.uniform(0.3, 1.0, 2) * (across, down)
    blob = np.zeros(mask.shape, np.uint8)
    removed = bool(mask.any()) and rng.random() < 0.5
    x, y = (_points(mask, 1, rng) if removed else _points(~mask, 1, rng) or [(0.0, 0.0)])[0]
    cv2.ellipse(blob, ((x, y), (float(axes[0]), float(axes[1])), float(rng.uniform(0, 180))), 1, -1)
    return mask & (blob == 0) if removed else mask | (blob != 0)


def _more(rng: np.random.Generator) -> int:
    return min(int(rng.geometric(_MORE_POINTS)) - 1, _MOST_POINTS - 1)


def _inside(truth: Mask, count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Points of the structure, not at its very edge."""
    depth = _depth(truth)
    return _points(depth > min(3.0, float(depth.max()) / 2), count, rng)


def _outside(truth: Mask, count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Points beside the structure, half of them near it."""
    distance = _depth(~truth)
    near = (distance > 3) & (distance < _NEARBY * max(truth.shape))
    return [
        point
        for _ in range(count)
        for point in _points(near if near.any() and rng.random() < 0.5 else distance > 3, 1, rng)
    ]


def _points(where: Mask, count: int, rng: np.random.Generator) -> list[tuple[float, float]]:
    found = np.flatnonzero(where)
    if not len(found):
        return []
    rows, columns = np.unravel_index(rng.choice(found, count), where.shape)
    return [(float(x), float(y)) for x, y in zip(columns, rows, strict=True)]


def _centre(depth: NDArray[np.float32], rng: np.random.Generator | None) -> tuple[float, float]:
    """The deepest pixel, or with ``rng`` one that is at least half as deep."""
    if rng is not None:
        return _points(depth > depth.max() / 2, 1, rng)[0]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(column), float(row)


def _depth(mask: Mask) -> NDArray[np.float32]:
    """Pixels to the nearest one outside the mask, beyond the image included; 0 outside."""
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    # Not DIST_MASK_PRECISE: its last bit depends on where the memory lies, and a resumed training would not be exact.
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]


def _within(box: tuple[float, float, float, float], shape: tuple[int, ...]) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = box
    right, bottom = shape[1] - 1, shape[0] - 1
    return min(max(x0, 0), right), min(max(y0, 0), bottom), min(max(x1, 0), right), min(max(y1, 0), bottom)
