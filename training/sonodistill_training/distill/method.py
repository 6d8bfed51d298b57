"""Distillation step of paper A: one augmented view, mixed, through a frozen teacher and the student (Eq. 1-7)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sonodistill import __version__
from sonodistill.networks.encoder import Encoder
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.distill.augment import finish, mixup
from sonodistill_training.distill.objective import token_mse
from sonodistill_training.distill.teacher import Teacher

HIDDEN = 2048


class Projector(nn.Sequential):
    """``g_phi`` of Eq. 3, per location: one linear layer (sections 3.2, 3.3), or two (section 3.5).

    (B, C_S, H_S, W_S) -> (B, dim, H_S, W_S).
    """

    def __init__(self, channels: int, dim: int, layers: int = 1) -> None:
        if layers not in (1, 2):
            raise ValueError(f"a projector has 1 or 2 layers, not {layers}")
        hidden = [nn.Conv2d(channels, HIDDEN, 1), _ChannelNorm(HIDDEN), nn.GELU()] if layers == 2 else []
        super().__init__(*hidden, nn.Conv2d(HIDDEN if layers == 2 else channels, dim, 1))
        for module in self:
            if isinstance(module, nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]


class _ChannelNorm(nn.LayerNorm):
    """Layer normalisation over the channels of a (B, C, H, W) map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class StudentWithProjector(nn.Module):
    """Eq. 2 and 3: encoder, projector, then bilinear to the teacher's grid.

    Projecting first gives the same numbers as upsampling first (a linear layer commutes with interpolation) at a
    fraction of the cost.
    """

    def __init__(self, student: Encoder, dim: int, projector_layers: int = 1) -> None:
        super().__init__()
        self.student = student
        self.projector = Projector(student.num_features, dim, projector_layers)

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, 1, H, W) in [0, 1] -> (B, dim, *grid)."""
        tokens = self.projector(self.student(images))
        return functional.interpolate(tokens, size=grid, mode="bilinear", align_corners=False)


class Distillation:
    """The method the training loop runs.

    Args:
        teacher: frozen; it is neither trained nor saved.
        student: any encoder.
        projector_layers: 1, or 2 for the "two-layer MLP" of section 3.5.
        use_mixup: Eq. 7, always on in the paper's main recipe.
        seed: of mixup's draws, which depend on nothing else but the step.
        corpus_sha256: of the frames, written into the student's file.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Encoder,
        projector_layers: int = 1,
        use_mixup: bool = True,
        seed: int = 0,
        corpus_sha256: str = "",
        input_size: int = 224,
    ) -> None:
        self.teacher = teacher
        self.network = StudentWithProjector(student, teacher.dim, projector_layers)
        self.use_mixup = use_mixup
        self.seed = seed
        self.corpus_sha256 = corpus_sha256
        self.input_size = input_size

    def to(self, device: torch.device) -> None:
        """Move both networks. Convolutions of the student run channels-last, which is faster on CPU and GPU."""
        self.teacher.to(device)
        self.network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def step(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Losses for ``image`` (B, 1, H, W) uint8, ``blur`` (B,) pixels and, where it is on, ``intensity`` (B, 3)."""
        images = finish(batch)
        if self.use_mixup:
            images = mixup(images, torch.Generator().manual_seed(self.seed * 1_000_003 + step))
        with torch.no_grad():
            target = self.teacher(images)  # Eq. 4: (B, n * d_T, h, w)
        grid = (target.shape[-2], target.shape[-1])
        prediction = network(images.contiguous(memory_format=torch.channels_last), grid)  # Eq. 5: the same view
        return token_mse(prediction, target)

    def identity(self) -> dict[str, Any]:
        """What makes it this distillation and no other."""
        return {
            "teacher": self.teacher.name,
            "student": self.network.student.name,
            "projector": [type(layer).__name__ for layer in self.network.projector],
            "mixup": self.use_mixup,
            "input_size": self.input_size,
            "corpus_sha256": self.corpus_sha256,
        }

    def export(self, path: Path) -> None:
        """Write the student alone: no projector, no teacher."""
        student = self.network.student
        info = WeightsInfo(
            kind="encoder",
            architecture=student.name,
            normalisation=student.input.normalisation,
            input_size=(self.input_size, self.input_size),
            teacher=self.teacher.name,
            corpus_hash=self.corpus_sha256,
            licence_notice=self.teacher.licence_notice,
            version=__version__,
        )
        save_weights(path, student.state_dict(), info)
