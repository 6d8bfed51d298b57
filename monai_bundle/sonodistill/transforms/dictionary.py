"""MONAI dictionary transforms between frames and network tensors."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from sonodistill.frames import Frame, read
from sonodistill.transforms.geometry import Size, from_output, mask_to_input, to_input
from sonodistill.transforms.masks import common_root, mask_path, write_mask


class FrameToInputd(MapTransform):
    """A frame, or the path of a file whose frame it is -> (1, H, W) float32 in [0, 1] at the network's size.

    A path may be accompanied by ``data["frame"]``, the 0-based frame to take (default 0). The tensor's metadata hold
    ``filename_or_obj``, ``frame``, ``source_size`` (H, W) and ``mm_per_pixel``.
    """

    def __init__(self, keys: KeysCollection, size: Size, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = (int(size[0]), int(size[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            frame = _frame(result[key], int(result.get("frame", 0)))
            meta = {
                "filename_or_obj": str(frame.provenance.path),
                "frame": frame.index,
                "source_size": frame.image.shape,
                "mm_per_pixel": frame.mm_per_pixel or (float("nan"), float("nan")),
            }
            result[key] = MetaTensor(torch.from_numpy(to_input(frame.image, self.size)), meta=meta)
        return result


class MaskToInputd(MapTransform):
    """The path of a mask image (above 0 is foreground) -> (1, H, W) float32 of 0 and 1 at the network's size.

    An empty path means that the frame shows no lesion: an empty mask.
    """

    def __init__(self, keys: KeysCollection, size: Size, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = (int(size[0]), int(size[1]))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            path = str(result[key])
            mask = _frame(path, 0).image if path else np.zeros(self.size, np.uint8)
            result[key] = MetaTensor(torch.from_numpy(mask_to_input(mask, self.size)), meta={"filename_or_obj": path})
        return result


class OutputToMaskd(MapTransform):
    """Logits (1, h, w) -> mask (1, H, W) uint8 of 0 and 1 on the pixel grid of the frame they were computed from.

    Args:
        image_key: the input whose ``source_size`` says the grid.
        threshold: foreground is a probability above it.
    """

    def __init__(
        self, keys: KeysCollection, image_key: str = "image", threshold: float = 0.5, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.image_key, self.threshold = image_key, threshold

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        meta = dict(result[self.image_key].meta)
        height, width = (int(side) for side in meta["source_size"])
        for key in self.key_iterator(result):
            probability = torch.sigmoid(torch.as_tensor(result[key]).float()).cpu().numpy()
            mask = from_output(probability, (height, width)) > self.threshold
            result[key] = MetaTensor(torch.from_numpy(mask.astype(np.uint8)), meta=meta)
        return result


class SaveMaskd(MapTransform):
    """Write each mask (1, H, W) as a PNG of 0 and 255 where ``mask_path`` says; the path is kept in ``<key>_path``.

    Args:
        output_dir: made if it is not there.
        sources: the files and folders that the frames come from, whose tree is kept under ``output_dir``.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        sources: str | Path | Sequence[str | Path],
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_dir, self.root = Path(output_dir), common_root(sources)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        for key in self.key_iterator(result):
            meta = result[key].meta
            path = mask_path(self.output_dir, str(meta["filename_or_obj"]), int(meta["frame"]), self.root)
            write_mask(path, result[key][0].cpu().numpy().astype(np.uint8))
            result[f"{key}_path"] = str(path)
        return result


def _frame(source: Frame | str | Path, index: int) -> Frame:
    if isinstance(source, Frame):
        return source
    return next(read(Path(str(source)), only={index}))
