"""What a model found in an instance: the masks of every frame, packed, and the structures measured in them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sonodistill.dicom.algorithm import Algorithm
from sonodistill.dicom.source import Source
from sonodistill.inference.familiarity import LIMIT


class Masks:
    """The masks of a clip, a bit a pixel; probabilities in steps of 1/255 beside them where they are kept.

    Args:
        segments: channels of each frame.
        rows, columns: of the image.
        keep_probabilities: whether ``probability`` will be asked for.
    """

    def __init__(self, segments: int, rows: int, columns: int, *, keep_probabilities: bool = False) -> None:
        self.shape = (segments, rows, columns)
        self._bits: list[NDArray[np.uint8]] = []
        self._probabilities: list[NDArray[np.uint8]] | None = [] if keep_probabilities else None

    def append(self, masks: NDArray[np.bool_], probabilities: NDArray[np.float32]) -> None:
        """Those of the next frame: (C, H, W) bool and float32 in [0, 1]."""
        if masks.shape != self.shape:
            raise ValueError(f"masks of {masks.shape} in a stack of {self.shape}")
        self._bits.append(np.packbits(masks))
        if self._probabilities is not None:
            self._probabilities.append(np.rint(probabilities * 255).astype(np.uint8))

    def __len__(self) -> int:
        return len(self._bits)

    def __getitem__(self, frame: int) -> NDArray[np.bool_]:
        """(C, H, W) bool of a frame, counted from 0."""
        return np.unpackbits(self._bits[frame], count=int(np.prod(self.shape))).reshape(self.shape).view(np.bool_)

    def __iter__(self) -> Iterator[NDArray[np.bool_]]:
        return (self[frame] for frame in range(len(self)))

    def probability(self, frame: int) -> NDArray[np.uint8]:
        """(C, H, W) uint8 of a frame, 255 for 1; only where they are kept."""
        if self._probabilities is None:
            raise ValueError("the probabilities were not kept")
        return self._probabilities[frame]


@dataclass(frozen=True, slots=True)
class Structure:
    """One connected region of one segment in one frame, and its size.

    Attributes:
        frame: counted from 0.
        segment: counted from 1, as in the segmentation.
        number: of the region among those of the frame and segment, the largest being 1.
        pixels: number of pixels.
        contour: (N, 2) float32, (column, row) of the corners of its outer border along the edges of its pixels, (0, 0)
            being the outer corner of the first pixel (PS3.3 C.10.5.1.2, C.18.6.1.2); not closed by repeating the first.
        long_axis_pixels, short_axis_pixels: largest and smallest caliper diameter of the outer border in pixels.
        area_mm2, long_axis_mm, short_axis_mm: None where the scale is unknown.
        reason: why it is unknown, or what was tolerated.
    """

    frame: int
    segment: int
    number: int
    pixels: int
    contour: NDArray[np.float32]
    long_axis_pixels: float
    short_axis_pixels: float
    area_mm2: float | None = None
    long_axis_mm: float | None = None
    short_axis_mm: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that is said of one instance.

    Attributes:
        source: the instance; its geometry is the masks'.
        algorithm: what found it.
        masks: one for each frame of the source, or of ``frames``.
        times_ms: of each frame since the first, or None where the source does not say.
        structures: by frame, segment and number.
        frames: the frames of the source that the masks belong to, counted from 0 and ascending; None for all of them.
        scores: how unfamiliar each frame is to the model, above 1 for a warning; empty where the model does not say it.
    """

    source: Source
    algorithm: Algorithm
    masks: Masks
    times_ms: tuple[float, ...] | None = None
    structures: tuple[Structure, ...] = field(default=())
    frames: tuple[int, ...] | None = None
    scores: tuple[float, ...] = ()

    @property
    def unfamiliarity(self) -> float:
        """The median score over the frames; NaN where there is none."""
        return float(np.median(self.scores)) if self.scores else math.nan

    @property
    def warning(self) -> str:
        """That the model was not made for these frames; empty where it does not warn."""
        if not self.unfamiliarity > LIMIT:
            return ""
        strange = sum(score > LIMIT for score in self.scores)
        return (
            f"{strange} of {len(self.scores)} frames are unlike those that the model was made on "
            f"(median unfamiliarity {self.unfamiliarity:.2f}, the limit is {LIMIT:g})"
        )

    @property
    def shown(self) -> Sequence[int]:
        """The frame of the source, counted from 0, of each mask."""
        return range(self.source.frames) if self.frames is None else self.frames
