"""A small real self-distillation, used by tests that need it in this process and in others."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np

from sonodistill_training.loop import Loop
from sonodistill_training.pretrain.build import make_vit
from sonodistill_training.pretrain.crops import MultiCropFrames, multi_crop
from sonodistill_training.pretrain.method import LossWeights, SelfDistillation

SIZE = 48


class Frames:
    """Sixteen frames of two shapes, smoothed noise."""

    def __init__(self) -> None:
        coarse = np.random.default_rng(0).integers(0, 256, (16, 9, 12))
        images = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).astype(np.uint8)
        self.images = [image if number % 3 else image[:64, :80] for number, image in enumerate(images)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def make_method(weights=None, drop_path=0.3, registers=None, **options) -> SelfDistillation:
    """timm's test_vit (64 wide, 6 blocks) and heads of 32 prototypes."""
    student = make_vit("test_vit", input_size=SIZE, drop_path=drop_path, registers=registers)
    crops = multi_crop(SIZE, 32, 3)
    head = {"prototypes": 32, "hidden": 24, "bottleneck": 16}
    return SelfDistillation(student, crops, weights or LossWeights(), **{**head, **options})


def make_loop(output_dir, method=None, seed=0, monitors=(), **settings) -> Loop:
    """A loop over six-frame batches of sixteen frames, so that checkpoints fall inside epochs."""
    method = method or make_method()
    frames = MultiCropFrames(Frames(), method.crops, seed=seed)
    defaults = {"max_steps": 8, "batch_size": 6, "learning_rate": 1e-3, "weight_decay": 0.04, "clip": 3.0}
    settings = {"checkpoint_steps": 5, "log_steps": 1, "precision": "fp32", "seed": seed, **defaults, **settings}
    return Loop(method, frames, output_dir, device="cpu", monitors=monitors, **settings)


if __name__ == "__main__":
    kind, output = sys.argv[1], Path(sys.argv[2])
    if kind == "killed":
        loop = make_loop(output)
        loop.on_log = lambda row: os.kill(os.getpid(), signal.SIGKILL) if row["step"] == 7 else None
    else:  # KoLeo looks at the images of one process alone
        method = make_method(LossWeights(koleo=0), drop_path=0.0, balance=sys.argv[3])
        loop = make_loop(output, method, batch_size=8, max_steps=3)
    loop.run()
