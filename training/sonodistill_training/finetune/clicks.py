"""Interactive segmentation in the bundle's training: clicks are simulated inside the forward pass.

An iteration is RITM's (Sofiiuk et al., 2022): random first prompts, then up to some rounds of an answer without
gradient and a click on its largest error, then the answer that the loss sees. The encoder runs once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from numpy.typing import NDArray
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill.inference.inferer import PrecisionInferer
from sonodistill.networks.pyramid import resize
from sonodistill_training.corpus.labelled import INDEX, segmentation_items
from sonodistill_training.finetune.clicks_draw import Annotation, begin, bounding_box

Refine = Callable[[Tensor], Tensor]
_SMALLEST = 16  # pixels of a part that is a structure by itself


def interactive_items(folder: str | Path, split: str, seed: int = 0) -> list[dict[str, str]]:
    """As ``segmentation_items``, without frames whose mask is empty: nobody clicks on what is not there.

    Raises:
        DatasetError: the split has no frame with a structure.
    """
    items = segmentation_items(folder, split, seed=seed)
    shown = [item for item in items if _shows_something(Path(item["label"]))]
    if not shown:
        raise DatasetError(f"every mask of the {split} split is empty", path=folder, remedy=f"see its {INDEX}")
    return shown


def _shows_something(path: Path) -> bool:
    mask = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)
    return mask is None or bool(mask.any())  # what OpenCV cannot read is left to the reader that says why


def with_label(
    batch: Mapping[str, Any], device: torch.device, non_blocking: bool = False, **options: Any
) -> tuple[Tensor, Tensor, tuple[Tensor], dict[str, Any]]:
    """MONAI's ``prepare_batch`` that hands the label to the inferer too, for whoever clicks has to know it."""
    image, label = (batch[key].to(device=device, non_blocking=non_blocking, **options) for key in ("image", "label"))
    return image, label, (label,), {}


class RandOneStructured(RandomizableTransform, MapTransform):
    """Of a mask (1, H, W) of several parts keep a random one: a click on one of two lesions means that one.

    Args:
        keys: of the masks.
        prob: how often; otherwise all parts together are meant.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        choice = float(self.R.random())
        if self._do_transform:
            for key in self.key_iterator(result):
                mask = result[key]
                count, parts, stats, _ = cv2.connectedComponentsWithStats((mask[0].numpy() > 0).astype(np.uint8))
                large = [part for part in range(1, count) if stats[part, cv2.CC_STAT_AREA] >= _SMALLEST]
                if len(large) > 1:
                    chosen = parts == large[int(choice * len(large))]
                    result[key] = mask * torch.from_numpy(chosen[None])
        return result


class SimulatedClicks(PrecisionInferer):
    """For training: the answer to random prompts, after 0 to ``rounds`` - 1 corrections.

    Random numbers come from torch's generator, so that a resumed training draws the same.

    Args:
        rounds: how often the annotator speaks at most.
        keep_mask: how often the mask so far is among the prompts of the last answer.
        precision: as for :class:`PrecisionInferer`.
    """

    def __init__(self, rounds: int = 4, keep_mask: float = 0.85, precision: str = "auto") -> None:
        super().__init__(precision)
        if rounds < 1:
            raise BundleConfigError(f"{rounds} rounds of clicks", remedy="give 1 or more")
        self.rounds, self.keep_mask = rounds, keep_mask

    def __call__(self, inputs: Tensor, network: nn.Module, label: Tensor, *_: Any, **__: Any) -> Tensor:  # type: ignore[override]
        """Logits (B, 1, H, W) of images (B, 1, H, W), with gradient through the last answer alone."""
        rng = np.random.default_rng(int(torch.randint(2**62, ()).item()))
        truths, rounds = _truths(label), int(rng.integers(self.rounds))

        def prompts(refine: Refine) -> Tensor:
            annotations = [begin(truth, rng) for truth in truths]
            for _ in range(rounds):
                _correct(annotations, refine, inputs.device, rng)
            torch.clear_autocast_cache()  # weights that were cast without gradient would be used again with it
            return _maps(annotations, inputs.device, [bool(rng.random() > self.keep_mask) for _ in annotations])

        return super().__call__(_plain(inputs), network, prompts)


class OracleClicks(PrecisionInferer):
    """For validation: the answer after so many clicks, each at the centre of the largest error; nothing is random.

    Args:
        clicks: 0 or more; the first is at the centre of the structure.
        box: begin with its bounding box.
        precision: as for :class:`PrecisionInferer`.
    """

    def __init__(self, clicks: int = 3, box: bool = False, precision: str = "auto") -> None:
        super().__init__(precision)
        if clicks < 0 or (clicks == 0 and not box):
            raise BundleConfigError(f"{clicks} clicks and no box", remedy="give 1 click or more")
        self.clicks, self.box = clicks, box

    def __call__(self, inputs: Tensor, network: nn.Module, label: Tensor, *_: Any, **__: Any) -> Tensor:  # type: ignore[override]
        """Logits (B, 1, H, W) of images (B, 1, H, W)."""
        annotations = [Annotation(truth) for truth in _truths(label)]

        def prompts(refine: Refine) -> Tensor:
            clicks = self.clicks
            for annotation in annotations:
                if self.box and annotation.truth.any():
                    annotation.box = bounding_box(annotation.truth)
                elif clicks:
                    annotation.correct(np.zeros_like(annotation.truth))
            for _ in range(clicks if self.box else clicks - 1):
                _correct(annotations, refine, inputs.device, None)
            return _maps(annotations, inputs.device)

        return super().__call__(_plain(inputs), network, prompts)


def _correct(
    annotations: Sequence[Annotation], refine: Refine, device: torch.device, rng: np.random.Generator | None
) -> None:
    """Let the annotator see the network's answers and click once on each."""
    with torch.no_grad():
        logits = resize(refine(_maps(annotations, device)).float(), annotations[0].truth.shape)
    for annotation, answer in zip(annotations, (logits[:, 0] > 0).cpu().numpy(), strict=True):
        annotation.correct(answer, rng)


def _maps(annotations: Sequence[Annotation], device: torch.device, without_mask: Sequence[bool] = ()) -> Tensor:
    hidden = without_mask or [False] * len(annotations)
    drawn = [annotation.maps(without_mask=hide) for annotation, hide in zip(annotations, hidden, strict=True)]
    return torch.from_numpy(np.stack(drawn)).to(device)


def _truths(label: Tensor) -> NDArray[np.bool_]:
    return (_plain(label)[:, 0] > 0.5).cpu().numpy()


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's metadata, which slow every operation."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
