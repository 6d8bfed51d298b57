"""How heads and networks are trained for an evaluation: paper A's recipe, and a fair one for transformers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from sonodistill.errors import BundleConfigError

Schedule = Literal["restarts", "cosine", "poly"]
Augmentation = Literal["none", "flip", "affine"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Settings of one training. All of them go into the name of its result.

    Attributes:
        name: "paper", "vit" or "paper_b".
        input_size: pixels of the square that frames are brought to.
        batch_size: frames a step.
        epochs: passes over the labelled frames.
        learning_rate: of the head; of the whole network with ``backbone_rate`` 1.
        weight_decay: of AdamW; biases and norms have none where ``layer_decay`` is below 1.
        schedule: "restarts" (cosine with warm restarts), "cosine" (to zero) or "poly" (power 0.9), by epoch.
        restart_epochs: T0 of the restarts.
        warmup_epochs: of a linear warm-up, at most a tenth of the epochs.
        backbone_rate: the encoder's learning rate relative to the head's.
        layer_decay: factor of the learning rate from each block to the one before it.
        drop_path: stochastic depth of the encoder.
        augment: "flip" (horizontal, 0.5), "affine" (flip, rotation to 15 degrees, zoom 0.8 to 1.2), or "none". Never a
            vertical flip: the probe has a fixed side.
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

_PAPER_B = {
    task: replace(
        recipe,
        name="paper_b",
        input_size=224,
        batch_size=64,
        schedule="poly",
        warmup_epochs=2,
        backbone_rate=0.1,
        augment="affine",
        dice_weight=0.5,
        focal_gamma=0.0,
    )
    for task, recipe in _PAPER.items()
}
"""UltraDINO's fine-tuning as its code has it: 1e-5, ten times that for the head, cross-entropy (a focal loss of
gamma 0) and Dice, warm-up and poly. It counts 20,000 and 45,000 iterations, here it is epochs; its changes of gamma,
noise and grid distortion are left out."""

RECIPES = {"paper": _PAPER, "vit": _VIT, "paper_b": _PAPER_B}


def recipe(name: str, task: str, **settings: Any) -> Recipe:
    """The recipe of that name for "segmentation" or "classification", with settings changed.

    Settings that are None are left as they are.

    Raises:
        BundleConfigError: no such recipe, or a setting out of its range.
    """
    if name not in RECIPES:
        raise BundleConfigError(f"no recipe is called {name}", remedy=f"choose one of {', '.join(RECIPES)}")
    made = replace(RECIPES[name][task], **{key: value for key, value in settings.items() if value is not None})
    for setting, kind in (("schedule", Schedule), ("augment", Augmentation)):
        if getattr(made, setting) not in get_args(kind):
            choices = ", ".join(get_args(kind))
            raise BundleConfigError(f"{setting} is {getattr(made, setting)}", remedy=f"choose one of {choices}")
    if min(made.epochs, made.batch_size, made.input_size) < 1 or made.learning_rate <= 0:
        raise BundleConfigError(
            f"epochs {made.epochs}, batch size {made.batch_size}, input size {made.input_size}, learning rate "
            f"{made.learning_rate}: each has to be positive"
        )
    return made
