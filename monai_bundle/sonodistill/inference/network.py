"""An exported model as a torch module, for MONAI's engines: the bundle's inference config runs on any runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from sonodistill import models
from sonodistill.errors import BundleConfigError
from sonodistill.inference.runtimes import AUTO, RUNTIMES, open_runtime
from sonodistill.inference.runtimes.base import filled
from sonodistill.inference.runtimes.checks import kind_of, require_answers
from sonodistill.transforms.geometry import Size


class RuntimeNetwork(nn.Module):
    """(B, 1, H, W) gray in [0, 1] to the logits of one mask (B, 1, H, W), float32 on the device of the input.

    Args:
        model: an exported model or a checkpoint, see :func:`sonodistill.inference.runtimes.open_runtime`.
        runtime: likewise, as are ``precision``, ``threads``, ``size`` and ``batch``.
        device: of the engine; a runtime that computes on the CPU alone does so whatever this is.

    Attributes:
        input_size: (height, width) that it takes.

    Raises:
        BundleConfigError: the model is no segmenter of one label.
        PredictionError: its output is no answer.
    """

    def __init__(
        self,
        model: str | Path,
        runtime: str = AUTO,
        precision: str = "fp32",
        threads: int = 0,
        size: Size | None = None,
        batch: int | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        model = models.path_of(model)
        by_torch = model.suffix.lower() in RUNTIMES["torch"].suffixes
        self.runtime = open_runtime(
            model,
            runtime,
            precision=precision,
            threads=threads,
            size=size,
            batch=batch,
            device=str(device) if by_torch else "cpu",
        )
        self.input_size = self.runtime.input_size
        self.path = model
        shape = self(torch.zeros(1, 1, *self.input_size)).shape
        kind = kind_of(self.runtime, tuple(shape), self.path)
        if kind != "segmenter" or shape[1] != 1:
            found = f"a segmenter of {shape[1]} labels" if kind == "segmenter" else f"one of the kind {kind}"
            raise BundleConfigError(
                f"the config writes one mask a frame, and this is {found}",
                path=model,
                remedy="run it with `sonodistill predict`",
            )

    def forward(self, x: Tensor) -> Tensor:
        """The model's output."""
        images = torch.as_tensor(x).detach().float().cpu().contiguous().numpy()
        fixed = self.runtime.batch or len(images)
        images = filled(images, -(-len(images) // fixed) * fixed)
        output = np.concatenate([self.runtime(images[i : i + fixed]) for i in range(0, len(images), fixed)])
        require_answers(self.path, images, output)
        return torch.from_numpy(output[: len(x)]).to(x.device)
