"""Multi-crop: two global and eight local views of each frame, drawn by the loader and cut out on the device.

The loader sends each frame once, as it is; what is drawn, and what is done to the gray values, is the distillation's
augmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sonodistill.errors import BundleConfigError
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.distill.augment import Augmentation, UltrasoundAugmentation, finish
from sonodistill_training.distill.augment_options import Range
from sonodistill_training.distill.data import CorpusViews
from sonodistill_training.pretrain.cut import crop
from sonodistill_training.pretrain.masks import BlockMasks, RandomMasks
from sonodistill_training.sampling import Position


@dataclass(frozen=True, slots=True)
class MultiCrop:
    """Which views are made of a frame.

    Attributes:
        whole: the augmentation of each global view; as many as there are global views.
        local: that of all local views.
        size: pixels of a global view.
        local_size: of a local view.
        local_count: local views.

    Raises:
        BundleConfigError: no global view, a negative number of local ones, or a size below 1.
    """

    whole: Sequence[Augmentation]
    local: Augmentation
    size: int = 224
    local_size: int = 96
    local_count: int = 8

    def __post_init__(self) -> None:
        if len(self.whole) < 1 or self.local_count < 0 or min(self.size, self.local_size) < 1:
            raise BundleConfigError(
                f"{len(self.whole)} global views of {self.size} and {self.local_count} local ones of "
                f"{self.local_size} pixels",
                remedy="give one or more global views, and sizes that are multiples of the patch",
            )

    @property
    def kinds(self) -> list[tuple[str, Augmentation, int, int]]:
        """(name, augmentation, views, size) of the kinds of views."""
        found = [(f"global{number}", one, 1, self.size) for number, one in enumerate(self.whole)]
        return [*found, ("local", self.local, self.local_count, self.local_size)] if self.local_count else found

    @property
    def identity(self) -> str:
        """What a training that goes on must have in common with the one before."""
        return "; ".join(f"{name} {count} x {size}: {one.identity}" for name, one, count, size in self.kinds)


def multi_crop(
    size: int = 224,
    local_size: int = 96,
    local_count: int = 8,
    global_scale: Range = (0.32, 1.0),
    local_scale: Range = (0.05, 0.32),
    flip: float = 0.5,
    blur: Sequence[float] = (1.0, 0.1, 0.5),
    blur_sigma: Range = (0.1, 2.0),
    intensity: float = 0.8,
) -> MultiCrop:
    """DINOv2's views, less what ultrasound does not have.

    There is a horizontal flip and no vertical one. DINOv2's colour jitter is a change of gain, contrast and gray map
    here; it solarises the second view, for which no scanner has a counterpart, so that is left out.

    Args:
        blur: probabilities of a blur of the first and second global view and of local views, as they are.
        blur_sigma: its standard deviation, pixels of the view.

    Raises:
        AugmentationError: a probability or a range cannot be.
        BundleConfigError: not three probabilities of a blur, or sizes that cannot be.
    """
    if len(blur) != 3:
        raise BundleConfigError(f"blur is {blur}", remedy="give three: of the first, the second and local views")
    first, second, few = (
        UltrasoundAugmentation(scale=scale, flip=flip, blur=share, blur_sigma=blur_sigma, intensity=intensity)
        for scale, share in zip((global_scale, global_scale, local_scale), blur, strict=True)
    )
    return MultiCrop((first, second), few, size, local_size, local_count)


def single_crop(
    size: int = 224,
    scale: Range = (0.2, 1.0),
    flip: float = 0.5,
    blur: float = 0.0,
    blur_sigma: Range = (0.1, 2.0),
    intensity: float = 0.0,
) -> MultiCrop:
    """MAE's one view: a crop and a horizontal flip.

    Raises:
        AugmentationError: a probability or a range cannot be.
    """
    view = UltrasoundAugmentation(scale=scale, flip=flip, blur=blur, blur_sigma=blur_sigma, intensity=intensity)
    return MultiCrop((view,), view, size, size, local_count=0)


class MultiCropFrames(CorpusViews):
    """``frames.__getitems__([(position, index), ...])`` is a batch of frames, and what views to make of them.

    ``image`` (B, 1, H, W) uint8, each frame in the upper left corner; for each kind of view ``<kind>/boxes`` (B, n, 4),
    ``<kind>/flip`` and what else its augmentation draws; ``masks`` (G, B, N) bool, ``masked`` (M,) int64 and
    ``mask_weight`` (M,) float32.

    Args:
        data: the frames, a :class:`Corpus` or any sequence of (H, W) uint8 arrays.
        crops: which views.
        masks: which patches of the global views are hidden.
        patch_size: pixels.
        seed: with the position in the training, the only source of randomness.
        balance: data sets come in proportion to their size to this power: 1 as they are, 0 all alike.

    Raises:
        BundleConfigError: a view's size is no multiple of the patch.
    """

    def __init__(
        self,
        data: Corpus | Sequence[Any],
        crops: MultiCrop | None = None,
        masks: BlockMasks | RandomMasks | None = None,
        patch_size: int = 16,
        seed: int = 0,
        balance: float = 1.0,
    ) -> None:
        self.crops, self.masks = crops or multi_crop(), masks or BlockMasks()
        super().__init__(data, self.crops.size, self.crops.whole[0], seed, balance)
        for name, _, _, size in self.crops.kinds:
            if size % patch_size:
                near = (max(1, size // patch_size) * patch_size, (size // patch_size + 1) * patch_size)
                raise BundleConfigError(
                    f"{name} views of {size} pixels are no multiple of the patch of {patch_size}",
                    remedy=f"take {' or '.join(map(str, sorted(set(near))))}",
                )
        self.side = self.crops.size // patch_size

    def __getitem__(self, position: Position) -> dict[str, Tensor]:
        return self.__getitems__([position])

    def __getitems__(self, positions: Sequence[Position]) -> dict[str, Tensor]:
        """The batch of these positions."""
        places, indices = zip(*positions, strict=True)
        corpus = isinstance(self.data, Corpus)
        frames = self.data.take(indices) if corpus else [self.data[index] for index in indices]  # type: ignore[union-attr]
        shapes = np.array([frame.shape for frame in frames])
        canvas = np.zeros((len(frames), 1, *shapes.max(0)), np.uint8)
        for frame, place in zip(frames, canvas[:, 0], strict=True):
            place[: frame.shape[0], : frame.shape[1]] = frame
        return {"image": torch.from_numpy(canvas)} | self._drawn(np.array(places), shapes) | self._masked(places)

    def _drawn(self, places: NDArray[np.int64], shapes: NDArray[np.int64]) -> dict[str, Tensor]:
        total, first = sum(count for _, _, count, _ in self.crops.kinds), 0
        drawn: dict[str, Tensor] = {}
        for name, augmentation, count, _ in self.crops.kinds:
            # Each view has a place of its own in the endless sequence: that of its frame, times the views of a frame.
            numbers = (places[:, None] * total + first + np.arange(count)).ravel()
            views = augmentation.draw(self.seed, numbers, shapes.repeat(count, axis=0))
            values = {"boxes": torch.from_numpy(views.boxes), "flip": torch.from_numpy(views.flip)} | views.on_device()
            drawn |= {f"{name}/{key}": value.unflatten(0, (-1, count)) for key, value in values.items()}
            first += count
        return drawn

    def _masked(self, places: Sequence[int]) -> dict[str, Tensor]:
        masks = self.masks.draw(self.seed, np.array(places), len(self.crops.whole), self.side).transpose(1, 0, 2)
        weights = np.repeat(1 / np.maximum(masks.sum(-1), 1), masks.sum(-1).ravel())
        return {
            "masks": torch.from_numpy(np.ascontiguousarray(masks)),
            "masked": torch.from_numpy(np.flatnonzero(masks)),
            "mask_weight": torch.from_numpy(weights.astype(np.float32)),
        }

    def identity(self) -> dict[str, Any]:
        """What must not change when a training is gone on with."""
        return {"augmentation": self.crops.identity, "masks": self.masks.identity, "balance": self.balance}


def make_views(batch: Mapping[str, Tensor], crops: MultiCrop) -> tuple[Tensor, Tensor | None]:
    """Global views (G, B, 1, S, S) and local ones (L, B, 1, s, s), or None, in [0, 1], on the batch's device.

    Args:
        batch: of :class:`MultiCropFrames`.
        crops: the same.
    """
    device = batch["image"].device.type
    with torch.no_grad(), torch.autocast(device, enabled=False):
        images = batch["image"][:, 0].float()
        views = {name: _make(images, batch, name, size) for name, _, _, size in crops.kinds}
    local = views.pop("local", None)
    return torch.cat(list(views.values())), local


def _make(images: Tensor, batch: Mapping[str, Tensor], name: str, size: int) -> Tensor:
    """(n, B, 1, size, size) views of one kind."""
    prefix = f"{name}/"
    drawn = {key.removeprefix(prefix): value for key, value in batch.items() if key.startswith(prefix)}
    cut = crop(images, drawn.pop("boxes"), drawn.pop("flip"), size)
    shape = cut.shape[:2]
    views = finish({"image": cut.flatten(0, 1)} | {key: value.flatten(0, 1) for key, value in drawn.items()})
    return views.unflatten(0, shape).transpose(0, 1)
