"""Finds the insonified region of a frame, the part that holds echoes, among the furniture of a scanner's screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError
from sonodistill.frames.sector_evidence import Evidence, lettered, weigh
from sonodistill.frames.sector_fit import Fit, fit
from sonodistill.frames.sector_shapes import clip, fill, rasterized

Outline = tuple[tuple[float, float], ...]
Box = tuple[int, int, int, int]

FROM_REGIONS, FROM_IMAGE = "SequenceOfUltrasoundRegions", "image"
_LONG_SIDE = 256  # of the frame on which the region is sought, pixels
_SMALLEST = 24  # pixels
_INSET = 0.25  # reduced pixels by which an outline stays inside what was found, so that it keeps off text beside it
_BROAD = 15  # reduced pixels
_MOST_LOST = 0.03  # share of the main body's tissue in broad parts outside a fit, beyond which its hull is the outline
_LEAST_AREA = 0.03  # of the frame
_LEAST_AGREEMENT = 0.35
_LEAST_GRAIN = 0.25  # share of the measured tissue that is not flat
_WHITE, _MOST_WHITE = 250, 0.5  # gray level; share of the frame that may be flat and white
_DOUBTFUL = 0.93  # agreement below which the region is looked at for letters
_MOST_LETTERED = 0.7
_FORMAT_2D = 1
_IMAGE_DATA_TYPES = (1, 2)


class NoSectorError(SonoDistillError):
    """The frame shows nothing that looks like an insonified region."""


@dataclass(frozen=True, slots=True)
class Sector:
    """The insonified region of a frame.

    Attributes:
        kind: "linear" (rectangle, parallelogram or trapezoid), "convex" (annular sector) or "phased" (sector from
            nearly a point).
        outline: corners (x, y) of a polygon in pixels, where (0, 0) is the upper left corner of the first pixel.
        source: "SequenceOfUltrasoundRegions" when a region of the file limited the search, else "image".
        agreement: intersection over union of the outline and the tissue that was measured. Shadows and deep, dark
            parts lower it without being a fault of the outline.
    """

    kind: str
    outline: Outline
    source: str
    agreement: float

    def mask(self, shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """(H, W) bool, true on the pixels whose centres lie inside the outline; ``shape`` is that of the frame."""
        return rasterized(np.array(self.outline), (shape[0], shape[1]))

    @property
    def box(self) -> Box:
        """(top, left, bottom, right), half-open: the smallest box around the outline."""
        low, high = np.min(self.outline, axis=0), np.max(self.outline, axis=0)
        # Coordinates are floats that were scaled: a rounding error does not make another row.
        left, top = (int(v) for v in np.floor(low + 1e-3))
        right, bottom = (int(v) for v in np.ceil(high - 1e-3))
        return top, left, bottom, right


def find_sector(
    brightest: NDArray[np.uint8],
    *,
    mean: NDArray[np.float32] | None = None,
    change: NDArray[np.float32] | None = None,
    regions: Sequence[dict[str, Any]] | None = None,
) -> Sector:
    """Find the insonified region of a still or of a whole cine; it does not move within one.

    The frame is reduced to 256 pixels. What is darker than any echo, or constant, is background, and what is thin is
    text or a scale. A rectangle, a quadrilateral with slanting sides and an annular sector compete for what is left;
    the one that gathers most tissue for least background wins, the simpler one in doubt. A shape that would cut off
    broad parts of the tissue gives way to the convex hull of the tissue. Frames that are tissue up to all four
    sides come out whole.

    Args:
        brightest: (H, W) uint8, a still or the maximum over the time of a cine.
        mean: (H, W) float32 mean over time, or None for a still.
        change: (H, W) float32 mean absolute difference between consecutive frames, or None. In a moving cine it
            tells tissue from bright furniture that stands still.
        regions: ``provenance.details["regions"]`` of a DICOM file. The search is limited to the box of a 2D region
            of tissue or colour flow where there is one; among several (biplane, dual view) to the largest, the first
            of equals. ``image_boxes`` gives them all.

    Raises:
        NoSectorError: nothing in the frame, or in the region, is as large and as grainy as an ultrasound image.
    """
    boxes = image_boxes(regions, brightest.shape)
    top, left, bottom, right = boxes[0] if boxes else (0, 0, *brightest.shape)
    height, width = bottom - top, right - left
    if min(height, width) < _SMALLEST:
        raise NoSectorError(f"{width} x {height} pixels are too few to find an ultrasound image in")
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = (max(round(width * scale), 1), max(round(height * scale), 1))

    def reduced(image: NDArray) -> NDArray:
        return cv2.resize(image[top:bottom, left:right], size, interpolation=cv2.INTER_AREA)

    small = reduced(brightest)
    evidence = weigh(
        small,
        None if mean is None else reduced(mean.astype(np.float32, copy=False)),
        None if change is None else reduced(change.astype(np.float32, copy=False)),
    )
    _check_tissue(evidence, small)
    found = _settled(fit(evidence.weight, evidence.measured), evidence)
    agreement = _agreement(found.polygon, evidence.measured)
    if agreement < _LEAST_AGREEMENT:
        raise NoSectorError(
            f"what is bright does not have the shape of an ultrasound image (agreement {agreement:.2f})"
        )
    inner = _inset(found.polygon, size)
    outline = inner * (width / size[0], height / size[1])
    if agreement < _DOUBTFUL:
        inside = rasterized(outline, (height, width))
        if lettered(brightest[top:bottom, left:right], inside, evidence.black) > _MOST_LETTERED:
            raise NoSectorError("what is bright is text")
    corners = tuple((float(x) + left, float(y) + top) for x, y in outline)
    return Sector(found.kind, corners, FROM_REGIONS if boxes else FROM_IMAGE, agreement)


def image_boxes(regions: Sequence[dict[str, Any]] | None, shape: tuple[int, ...]) -> list[Box]:
    """Boxes (top, left, bottom, right) of the 2D tissue and colour regions within a frame, the largest first.

    A box inside another one (a colour box on its B-mode image) is left out.
    """
    boxes: list[Box] = []
    for region in regions or ():
        if region.get("format") == _FORMAT_2D and region.get("data_type") in _IMAGE_DATA_TYPES:
            top, left, bottom, right = (int(value) for value in region["box"])
            box = (max(top, 0), max(left, 0), min(bottom, shape[0]), min(right, shape[1]))
            if min(box[2] - box[0], box[3] - box[1]) >= _SMALLEST:
                boxes.append(box)
    boxes.sort(key=lambda box: (box[0] - box[2]) * (box[3] - box[1]))
    return [box for number, box in enumerate(boxes) if not any(_holds(other, box) for other in boxes[:number])]


def _holds(outer: Box, inner: Box) -> bool:
    return all(o <= i for o, i in zip(outer[:2], inner[:2], strict=True)) and all(
        o >= i for o, i in zip(outer[2:], inner[2:], strict=True)
    )


def _check_tissue(evidence: Evidence, gray: NDArray[np.uint8]) -> None:
    page = float((evidence.smooth & (gray >= _WHITE)).mean())
    if page > _MOST_WHITE:
        raise NoSectorError(f"{page:.0%} of the frame is blank white, as on a page or in a window")
    area = float(evidence.measured.mean())
    if area < _LEAST_AREA:
        raise NoSectorError(f"only {area:.1%} of the frame could be tissue; it is blank, or holds text and lines alone")
    grain = 1 - float(evidence.smooth[evidence.measured > 0].mean())
    if grain < _LEAST_GRAIN:
        raise NoSectorError(f"only {grain:.0%} of what is bright has the grain of an ultrasound image")


def _settled(found: Fit, evidence: Evidence) -> Fit:
    """The fit, or the hull of the main body of tissue where the fit leaves a broad part of it outside."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(evidence.measured, connectivity=8)
    main = (labels == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax())) if count > 1 else labels > 0
    inside = fill(found.polygon, np.zeros(labels.shape, np.uint8)) > 0
    # Rulers and bars that touch the image are thinner than what is worth a worse outline.
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (_BROAD, _BROAD))
    lost = cv2.morphologyEx((main & ~inside).astype(np.uint8), cv2.MORPH_OPEN, disc, borderValue=0)
    if np.count_nonzero(lost) < _MOST_LOST * np.count_nonzero(main):
        return found
    # What the fit holds of the other bodies belongs as well; text that it left out does not.
    body = main | (inside & (labels > 0))
    points = np.argwhere(body)[:, ::-1].astype(np.float32) + 0.5
    hull = cv2.convexHull(points)[:, 0].astype(np.float64)
    return Fit(found.kind, hull, found.gain)


def _agreement(polygon: NDArray[np.float64], measured: NDArray[np.uint8]) -> float:
    inside = fill(polygon, np.zeros_like(measured))
    union = np.count_nonzero(inside | measured)
    return float(np.count_nonzero(inside & measured) / union) if union else 0.0


def _inset(polygon: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.float64]:
    """The polygon moved inwards a little, but not from the frame's own border, where no text can lie beyond."""
    middle = (polygon.min(axis=0) + polygon.max(axis=0)) / 2
    reach = np.maximum((polygon.max(axis=0) - polygon.min(axis=0)) / 2, 1.0)
    moved = middle + (polygon - middle) * (1 - _INSET / reach)
    for axis, limit in enumerate(size):
        moved[polygon[:, axis] <= 0.75, axis] = 0.0
        moved[polygon[:, axis] >= limit - 0.75, axis] = limit
    return clip(moved, (0.0, 0.0, float(size[1]), float(size[0])))
