"""Ultrasound-aware augmentation (paper A, section 3.4): moderate zoom crop, horizontal flip, mild blur.

Never a vertical flip (the probe has a fixed side) and never colour. Crop and flip run on a core, frame by frame, on
uint8; what follows runs on the batch, on the device. Every draw is a pure function of the seed and the position.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sonodistill_training.distill.augment_options import Count, Options, Range, Share, Within, choose
from sonodistill_training.distill.augment_pixels import (
    change_gain_by_depth,
    change_intensity,
    gaussian_blur,
    jitter,
    speckle,
)
from sonodistill_training.sampling import uniform

_TRIES = 10  # torchvision's: how often a crop that does not fit is drawn again
CROP_DRAWS = 2 * _TRIES + 2
"""Random numbers that a crop takes."""

# Where the numbers of each option begin. Those of a new one come last, so that the others keep theirs.
_FLIP, _BLUR, _INTENSITY, _DEPTH, _SPECKLE, _TGC = (CROP_DRAWS + number for number in (0, 1, 3, 7, 9, 13))


@dataclass(frozen=True, slots=True)
class Views:
    """How the frames of a batch are to be looked at. What an augmentation does not do is None.

    Attributes:
        boxes: (B, 4) top, left, height and width of the crop, pixels.
        flip: (B,) whether the view is mirrored.
        blur: (B,) standard deviation in pixels of the view; 0 = none.
        intensity: (B, 3) gain, contrast and gamma.
        blur_depth: (B,) standard deviation of the blur in the last row relative to that in the first.
        tgc: (B, k) gain at k depths.
        jitter: (B, 3) brightness, contrast and their order.
        speckle: (B, 2) strength and size of the grains.
        speckle_seed: (B,) of their noise.
    """

    boxes: NDArray[np.int64]
    flip: NDArray[np.bool_]
    blur: NDArray[np.float32] | None = None
    intensity: NDArray[np.float32] | None = None
    blur_depth: NDArray[np.float32] | None = None
    tgc: NDArray[np.float32] | None = None
    jitter: NDArray[np.float32] | None = None
    speckle: NDArray[np.float32] | None = None
    speckle_seed: NDArray[np.int64] | None = None

    def on_device(self) -> dict[str, Tensor]:
        """What is left to :func:`finish`, by name."""
        arrays = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)[2:]}
        return {name: torch.from_numpy(array) for name, array in arrays.items() if array is not None}


class Augmentation(Protocol):
    """What makes views of frames."""

    @property
    def identity(self) -> str:
        """What a training that goes on must have in common with the one before."""

    def draw(self, seed: int, positions: ArrayLike, shapes: ArrayLike) -> Views:
        """The views at these (B,) positions of the training, of frames of these (B, 2) shapes.

        Each depends on the seed and its own position and shape, and on nothing else.
        """


@dataclass(frozen=True, slots=True)
class UltrasoundAugmentation(Options):
    """How views are made. The paper gives no ranges; these are our reading of "moderate zoom" and "mild blur".

    What the paper does not have is off: ``depth_blur``, ``intensity``, ``tgc`` and ``speckle`` are 0.

    Attributes:
        scale: share of the frame's area that a crop keeps.
        ratio: aspect ratio of the crop relative to the frame's, drawn log-uniformly.
        flip: probability of a horizontal flip.
        blur: probability of a Gaussian blur, with a standard deviation in ``blur_sigma`` pixels of the view.
        intensity: probability of another gain, contrast and gray map.
        gain: added to the gray values, as shares of their range: a scanner's overall gain after log compression.
        contrast: factor of the gray values: its dynamic range.
        gamma: exponent of the gray values: its gray map.
        depth_blur: probability that a view's blur grows with depth, linearly, as a beam widens.
        blur_depth: its standard deviation at the bottom relative to that at the top, which ``blur_sigma`` then is.
        speckle: probability of noise that multiplies the gray values, correlated in space.
        speckle_strength: its standard deviation.
        speckle_size: standard deviation of its grains, pixels of the view.
        tgc: probability of a gain that varies smoothly with depth (time-gain compensation).
        tgc_gain: added at each of ``tgc_points`` depths, from top to bottom, as shares of the gray values' range.

    Raises:
        AugmentationError: a probability or a range cannot be.
    """

    scale: Annotated[Range, Within(1e-4, 1)] = (0.5, 1.0)
    ratio: Annotated[Range, Within(0.1, 10)] = (3 / 4, 4 / 3)
    flip: Share = 0.5
    blur: Share = 0.5
    blur_sigma: Annotated[Range, Within(0, 32)] = (0.1, 1.0)
    intensity: Share = 0.0
    gain: Annotated[Range, Within(-1, 1)] = (-0.1, 0.1)
    contrast: Annotated[Range, Within(0, 10)] = (0.8, 1.25)
    gamma: Annotated[Range, Within(0.01, 10)] = (0.8, 1.25)
    depth_blur: Share = 0.0
    blur_depth: Annotated[Range, Within(1, 10)] = (1.0, 3.0)
    speckle: Share = 0.0
    speckle_strength: Annotated[Range, Within(0, 1)] = (0.05, 0.2)
    speckle_size: Annotated[Range, Within(0, 32)] = (0.5, 1.5)
    tgc: Share = 0.0
    tgc_gain: Annotated[Range, Within(-1, 1)] = (-0.1, 0.1)
    tgc_points: Annotated[int, Count(2, 64)] = 6

    def draw(self, seed: int, positions: ArrayLike, shapes: ArrayLike) -> Views:
        """The views at these positions of the training, of frames of these (B, 2) shapes."""
        sizes = np.asarray(shapes)
        numbers = uniform(seed, positions, _TGC + 1 + self.tgc_points)
        blur = choose(self.blur, numbers[:, _BLUR:_INTENSITY], [self.blur_sigma], 0.0)
        deeper = choose(self.depth_blur, numbers[:, _DEPTH:_SPECKLE], [self.blur_depth], 1.0)
        grains = choose(
            self.speckle, numbers[:, _SPECKLE : _TGC - 1], [self.speckle_strength, self.speckle_size], [0, 0]
        )
        return Views(
            # The ratio is relative to the frame's own shape, so that a wide frame that is later squashed to a square
            # is not cropped to its centre.
            boxes=draw_boxes(sizes, numbers[:, :CROP_DRAWS], self.scale, self.ratio, sizes, sizes),
            flip=numbers[:, _FLIP] < self.flip,
            blur=None if blur is None else blur[:, 0],
            intensity=choose(
                self.intensity, numbers[:, _INTENSITY:_DEPTH], [self.gain, self.contrast, self.gamma], [0, 1, 1]
            ),
            blur_depth=None if deeper is None or blur is None else deeper[:, 0],
            tgc=choose(self.tgc, numbers[:, _TGC:], [self.tgc_gain] * self.tgc_points, 0.0),
            speckle=grains,
            speckle_seed=None if grains is None else (numbers[:, _TGC - 1] * 2**32).astype(np.int64),
        )


def draw_boxes(
    shapes: NDArray[np.int64],
    numbers: NDArray[np.float64],
    scale: Range,
    ratio: Range,
    square: NDArray[np.float64] | NDArray[np.int64],
    fallback: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(B, 4) boxes: of ten that are drawn the first that fits, else one of the size ``fallback`` (B, 2) in the centre.

    Args:
        shapes: (B, 2) of the frames.
        numbers: (B, CROP_DRAWS) in [0, 1).
        square: (B, 2) or (B, 1) height and width, of the frame's area, of the crop whose ratio counts as 1.
    """
    area = scale[0] + (scale[1] - scale[0]) * numbers[:, :_TRIES]
    low, high = np.log(ratio)
    ratios = np.exp(low + (high - low) * numbers[:, _TRIES : 2 * _TRIES])
    heights = np.rint(square[:, :1] * np.sqrt(area / ratios)).astype(np.int64)
    widths = np.rint(square[:, -1:] * np.sqrt(area * ratios)).astype(np.int64)
    fits = (heights > 0) & (heights <= shapes[:, :1]) & (widths > 0) & (widths <= shapes[:, 1:])
    rows, first, any_fits = np.arange(len(shapes)), fits.argmax(1), fits.any(1)[:, None]
    sizes = np.where(any_fits, np.stack([heights[rows, first], widths[rows, first]], 1), fallback)
    corners = np.floor(numbers[:, 2 * _TRIES :] * (shapes - sizes + 1)).astype(np.int64)
    return np.concatenate([np.where(any_fits, corners, (shapes - sizes) // 2), sizes], axis=1)


def crop_and_flip(frames: Sequence[NDArray[np.uint8]], views: Views, size: int) -> NDArray[np.uint8]:
    """(B, 1, size, size) uint8 views of (H, W) frames.

    Bilinear, which is four times as fast as averaging and no worse down to half the size; averaged below that.
    """
    batch = np.empty((len(frames), 1, size, size), np.uint8)
    plan = zip(frames, views.boxes.tolist(), views.flip.tolist(), batch[:, 0], strict=True)
    for frame, (top, left, height, width), flip, view in plan:
        shrinks = max(height, width) > 2 * size
        crop = frame[top : top + height, left : left + width]
        cv2.resize(crop, (size, size), view, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        if flip:
            cv2.flip(view, 1, view)
    return batch


def finish(batch: Mapping[str, Tensor]) -> Tensor:
    """The device's part: (B, 1, H, W) uint8 ``image`` to float in [0, 1], changed by what else the batch holds.

    That is any of ``tgc``, ``intensity``, ``jitter``, ``blur`` with ``blur_depth``, and ``speckle`` with
    ``speckle_seed``, in this order, each as in :class:`Views`. What is not there costs nothing.
    """
    with torch.autocast(batch["image"].device.type, enabled=False):  # bf16 has fewer gray levels than uint8
        images = batch["image"].float() / 255
        if "tgc" in batch:
            images = change_gain_by_depth(images, batch["tgc"])
        if "intensity" in batch:
            images = change_intensity(images, batch["intensity"])
        if "jitter" in batch:
            images = jitter(images, batch["jitter"])
        if "blur" in batch:
            images = gaussian_blur(images, batch["blur"], batch.get("blur_depth"))
        if "speckle" in batch:
            images = speckle(images, batch["speckle"], batch["speckle_seed"])
        return images


def mixup(images: Tensor, generator: torch.Generator, per_sample: bool = False) -> Tensor:
    """Eq. 7: ``lambda * x_a + (1 - lambda) * x_b`` with ``lambda ~ U(0, 1)`` and a random partner each.

    Args:
        images: (B, 1, H, W).
        per_sample: one lambda for each image; the paper's reading is one for the batch.
    """
    weight = torch.rand((images.shape[0], 1, 1, 1) if per_sample else (), generator=generator).to(images.device)
    partner = torch.randperm(images.shape[0], generator=generator).to(images.device)
    return weight * images + (1 - weight) * images[partner]
