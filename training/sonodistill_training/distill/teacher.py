"""Frozen teachers: patch tokens of large vision transformers as the distillation target (Eq. 1)."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.networks.encoder import GrayInput
from sonodistill_training.distill.backbone_timm import backbone_from_file, timm_backbone
from sonodistill_training.distill.backbone_transformers import transformers_backbone
from sonodistill_training.distill.backbones import Backbone
from sonodistill_training.distill.offline import OFFLINE_ARCHITECTURE, OFFLINE_TEACHER, offline_teacher_path

_FILE_SUFFIXES = {".safetensors", ".pth", ".pt", ".bin"}
_ENTRY_KEYS = ("spec", "architecture", "blocks", "mean", "std")
# The layers that hand their weights as they are to an operation that autocast casts the arguments of. A subclass with
# a forward of its own may compute something from its weights first (standardised convolutions) and keeps them.
_CAST_BY_AUTOCAST = {nn.Linear.forward, nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward}

TeacherSpec = str | Path | Mapping[str, Any]


class Teacher(nn.Module):
    """A frozen backbone over gray images; it stays in eval mode and never has gradients.

    Attributes:
        name: what the teacher was asked for by; it goes into the student's metadata.
        dim: channels of the target, those of the last n blocks added up.
        patch_size: pixels of one target position.
        input_multiple: height and width have to be multiples of this.
        licence_notice: what the teacher's licence asks to go along with a student.
        precast_dtype: what :meth:`precast` has cast the weights to, if anything.
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
        self.precast_dtype: torch.dtype | None = None
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Teacher:  # noqa: ARG002 (the signature of nn.Module)
        """Stay in eval mode: drop path and dropout would make the target noisy."""
        return super().train(False)

    def precast(self, dtype: torch.dtype = torch.bfloat16) -> Teacher:
        """Cast the weights of linear and convolution layers to ``dtype`` in place, once and for all.

        Autocast keeps the casts only of weights that are trained, so that a frozen network's are cast at every
        forward pass. What these layers compute under autocast stays the same to the bit; norms, embeddings and scales
        keep float32, as they do under autocast. From here on the teacher computes under autocast, also where the
        caller has not switched it on.

        Raises:
            ValueError: a dtype that autocast does not compute in.
        """
        if dtype not in (torch.bfloat16, torch.float16):
            raise ValueError(f"autocast computes in bfloat16 or float16, not in {dtype}")
        for module in self.backbone.modules():
            if type(module).forward in _CAST_BY_AUTOCAST:
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)
        self.precast_dtype = dtype
        return self

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
        dtype = self.precast_dtype
        autocast = torch.autocast(x.device.type, dtype) if dtype else contextlib.nullcontext()
        with autocast:
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
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    random: bool = False,
) -> Teacher:
    """A teacher by name or by path.

    Args:
        spec: one of
            a timm name ("vit_base_patch16_dinov3.lvd1689m", "convnext_tiny.dinov3_lvd1689m");
            a transformers id or a local folder of one ("facebook/dinov3-vitb16-pretrain-lvd1689m");
            a local file (.safetensors, .pth, .pt, .bin) of the ``architecture``, or a checkpoint of a DINO, iBOT,
            DINOv2 or UltraDINO training;
            "dinov2_vits14", the offline teacher of ``sonodistill weights fetch``.
        blocks: n, how many of the last blocks (of the last stages for a hierarchical model) make the target.
        input_size: side in pixels that an absolute position embedding is resampled to; other sizes work as well.
        architecture: timm name of a local file; by default the one in its header, or the ViT that the tensors of a
            self-distillation checkpoint show.
        mean: of the input in [0, 1], one value or three; by default what comes with the weights (see
            :func:`~sonodistill_training.distill.backbone_timm.backbone_from_file` for files).
        std: likewise.
        random: build the architecture without weights.

    Raises:
        HubUnreachableError: a hub model that is not cached while the hub does not answer.
        WeightsError: no such file or folder, or weights of another architecture.
        BundleConfigError: timm has no such model, or fewer blocks than asked for, or the mean or std cannot be one.
    """
    name = str(spec)
    path = Path(spec)
    if name == OFFLINE_TEACHER:
        backbone: Backbone = _offline_backbone(blocks, input_size, random)
    elif path.suffix.lower() in _FILE_SUFFIXES:
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
    _set_normalisation(name, backbone, mean, std)
    return Teacher(name, backbone)


def load_teachers(
    spec: TeacherSpec | Sequence[TeacherSpec],
    *,
    blocks: int = 2,
    input_size: int = 224,
    architecture: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    random: bool = False,
) -> list[Teacher]:
    """One teacher or several, all of which can take images of ``input_size``.

    Args:
        spec: one of, or a list of: what :func:`load_teacher` takes, or a mapping with "spec" and, where an entry
            differs from the arguments here, "architecture", "blocks", "mean" and "std".
        blocks, input_size, architecture, mean, std, random: as for :func:`load_teacher`.

    Returns:
        The teachers in the order given. A second one of the same name (every UltraDINO training calls its file
        teacher_checkpoint.pth) is named "teacher_checkpoint (2)".

    Raises:
        BundleConfigError: no teacher, an entry with other keys or given twice, or what :func:`check_grids` refuses.
        HubUnreachableError, WeightsError: as :func:`load_teacher`.
    """
    entries = [spec] if isinstance(spec, (str, Path, Mapping)) else list(spec)
    defaults = {"blocks": blocks, "architecture": architecture, "mean": mean, "std": std}
    settings = [defaults | _entry(entry) for entry in entries]
    if not settings:
        raise BundleConfigError("the list of teachers is empty", remedy="name at least one teacher")
    for i, one in enumerate(settings):
        if one in settings[:i]:
            raise BundleConfigError(f"the teacher {one['spec']} is listed twice", remedy="name each teacher once")
    teachers = [load_teacher(**one, input_size=input_size, random=random) for one in settings]
    seen: Counter[str] = Counter()
    for teacher in teachers:
        seen[teacher.name] += 1
        if seen[teacher.name] > 1:
            teacher.name = f"{teacher.name} ({seen[teacher.name]})"
    check_grids(teachers, input_size)
    return teachers


def check_grids(
    teachers: Sequence[Teacher], input_size: int | Sequence[int], student_stride: int | None = None
) -> list[tuple[int, int]]:
    """The (height, width) of each teacher's target for an input, where the student and every teacher can take it.

    A projector's map is interpolated to any grid, so that a student of another stride than the teachers' goes with
    each of them.

    Args:
        input_size: side of the square input in pixels, or (height, width).
        student_stride: of the student's last map (``encoder.reductions[-1]``).

    Raises:
        BundleConfigError: an input that is not square, is no multiple of every teacher's patch size (with the sizes
            near it that are), or is smaller than one position of the student's last map.
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else tuple(input_size)
    if height != width:
        raise BundleConfigError(
            f"the input is {height} x {width} pixels; distillation takes square crops", remedy="give one input_size"
        )
    common = math.lcm(*(teacher.input_multiple for teacher in teachers))
    if height < 1 or height % common:
        patches = ", ".join(
            f"{t.name} ({t.input_multiple})" for t in teachers if height < 1 or height % t.input_multiple
        )
        below, above = height // common * common, max(height // common + 1, 1) * common
        raise BundleConfigError(
            f"input_size {height} is no multiple of the patch size of {patches}",
            remedy=f"take input_size {f'{below} or ' if below > 0 else ''}{above}: a multiple of {common} suits "
            f"{'all teachers' if len(teachers) > 1 else 'it'}",
        )
    if student_stride is not None and height < student_stride:
        raise BundleConfigError(
            f"input_size {height} leaves the student no position: its last map has stride {student_stride}",
            remedy=f"take input_size {math.ceil(student_stride / common) * common} or more",
        )
    return [(height // teacher.patch_size, width // teacher.patch_size) for teacher in teachers]


def combined_notice(teachers: Sequence[Teacher]) -> str:
    """What the licences of all the teachers ask to go along with a student, each notice once, a line each."""
    return "\n".join(dict.fromkeys(teacher.licence_notice for teacher in teachers if teacher.licence_notice))


def _entry(entry: TeacherSpec) -> dict[str, Any]:
    """The settings that an entry of a list gives itself; an empty (null) one is as good as none."""
    given = {"spec": entry} if isinstance(entry, (str, Path)) else entry
    if not isinstance(given, Mapping) or given.get("spec") is None or set(given) - set(_ENTRY_KEYS):
        raise BundleConfigError(
            f"{entry!r} does not name a teacher",
            remedy=f"give a name or path, or a mapping with spec and any of {', '.join(_ENTRY_KEYS[1:])}",
        )
    return {key: value for key, value in given.items() if value is not None} | {"spec": str(given["spec"])}


def _set_normalisation(
    name: str, backbone: Backbone, mean: float | Sequence[float] | None, std: float | Sequence[float] | None
) -> None:
    chosen = GrayInput(backbone.mean if mean is None else mean, backbone.std if std is None else std)
    backbone.mean, backbone.std = chosen.normalisation
    if not all(map(math.isfinite, backbone.mean + backbone.std)) or min(backbone.std) <= 0:
        raise BundleConfigError(
            f"{name} cannot be given mean {backbone.mean} and std {backbone.std}",
            remedy="give those of images in [0, 1] that it was trained with",
        )
    if backbone.channels == 1 and len(set(backbone.mean)) + len(set(backbone.std)) > 2:
        raise BundleConfigError(
            f"{name} takes one channel, but mean {backbone.mean} and std {backbone.std} are of three",
            remedy="give one mean and one std",
        )


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
