"""The frozen teacher: patch tokens of a large vision transformer as the distillation target (Eq. 1)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from sonodistill.errors import WeightsError
from sonodistill.networks.encoder import GrayInput
from sonodistill_training.distill.backbones import (
    Backbone,
    backbone_from_file,
    timm_backbone,
    transformers_backbone,
)
from sonodistill_training.distill.offline import OFFLINE_ARCHITECTURE, OFFLINE_TEACHER, offline_teacher_path

_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin"}


class Teacher(nn.Module):
    """A frozen backbone over gray images; it stays in eval mode and never has gradients.

    Attributes:
        name: what the teacher was asked for by; it goes into the student's metadata.
        dim: channels of the target, those of the last n blocks added up.
        patch_size: pixels of one target position.
        input_multiple: height and width have to be multiples of this.
        licence_notice: what the teacher's licence asks to go along with a student.
    """

    def __init__(self, name: str, backbone: Backbone) -> None:
        super().__init__()
        self.name = name
        self.dim = sum(backbone.dims)
        self.patch_size = backbone.patch_size
        self.input_multiple = backbone.patch_size
        self.licence_notice = backbone.licence_notice
        self.input = GrayInput(backbone.mean, backbone.std)
        self.backbone = backbone
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002 (the signature of nn.Module)
        """Stay in eval mode: drop path and dropout would make the target noisy."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) gray in [0, 1] to (B, dim, H / patch_size, W / patch_size).

        The final norm is applied to each block's patch tokens, class and register tokens are left out, and the blocks
        are concatenated on the channels, the earlier one first. A hierarchical backbone's stages are resized
        bilinearly to the last one's grid.

        Raises:
            ValueError: x is not gray, or its size is no multiple of ``input_multiple``.
        """
        if x.shape[1] != 1 or x.shape[-2] % self.input_multiple or x.shape[-1] % self.input_multiple:
            raise ValueError(
                f"{self.name} takes (B, 1, H, W) with H and W multiples of {self.input_multiple}, not {tuple(x.shape)}"
            )
        maps = self.backbone(self.input(x))
        grid = maps[-1].shape[-2:]
        same = [m if m.shape[-2:] == grid else F.interpolate(m, grid, mode="bilinear") for m in maps]
        return torch.cat(same, dim=1)


def load_teacher(
    spec: str | Path,
    *,
    blocks: int = 2,
    input_size: int = 224,
    architecture: str | None = None,
    random: bool = False,
) -> Teacher:
    """A teacher by name or by path.

    Args:
        spec: one of
            a timm name ("vit_base_patch16_dinov3.lvd1689m", "convnext_tiny.dinov3_lvd1689m");
            a transformers id or a local folder of one ("facebook/dinov3-vitb16-pretrain-lvd1689m");
            a local file (.safetensors, .pth, .pt, .bin) of the ``architecture``;
            "dinov2_vits14", the offline teacher of ``sonodistill weights fetch``.
        blocks: n, how many of the last blocks (of the last stages for a hierarchical model) make the target.
        input_size: side in pixels that an absolute position embedding is resampled to; other sizes work as well.
        architecture: timm name of a local file; by default the one in its header.
        random: build the architecture without weights.

    Raises:
        HubUnreachableError: a hub model that is not cached while the hub does not answer.
        WeightsError: no such file or folder, or weights of another architecture.
        BundleConfigError: timm has no such model, or fewer blocks than asked for.
    """
    name = str(spec)
    if name == OFFLINE_TEACHER:
        return Teacher(name, _offline_backbone(blocks, input_size, random))
    path = Path(spec)
    if path.suffix.lower() in _FILE_SUFFIXES:
        name = path.stem
        backbone = backbone_from_file(path, architecture, blocks=blocks, input_size=input_size, random=random)
    elif path.is_dir():
        name = path.name
        if not (path / "config.json").is_file():
            raise WeightsError(
                "this folder has no config.json", path=path, remedy="give the folder of save_pretrained, or a file"
            )
        backbone = transformers_backbone(path, blocks=blocks, input_size=input_size, random=random)
    elif path.is_absolute() or name.startswith("."):
        raise WeightsError("there is no such file or folder", path=path, remedy="give the path of a teacher")
    elif "/" in name and not name.startswith("timm/"):
        backbone = transformers_backbone(name, blocks=blocks, input_size=input_size, random=random)
    else:
        name = name.removeprefix("timm/")
        backbone = timm_backbone(name, blocks=blocks, input_size=input_size, random=random)
    return Teacher(name, backbone)


def _offline_backbone(blocks: int, input_size: int, random: bool) -> Backbone:
    if random:
        return timm_backbone(OFFLINE_ARCHITECTURE, blocks=blocks, input_size=input_size, random=True)
    path = offline_teacher_path()
    if not path.is_file():
        raise WeightsError(
            "the offline teacher has not been fetched yet",
            path=path,
            remedy=f"sonodistill weights fetch {OFFLINE_TEACHER}",
        )
    return backbone_from_file(path, None, blocks=blocks, input_size=input_size)
