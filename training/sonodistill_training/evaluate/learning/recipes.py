"""How heads and networks are trained for an evaluation: paper A's recipe, and a fair one for transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from sonodistill.errors import BundleConfigError

Schedule = Literal["restarts", "cosine", "poly", "linear"]
Augmentation = Literal["none", "flip", "affine", "paper_b"]
Probe = Literal["moments", "dinov2"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one training. All of them go into the name of its result.

    Attributes:
        name: "paper", "vit" or "paper_b".
        input_size: pixels of the square that frames are brought to.
        batch_size: frames a step.
        epochs: passes over the labelled frames, or as many times ``epoch_steps``.
        epoch_steps: steps between two looks at the validation frames, for which the labelled ones are drawn again and
            again; 0 for one pass over them.
        learning_rate: of the head; of the whole network with ``backbone_rate`` 1.
        weight_decay: of AdamW; biases and norms have none where ``layer_decay`` is below 1.
        schedule: "restarts" (cosine with warm restarts), "cosine" (to zero), "poly" (power 0.9) or "linear" (to zero),
            by epoch; of a "dinov2" probe by step.
        restart_epochs: T0 of the restarts.
        warmup_epochs: of a linear warm-up, at most a tenth of the epochs, of a "dinov2" probe half of them.
        backbone_rate: the encoder's learning rate relative to the head's.
        layer_decay: factor of the learning rate from each block to the one before it.
        drop_path: stochastic depth of the encoder.
        augment: "flip" (horizontal, 0.5), "affine" (flip, rotation to 15 degrees, zoom 0.8 to 1.2), "paper_b" (see
            :mod:`~sonodistill_training.evaluate.learning.augment_paper_b`), or "none". Never a vertical flip: the
            probe has a fixed side.
        probe: how "linear" judges classes: "moments" (features normalised by those of the labelled ones, AdamW) or
            "dinov2" (class tokens of the last block or the last four, with and without the mean patch token, SGD).
        probe_rates: learning rates that the "linear" protocol trains a head each with; validation chooses.
        dice_weight: of the soft Dice loss; the rest is the focal loss.
        focal_gamma: of the focal loss.
    """

    name: str
    input_size: int
    batch_size: int
    epochs: int = 50
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    schedule: Schedule = "restarts"
    restart_epochs: int = 10
    warmup_epochs: int = 0
    backbone_rate: float = 1.0
    layer_decay: float = 1.0
    drop_path: float = 0.0
    augment: Augmentation = "flip"
    probe_rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
    dice_weight: float = 0.8
    focal_gamma: float = 2.0
    epoch_steps: int = 0
    probe: Probe = "moments"

    @property
    def comparable(self) -> Recipe:
        """The recipe with its input size to the nearest 32 pixels: an encoder with patches of 14 takes 252 for 256."""
        return replace(self, input_size=round(self.input_size / 32) * 32)


_PAPER = {
    "segmentation": Recipe("paper", input_size=256, batch_size=32),
    "classification": Recipe("paper", input_size=224, batch_size=16),
}
"""Paper A, section 4.3. Unsaid there and chosen here: T0 = 10, weight decay (AdamW's default), the flip."""

_VIT = {
    task: replace(
        recipe,
        name="vit",
        input_size=224,
        schedule="cosine",
        warmup_epochs=5,
        layer_decay=0.75,
        weight_decay=0.05,
        drop_path=0.1,
        augment="affine",
    )
    for task, recipe in _PAPER.items()
}
"""What vision transformers are usually fine-tuned with, so that one is not judged by a recipe made for a ResNet."""

_DINOV2_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1)

_PAPER_B = {
    "segmentation": replace(
        _PAPER["segmentation"],
        name="paper_b",
        input_size=224,
        batch_size=64,
        epochs=100,
        epoch_steps=450,
        schedule="linear",
        warmup_epochs=3,
        layer_decay=0.99,
        drop_path=0.4,
        augment="paper_b",
        dice_weight=0.5,
        focal_gamma=0.0,
    ),
    "classification": replace(
        _PAPER["classification"],
        name="paper_b",
        batch_size=128,
        epochs=10,
        schedule="cosine",
        warmup_epochs=5,
        weight_decay=0.0,
        augment="flip",
        probe_rates=_DINOV2_RATES,
        probe="dinov2",
    ),
}
"""UltraDINO's as its code has them. Segmentation: AdamW 1e-4 with 1500 steps of warm-up (here 1350), then to zero along
a line over 45,000 steps (few shots: 20,000), validated every 450, 0.99 from block to block, stochastic depth 0.4,
cross-entropy (a focal loss of gamma 0) and Dice alike. Classes: DINOv2's linear probe, 10 epochs. Left out:
augmentation and mixup of the frames of a probe, whose features are computed once."""

_FEW_SHOTS_B = replace(_PAPER_B["segmentation"], epochs=40, epoch_steps=500)

RECIPES = {"paper": _PAPER, "vit": _VIT, "paper_b": _PAPER_B}


def published_recipe(name: str, task: str, shots: int = 0) -> Recipe:
    """The recipe of that name as it is, for "segmentation" or "classification" with that many shots (0: a fraction)."""
    if name == "paper_b" and task == "segmentation" and shots:
        return _FEW_SHOTS_B
    return RECIPES[name][task]


def recipe(name: str, task: str, shots: int = 0, **settings: Any) -> Recipe:
    """:func:`published_recipe` with settings changed.

    Settings that are None are left as they are.

    Raises:
        BundleConfigError: no such recipe, or a setting out of its range.
    """
    if name not in RECIPES:
        raise BundleConfigError(f"no recipe is called {name}", remedy=f"choose one of {', '.join(RECIPES)}")
    made = replace(
        published_recipe(name, task, shots), **{key: value for key, value in settings.items() if value is not None}
    )
    for setting, kind in (("schedule", Schedule), ("augment", Augmentation)):
        if getattr(made, setting) not in get_args(kind):
            choices = ", ".join(get_args(kind))
            raise BundleConfigError(f"{setting} is {getattr(made, setting)}", remedy=f"choose one of {choices}")
    if min(made.epochs, made.batch_size, made.input_size) < 1 or made.learning_rate <= 0 or made.epoch_steps < 0:
        raise BundleConfigError(
            f"epochs {made.epochs}, batch size {made.batch_size}, input size {made.input_size}, learning rate "
            f"{made.learning_rate}: each has to be positive"
        )
    return made
