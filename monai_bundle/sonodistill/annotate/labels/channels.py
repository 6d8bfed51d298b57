"""Masks of label numbers as targets of a network with a channel for each label."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from sonodistill.frames import read
from sonodistill.transforms.geometry import Size, mask_to_input


class NumbersToInputd(MapTransform):
    """The path of a mask image of label numbers -> (labels, H, W) float32 of 0 and 1 at the network's size.

    As ``transforms.dictionary.MaskToInputd`` for several labels.

    Args:
        size: (height, width) of the network's input.
        labels: how many; channel 0 is label number 1.
    """

    def __init__(self, keys: KeysCollection, size: Size, labels: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size, self.labels = (int(size[0]), int(size[1])), labels

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            path = str(result[key])
            numbers = next(read(Path(path))).image
            planes = [mask_to_input((numbers == at).astype(np.uint8), self.size) for at in range(1, self.labels + 1)]
            result[key] = MetaTensor(torch.from_numpy(np.concatenate(planes)), meta={"filename_or_obj": path})
        return result
