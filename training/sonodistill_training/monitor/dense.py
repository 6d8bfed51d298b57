"""How well lesions can be outlined from an encoder's maps while it is trained: one linear layer, in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.labelled import read_labelled
from sonodistill_training.monitor.features import (
    Image,
    Item,
    items_of,
    read_gray,
    require_at_least,
    require_finite,
    shrink,
    through,
)

DENSE_BATCH = 16  # 200 MB of float32 for the 3904 channels of a ResNet-50 on a 28 x 28 grid
_QUANTILES = np.linspace(0.01, 0.995, 198)  # of the scores, as thresholds to choose among


class DenseProbe:
    """``probe(encoder, device)`` is ``{"probe_dice": ...}``, the mean Dice of held-out images at the grid's resolution.

    A ridge regression from all maps of the pyramid, resized to the grid and concatenated, to lesion or not; the
    threshold is the one that is best for the images it was fitted to. Images without a lesion are left out. The first
    of the folds is held out, always the same, so that values at two times of a training can be compared.

    Args:
        data: a folder with an ``index.csv`` (see :func:`read_labelled`), or ``(image, mask)`` or
            ``(image, mask, group)`` for each image: a path or (H, W) uint8; above 0 is lesion.
        input_size: pixels of the square that each image is brought to, once.
        grid: cells a side. A cell is lesion where half of it is; of a smaller lesion, the cell that holds most of it.
        folds: one of so many is held out; groups are never divided.
        ridge: penalty, relative to the variance of a standardised feature.
        limit: images with a lesion at most.
        split: only the frames of this split of the folder.
        seed: of the choice of images and of the folds.
        precision: of the encoder, as for ``use_bf16``.

    Raises:
        DatasetError: fewer groups with a lesion than folds.
        UnreadableFileError, UnsupportedFormatError: an image or a mask cannot be read.
        BundleConfigError: a setting that cannot work.
    """

    def __init__(
        self,
        data: str | Path | Sequence[tuple[Any, ...]],
        input_size: int = 224,
        grid: int = 28,
        folds: int = 3,
        ridge: float = 0.01,
        limit: int = 300,
        split: str | None = None,
        seed: int = 0,
        precision: str = "auto",
    ) -> None:
        require_at_least(1, grid=grid, limit=limit, input_size=input_size)
        require_at_least(2, folds=folds)
        self.grid, self.ridge, self.precision = grid, ridge, precision
        path = Path(data) if isinstance(data, (str, Path)) else None
        items = _annotated(path, split) if path else items_of(data)  # type: ignore[arg-type]
        images: list[Image] = []
        masks, groups = [], []
        for index in np.random.default_rng(seed).permutation(len(items)).tolist():
            if len(images) == limit:
                break
            mask = cells(items[index].target, grid)
            if mask is not None:
                images.append(items[index].image)
                masks.append(mask)
                groups.append(items[index].group)
        if len(set(groups)) < folds:
            raise DatasetError(
                f"{len(set(groups))} groups (or single images) have a lesion; {folds} folds need as many",
                path=path,
                remedy="give fewer folds, a larger limit, or more images with a mask",
            )
        self.train, self.held_out = _first_fold(groups, folds, seed)
        self.masks = np.stack(masks)  # (N, grid, grid) bool
        self.images = shrink(images, input_size)

    def __call__(self, encoder: nn.Module, device: torch.device) -> dict[str, float]:
        """Mean Dice of the held-out images.

        Raises:
            NotFiniteError: a feature is not a finite number.
        """
        moments = Moments()
        lesions = torch.from_numpy(self.masks[self.train]).flatten(1).split(DENSE_BATCH)
        for maps, lesion in zip(self._maps(encoder, device, self.train), lesions, strict=True):
            moments.add(maps.flatten(2).transpose(1, 2).flatten(0, 1), lesion.flatten().to(device).float())
        weight, bias = moments.ridge(self.ridge)
        layer = torch.from_numpy(weight).float().to(device)
        # The training images go through the encoder again: their maps would take gigabytes, their scores do not.
        scores = [
            torch.cat([torch.einsum("bchw,c->bhw", maps - moments.shift[:, None, None], layer).cpu() for maps in parts])
            for parts in (self._maps(encoder, device, self.train), self._maps(encoder, device, self.held_out))
        ]
        fitted, unseen = (require_finite(part.double().numpy() + bias) for part in scores)
        threshold = best_threshold(fitted, self.masks[self.train])
        return {"probe_dice": float(dice(unseen >= threshold, self.masks[self.held_out]).mean())}

    def _maps(self, encoder: nn.Module, device: torch.device, chosen: NDArray[np.int64]) -> Any:
        """(B, C, grid, grid) float32 for each batch of the chosen images."""
        return through(
            lambda batch: resized_pyramid(encoder, batch, self.grid),
            self.images[torch.from_numpy(chosen)],
            device,
            self.precision,
            DENSE_BATCH,
        )


class Moments:
    """Sums over cells from which a ridge regression follows, whatever their number.

    Attributes:
        shift: (C,) taken off the features first, so that float32 holds what is left of them.
    """

    shift: Tensor

    def __init__(self) -> None:
        self.count = 0

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Count in (N, C) features and (N,) targets; products in float32 on their device, sums in float64."""
        if not self.count:
            self.shift = features.mean(dim=0)
            channels = len(self.shift)
            self._features, self._cross = np.zeros(channels), np.zeros(channels)
            self._gram, self._targets = np.zeros((channels, channels)), 0.0
        features = features - self.shift
        self.count += len(targets)
        self._features += features.sum(dim=0).cpu().numpy()
        self._gram += (features.T @ features).cpu().numpy()
        self._cross += (features.T @ targets).cpu().numpy()
        self._targets += float(targets.sum())

    def ridge(self, penalty: float) -> tuple[NDArray[np.float64], float]:
        """(C,) weight and bias for features less the shift, which minimise, for standardised features z,

        ``mean((z @ w + b - y)^2) + penalty * |w|^2``.

        Raises:
            NotFiniteError: a feature was not a finite number.
        """
        require_finite(self._gram)
        mean, target = self._features / self.count, self._targets / self.count
        covariance = self._gram / self.count - np.outer(mean, mean)
        scale = np.sqrt(np.diag(covariance).clip(min=0))
        scale = np.where(scale > 0, scale, 1.0)
        correlation = covariance / np.outer(scale, scale) + penalty * np.eye(len(scale))
        weight = np.linalg.solve(correlation, (self._cross / self.count - mean * target) / scale) / scale
        return weight, target - float(weight @ mean)


def resized_pyramid(encoder: nn.Module, images: Tensor, grid: int) -> Tensor:
    """(B, C, grid, grid) float32: all maps of the pyramid, averaged where they are finer, else bilinear."""
    resized = []
    for level in encoder.pyramid(images):  # type: ignore[operator]
        finer = level.shape[-1] >= grid
        options: dict[str, Any] = {"mode": "area"} if finer else {"mode": "bilinear", "align_corners": False}
        resized.append(functional.interpolate(level.float(), (grid, grid), **options))
    return torch.cat(resized, dim=1)


def cells(mask: Image, grid: int) -> NDArray[np.bool_] | None:
    """(grid, grid) lesion cells of a mask, None where it is empty."""
    lesion = (read_gray(mask) > 0).astype(np.float32)
    if not lesion.any():
        return None
    shrinks = grid < max(lesion.shape)
    share = cv2.resize(lesion, (grid, grid), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
    return share >= min(0.5, float(share.max()))


def dice(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(..., H, W) and (N, H, W) to (..., N): twice the common cells over the sum of both. No truth is empty."""
    common = (found & truth).sum(axis=(-2, -1))
    return 2 * common / (found.sum(axis=(-2, -1)) + truth.sum(axis=(-2, -1)))


def best_threshold(scores: NDArray[np.float64], masks: NDArray[np.bool_]) -> float:
    """Of 198 quantiles of the (N, H, W) scores, the one from which on lesion is said with the highest mean Dice."""
    thresholds = np.unique(np.quantile(scores, _QUANTILES))
    means = [dice(scores >= threshold, masks).mean() for threshold in thresholds]
    return float(thresholds[int(np.argmax(means))])


def _annotated(folder: Path, split: str | None) -> list[Item]:
    frames = [frame for frame in read_labelled(folder) if frame.mask and split in (None, frame.split)]
    return [Item(frame.image, frame.mask, frame.group) for frame in frames]


def _first_fold(groups: Sequence[str], folds: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(training rows, held-out rows)."""
    from sklearn.model_selection import StratifiedGroupKFold  # a second to import

    same = np.zeros(len(groups), np.int64)  # nothing to stratify by; its folds are of like size all the same
    return next(StratifiedGroupKFold(folds, shuffle=True, random_state=seed).split(same, same, np.array(groups)))
