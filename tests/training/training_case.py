"""A small real distillation, used by tests that need it in this process and in others."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from sonodistill.networks.encoder import Encoder
from sonodistill_training.distill.data import CorpusViews
from sonodistill_training.distill.method import Distillation
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.loop import Loop


class Frames:
    """Twenty frames of noise, smoothed so that there is something to learn."""

    def __init__(self) -> None:
        generator = np.random.default_rng(0)
        coarse = generator.integers(0, 256, (20, 9, 12))
        self.images = np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).astype(np.uint8)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]


def make_loop(output_dir, student="resnet18", mixup="batch", **settings) -> Loop:
    """A loop over seven-image batches of twenty frames, so that checkpoints fall inside epochs."""
    torch.manual_seed(0)
    teacher = load_teacher("vit_tiny_patch16_224", random=True, input_size=64)
    method = Distillation(teacher, Encoder(student), mixup=mixup, input_size=64, teacher_engine="torch")
    defaults = {"max_steps": 8, "batch_size": 7, "learning_rate": 1e-3, "checkpoint_steps": 5, "log_steps": 1}
    return Loop(method, CorpusViews(Frames(), 64), output_dir, device="cpu", **{**defaults, **settings})


if __name__ == "__main__":
    output, kill_after = Path(sys.argv[1]), int(sys.argv[2])
    loop = make_loop(output)
    loop.on_log = lambda row: os.kill(os.getpid(), signal.SIGKILL) if row["step"] == kill_after else None
    loop.run()
