"""Fit the warning score of a checkpoint to the frames it was trained on, and store it in the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sonodistill.inference import familiarity
from sonodistill.inference.familiarity import Familiarity, FamiliarityError
from sonodistill.inference.scored import features, map_index
from sonodistill.networks.checkpoint import load_network
from sonodistill.transforms.geometry import Size, to_input
from sonodistill.weights import load_weights, network_part, read_info, read_metadata, save_head, save_weights
from sonodistill.weights_header import WeightsInfo
from sonodistill_training.corpus.labelled import SPLITS
from sonodistill_training.evaluate.external.frames import Item, Reading, index_sha256, items_of

_BATCH = 8
_SIZE = (256, 256)

Tick = Callable[[], None]
Images = Iterable[tuple[str, NDArray[np.uint8]]]


@dataclass(frozen=True)
class Embedded:
    """(N, D) features of frames, and the patient, case or video of each."""

    features: NDArray[np.float32]
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.groups)


@dataclass
class Fitted:
    """A score that was fitted.

    Attributes:
        values: what is stored.
        about: the entry of the header.
        inside: the features of each split of the data.
        skipped: files that could not be read, and why.
    """

    values: Familiarity
    about: dict[str, Any]
    inside: dict[str, Embedded]
    skipped: dict[str, str] = field(default_factory=dict)


class Embedder:
    """A checkpoint's encoder: images of any size to features, computed on ``device``.

    Raises:
        WeightsError: the checkpoint is not what it says.
        FamiliarityError: its encoder has no map of stride 8.
    """

    def __init__(self, checkpoint: str | Path, device: str | torch.device = "cpu") -> None:
        network, self.info = load_network(checkpoint)
        self._device = torch.device(device)
        self._encoder: Any = getattr(network, "encoder", network).to(self._device)
        self._index = map_index(self._encoder)
        self.size: Size = self.info.input_size or _SIZE

    @torch.inference_mode()
    def __call__(self, images: Images, tick: Tick = lambda: None) -> Embedded:
        """The features of (group, (H, W) uint8) images; ``tick`` is called after each."""
        groups: list[str] = []
        parts: list[NDArray[np.float32]] = []
        batch: list[NDArray[np.float32]] = []
        for group, image in images:
            groups.append(group)
            batch.append(to_input(image, self.size))
            if len(batch) == _BATCH:
                parts.append(self._features(batch))
                batch = []
            tick()
        if batch:
            parts.append(self._features(batch))
        width = 2 * self._encoder.channels[self._index]
        return Embedded(np.concatenate([np.zeros((0, width), np.float32), *parts]), tuple(groups))

    def _features(self, batch: list[NDArray[np.float32]]) -> NDArray[np.float32]:
        maps = self._encoder.pyramid(torch.from_numpy(np.stack(batch)).to(self._device))
        return features(maps, self._index).cpu().numpy()


def fit_to(
    embedder: Embedder,
    folder: Path,
    *,
    quantile: float = familiarity.QUANTILE,
    seed: int = 0,
    splits: Sequence[str] = SPLITS,
    tick: Tick = lambda: None,
) -> Fitted:
    """Fit to a folder's training split and calibrate by its validation split.

    Args:
        embedder: of the model.
        folder: with an index.
        quantile: share of frames of its own kind that are to be familiar.
        seed: of the dealing into splits, where the index names none: that of the training.
        splits: those that are embedded; the test split is for a measurement.
        tick: called after each frame.

    Raises:
        DatasetError: the folder has no index.
        FamiliarityError: too few frames.
    """
    items = items_of("", folder, seed)
    inside: dict[str, Embedded] = {}
    skipped: dict[str, str] = {}
    if not any(item.split == "train" for item in items):
        raise FamiliarityError(
            "no frame is in the training split", remedy=f"write an index.csv with splits in {folder}"
        )
    counts = Counter(item.split for item in items)
    familiarity.require_enough(counts["train"], counts["validation"])  # before anything is computed
    for split in splits:
        reading = Reading([item for item in items if item.split == split])
        inside[split] = embedder(images_of(reading), tick)
        skipped |= reading.skipped
    values = familiarity.fit(inside["train"].features, inside["validation"].features, quantile=quantile)
    about = {
        "version": familiarity.VERSION,
        "data": folder.resolve().name,
        "index_sha256": index_sha256(folder),
        "seed": seed,
        "frames": len(inside["train"]),
        "calibration_frames": len(inside["validation"]),
        "calibration_groups": len(set(inside["validation"].groups)),
        "quantile": quantile,
        "features": f"channel means and deviations of the map of stride {familiarity.STRIDE}",
        "components": len(values.components),
    }
    return Fitted(values, about, inside, skipped)


def images_of(reading: Reading) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """(group, image) of what can be read."""
    return ((item.group, frame.image) for item, frame in reading)


def store(checkpoint: Path, out: Path, fitted: Fitted) -> None:
    """Write the checkpoint with its score to ``out``; the network's tensors stay as they are, bit for bit."""
    state, whole = load_weights(checkpoint)
    own = read_info(checkpoint)
    more = {name: text for name, text in read_metadata(checkpoint).items() if name not in _OWN}
    extra = {name: torch.from_numpy(value) for name, value in familiarity.to_tensors(fitted.values).items()}
    tensors = {**network_part(state), **extra}
    info: WeightsInfo = replace(whole, familiarity=fitted.about)
    if own is not None and own.encoder_file:
        save_head(out, tensors, info, out.parent / own.encoder_file, more)
    else:
        save_weights(out, tensors, info, more)


_OWN = {"sonodistill", "tensors_sha256", "encoder_file", "encoder_sha256", "familiarity"}


def count(folder: Path, seed: int = 0, splits: Sequence[str] = SPLITS) -> int:
    """Frames of the splits of a folder, for a progress bar."""
    return sum(item.split in splits for item in items_of("", folder, seed))


__all__ = ["Embedded", "Embedder", "Fitted", "Item", "count", "fit_to", "images_of", "store"]
