"""Dice, IoU and 95 % Hausdorff distance of single images, and what a test set of them amounts to.

Counting (:func:`count`) is apart from reducing (:func:`score`, :func:`summarise_segmentation`), as in
segmentation_models_pytorch's ``metrics/functional.py``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sonodistill.errors import EmptyInputError, SonoDistillError

TOLERANCE = 1e-9  # of the invariant: float64 arithmetic, nothing else
PERCENTILE = 95

Spacing = float | tuple[float, float]
"""Millimetres a pixel: of a square pixel, or (row, column)."""


class MaskError(SonoDistillError):
    """A predicted mask cannot be compared with its truth: another size, another type, no usable spacing."""


class ImpossibleResultError(SonoDistillError):
    """Dice and IoU that cannot belong to the same predictions."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Pixels of one image: in both masks, in each, and in all."""

    both: int
    predicted: int
    truth: int
    pixels: int

    @property
    def dice(self) -> float:
        """2 |A and B| / (|A| + |B|); 1 where both are empty, hence 0 where exactly one is."""
        total = self.predicted + self.truth
        return 2 * self.both / total if total else 1.0

    @property
    def iou(self) -> float:
        """|A and B| / |A or B|; 1 where both are empty, hence 0 where exactly one is."""
        union = self.predicted + self.truth - self.both
        return self.both / union if union else 1.0


@dataclass(frozen=True, slots=True)
class SegmentationScore:
    """A predicted mask beside its truth.

    Attributes:
        dice, iou: in [0, 1]; 1 where both masks are empty, 0 where exactly one is.
        hd95_px, hd95_mm: see :func:`hausdorff95`; None where a mask is empty, and in mm where the pixel's size is
            unknown.
        predicted_pixels, truth_pixels, pixels: of each mask, and of the image.
    """

    dice: float
    iou: float
    hd95_px: float | None
    hd95_mm: float | None
    predicted_pixels: int
    truth_pixels: int
    pixels: int


def score(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], mm_per_pixel: Spacing | None = None
) -> SegmentationScore:
    """Compare a predicted mask with its truth.

    Args:
        predicted, truth: (H, W) bool, on the same grid.
        mm_per_pixel: of that grid (not of the file it was resized from); None when unknown.

    Raises:
        MaskError: shapes differ, a mask is not a bool image, or a pixel has no positive size.
    """
    counts = count(predicted, truth)
    spacing = _spacing(mm_per_pixel)
    in_pixels = hausdorff95(predicted, truth)
    if in_pixels is None or spacing is None:
        in_mm = None
    elif spacing[0] == spacing[1]:
        in_mm = in_pixels * spacing[0]
    else:
        in_mm = hausdorff95(predicted, truth, spacing)
    return SegmentationScore(counts.dice, counts.iou, in_pixels, in_mm, counts.predicted, counts.truth, counts.pixels)


def count(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Counts:
    """The pixels of (H, W) bool masks.

    Raises:
        MaskError: shapes differ, or a mask is not a bool image.
    """
    for name, mask in (("prediction", predicted), ("truth", truth)):
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.ndim != 2 or not mask.size:
            found = f"{getattr(mask, 'shape', '()')} and type {getattr(mask, 'dtype', type(mask).__name__)}"
            raise MaskError(f"a {name} of shape {found}", remedy="give masks as (H, W) bool")
    if predicted.shape != truth.shape:
        raise MaskError(
            f"a prediction of shape {predicted.shape} for a truth of shape {truth.shape}",
            remedy="bring the prediction to the truth's grid before it is scored",
        )
    both = int(np.count_nonzero(predicted & truth))
    return Counts(both, int(np.count_nonzero(predicted)), int(np.count_nonzero(truth)), truth.size)


def hausdorff95(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], spacing: tuple[float, float] = (1.0, 1.0)
) -> float | None:
    """The larger of the two directed 95th percentiles (linear interpolation) of the distances between boundaries.

    A boundary is made of the mask's pixels that have a 4-neighbour outside it, or touch the image's edge: MONAI's
    ``compute_hausdorff_distance(percentile=95)``, with which this agrees. The distances are SciPy's exact Euclidean
    transform on the box around both masks (no distance between boundaries leaves it), because MONAI's way through
    tensors and cropping transforms costs tens of times as much for an image of 256 pixels.

    Args:
        predicted, truth: (H, W) bool.
        spacing: (row, column) size of a pixel, in the unit of the result.

    Returns:
        None when a mask is empty.
    """
    from scipy.ndimage import distance_transform_edt

    if not predicted.any() or not truth.any():
        return None
    box = _box(predicted | truth)
    ours, theirs = _boundary(predicted[box]), _boundary(truth[box])
    directed = (
        np.percentile(distance_transform_edt(~other, sampling=spacing)[one], PERCENTILE)
        for one, other in ((ours, theirs), (theirs, ours))
    )
    return float(max(directed))


def check_invariant(dice: ArrayLike, iou: ArrayLike) -> None:
    """Raise unless the (images,) Dice and IoU can belong together: D / (2 - D) = IoU for each, and their means as
    :func:`check_means` says.

    Raises:
        ImpossibleResultError: they cannot, or one is not a number in [0, 1].
    """
    of_dice, of_iou = np.atleast_1d(np.asarray(dice, float)), np.atleast_1d(np.asarray(iou, float))
    if of_dice.shape != of_iou.shape:
        raise ImpossibleResultError(
            f"Dice of {of_dice.size} images and IoU of {of_iou.size}", remedy="give both of the same images"
        )
    fits = np.abs(of_iou - of_dice / (2 - of_dice)) <= TOLERANCE  # False for NaN
    fits &= (of_dice >= 0) & (of_dice <= 1)
    if not fits.all():
        worst = int(np.flatnonzero(~fits)[0])
        raise ImpossibleResultError(
            f"Dice {of_dice[worst]:.10g} and IoU {of_iou[worst]:.10g} of image {worst}: IoU must be D / (2 - D)",
            remedy="take both from the same masks, and keep them as float64",
        )
    if of_dice.size:
        check_means(float(of_dice.mean()), float(of_iou.mean()))


def check_means(dice: float, iou: float) -> None:
    """Raise unless D / (2 - D) <= IoU <= D, which holds for means over any set of images: D / (2 - D) is convex in D
    (Jensen), and at most D for each image.

    Raises:
        ImpossibleResultError: it does not hold.
    """
    if not 0 <= dice <= 1 + TOLERANCE or not _least_iou(dice) - TOLERANCE <= iou <= dice + TOLERANCE:
        raise ImpossibleResultError(
            f"mean Dice {dice:.10g} with mean IoU {iou:.10g}: IoU must lie in [{_least_iou(dice):.10g}, {dice:.10g}]",
            remedy="take both over the same images, with one rule for empty masks",
        )


def is_possible(dice: float, iou: float, decimals: int = 4) -> bool:
    """Whether a published pair of means, each rounded to ``decimals``, can belong to the same predictions."""
    half = 0.5 * 10.0**-decimals + 1e-12
    least, most = max(dice - half, 0.0), min(dice + half, 1.0)
    return bool(least <= most and _least_iou(least) <= iou + half and iou - half <= most)


def summarise_segmentation(columns: Mapping[str, Sequence[Any] | NDArray[Any]]) -> dict[str, float | int | None]:
    """What the scores of a test set amount to; None, never invented, where there is nothing to average.

    Args:
        columns: (images,) each: ``dice``, ``iou``, ``hd95_px``, ``hd95_mm`` (undefined: None or NaN),
            ``predicted_pixels``, ``truth_pixels``. Others are ignored. A lesion is an image whose truth is not empty.

    Returns:
        ``images``, ``lesions``, ``normals``: how many.
        ``dice_empty1``, ``iou_empty1``: means over all images, where an empty prediction of an empty truth is 1.
        ``dice_lesions``, ``iou_lesions``: means over the lesions alone.
        ``false_positive_rate``: share of the normals with any predicted pixel.
        ``missed``: share of the lesions with an empty prediction.
        ``hd95_px``, ``hd95_mm``: means over the lesions where it is defined, which favour an encoder that misses the
        difficult ones: ``hd95_undefined`` says how many lesions have none, ``hd95_mm_undefined`` the same in mm.

    Raises:
        EmptyInputError: no image.
        ImpossibleResultError: Dice and IoU that cannot belong together, or not as empty masks are scored here.
    """
    dice, iou = np.asarray(columns["dice"], float), np.asarray(columns["iou"], float)
    if not dice.size:
        raise EmptyInputError("the test set holds no image", remedy="give a split with test images")
    predicted, lesion = np.asarray(columns["predicted_pixels"]) > 0, np.asarray(columns["truth_pixels"]) > 0
    check_invariant(dice, iou)
    _check_empty(dice, predicted, lesion)
    hd95 = {unit: np.asarray(columns[f"hd95_{unit}"], float)[lesion] for unit in ("px", "mm")}
    summary: dict[str, float | int | None] = {
        "images": len(dice),
        "lesions": int(lesion.sum()),
        "normals": int((~lesion).sum()),
        "dice_empty1": _mean(dice),
        "dice_lesions": _mean(dice[lesion]),
        "iou_empty1": _mean(iou),
        "iou_lesions": _mean(iou[lesion]),
        "false_positive_rate": _mean(predicted[~lesion]),
        "missed": _mean(~predicted[lesion]),
        "hd95_px": _mean(hd95["px"][~np.isnan(hd95["px"])]),
        "hd95_mm": _mean(hd95["mm"][~np.isnan(hd95["mm"])]),
        "hd95_undefined": int(np.isnan(hd95["px"]).sum()),
        "hd95_mm_undefined": int(np.isnan(hd95["mm"]).sum()),
    }
    for subset in ("empty1", "lesions"):
        mean_dice, mean_iou = summary[f"dice_{subset}"], summary[f"iou_{subset}"]
        if mean_dice is not None and mean_iou is not None:
            check_means(mean_dice, mean_iou)
    return summary


def require_finite_predictions(values: NDArray[Any]) -> NDArray[Any]:
    """Logits or probabilities of any shape, if all are finite.

    Raises:
        NotFiniteError: one is not.
    """
    finite = np.isfinite(values)
    if not finite.all():
        from sonodistill_training.monitor.features import NotFiniteError  # torch, which a table of results needs not

        raise NotFiniteError(
            f"{1 - finite.mean():.1%} of the predictions are not finite",
            remedy="the training has diverged: lower the learning rate, or train in float32",
        )
    return values


def _least_iou(dice: float) -> float:
    return dice / (2 - dice)


def _mean(values: NDArray[Any]) -> float | None:
    return float(values.mean()) if values.size else None


def _check_empty(dice: NDArray[np.float64], predicted: NDArray[np.bool_], lesion: NDArray[np.bool_]) -> None:
    """Other libraries score empty masks by other rules; a mixture of rules must not be averaged."""
    expected = np.where(predicted | lesion, np.where(predicted & lesion, dice, 0.0), 1.0)
    if (dice != expected).any():
        image = int(np.flatnonzero(dice != expected)[0])
        raise ImpossibleResultError(
            f"Dice {dice[image]:.10g} of image {image}, which has an empty mask",
            remedy="score two empty masks as 1, and one empty mask as 0",
        )


def _spacing(mm_per_pixel: Spacing | None) -> tuple[float, float] | None:
    if mm_per_pixel is None:
        return None
    both = np.broadcast_to(np.asarray(mm_per_pixel, float), (2,))
    if not (np.isfinite(both).all() and (both > 0).all()):
        raise MaskError(f"mm_per_pixel is {mm_per_pixel}", remedy="give millimetres, or None when they are unknown")
    return float(both[0]), float(both[1])


def _box(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    around = np.pad(mask, 1)  # outside the image is outside the mask
    return mask & ~(around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:])
