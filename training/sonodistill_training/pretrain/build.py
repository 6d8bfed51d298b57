"""ViTs to pretrain, by timm name: from scratch or a checkpoint, of one or three channels, with or without registers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sonodistill import __version__
from sonodistill.errors import BundleConfigError
from sonodistill.networks.hub import require_timm_name
from sonodistill.weights import StateDict, WeightsInfo, save_weights
from sonodistill_training.distill.backbone_selfdistilled import ULTRADINO_MEAN, ULTRADINO_STD, is_plain_vit
from sonodistill_training.distill.backbone_timm import TimmBackbone, backbone_from_file, timm_backbone
from sonodistill_training.pretrain.networks import MaskedViT

logger = logging.getLogger(__name__)

_LAYER_SCALE = 1e-5


def make_vit(
    name: str = "vit_small_patch16_224",
    weights: str | Path | None = None,
    input_size: int = 224,
    channels: int = 1,
    registers: int | None = None,
    drop_path: float = 0.3,
    mean: float | None = None,
    std: float | None = None,
    seed: int = 0,
) -> MaskedViT:
    """A ViT to pretrain.

    Args:
        name: timm name of a plain ViT: "vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224".
        weights: None for random ones; "imagenet" for timm's from the hub; or a file that
            :func:`~sonodistill_training.distill.backbone_timm.backbone_from_file` reads: a pretraining of ours, DINOv2,
            UltraDINO, timm.
        input_size: pixels of a global view.
        channels: 1 (paper B's code), or 3 for networks that others expect to have three. A three-channel file is folded
            to one channel, exactly, and a one-channel file spread over three.
        registers: tokens beside the class token (paper B's code has 4); None: those of the file, none without one.
        drop_path: stochastic depth, the same for all blocks.
        mean: of the gray input in [0, 1]; by default the file's, else UltraDINO's 0.1843.
        std: likewise, else 0.2188.
        seed: of random weights, which depend on nothing else.

    Raises:
        BundleConfigError: no plain ViT, other channels than 1 or 3, or registers that the file does not have.
        WeightsError: the file is not of this architecture.
        HubUnreachableError: "imagenet" and no hub.
    """
    require_timm_name(name)
    if not is_plain_vit(name):
        raise BundleConfigError(
            f"{name} is no plain ViT, of which patches could be hidden",
            remedy="take vit_small_patch16_224 or vit_base_patch16_224",
        )
    if channels not in (1, 3):
        raise BundleConfigError(f"channels is {channels}", remedy="give 1, or 3 for three copies of the gray image")
    with seeded(seed):
        backbone = _backbone(name, weights, input_size, channels, registers)
    model: Any = backbone.model
    if registers is not None and registers != model.num_reg_tokens:
        raise BundleConfigError(
            f"{registers} registers were asked for, {weights} has {model.num_reg_tokens}",
            remedy="leave registers to the file, or start from scratch",
        )
    own_mean, own_std = backbone.mean, backbone.std
    wanted = (mean if mean is not None else _gray(own_mean), std if std is not None else _gray(own_std))
    if weights is not None:
        _set_channels(model, channels, (own_mean, own_std), wanted)
    _without_droppath(model)
    vit = MaskedViT(name, model, *wanted, drop_path=drop_path)
    vit.licence_notice = backbone.licence_notice if weights is not None else ""
    return vit


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers on the CPU from this seed; as before afterwards."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        yield


def _backbone(
    name: str, weights: str | Path | None, input_size: int, channels: int, registers: int | None
) -> TimmBackbone:
    if weights is not None and str(weights) != "imagenet":
        return backbone_from_file(Path(weights), name, blocks=1, input_size=input_size)
    if weights is not None:
        return timm_backbone(name, blocks=1, input_size=input_size)
    few = registers or 0
    # DINOv2 with registers: a register has no position, and timm gives the class token none then either.
    shape = {"in_chans": channels, "init_values": _LAYER_SCALE, "reg_tokens": few, "no_embed_class": few > 0}
    backbone = timm_backbone(name, blocks=1, input_size=input_size, random=True, shape=shape)
    backbone.mean, backbone.std = ULTRADINO_MEAN, ULTRADINO_STD
    return backbone


def _gray(values: tuple[float, ...]) -> float:
    return sum(values) / len(values)


@torch.no_grad()
def _set_channels(
    model: Any, channels: int, own: tuple[tuple[float, ...], tuple[float, ...]], wanted: tuple[float, float]
) -> None:
    """Make the patch embedding one of ``channels`` equal channels of ``wanted`` mean and std, without changing what
    the network computes: ``sum_c W_c (x - m_c) / s_c = W (x - m) / s + b`` with ``W = s * sum_c W_c / s_c``.
    """
    old = model.patch_embed.proj
    mean, std = wanted
    weight, shift = torch.zeros_like(old.weight[:, :1]), torch.zeros(old.out_channels)
    count = old.in_channels
    for channel in range(count):
        m, s = (values[channel % len(values)] for values in own)
        part = old.weight[:, channel : channel + 1] / s
        weight += part * std
        shift += part.sum((1, 2, 3)) * (mean - m)
    new = nn.Conv2d(channels, old.out_channels, old.kernel_size, old.stride, bias=True)
    new.weight.copy_(weight.expand(-1, channels, -1, -1) / channels)
    new.bias.copy_(shift if old.bias is None else old.bias + shift)  # type: ignore[union-attr]
    model.patch_embed.proj = new
    logger.info("patch embedding of %d channels made one of %d", count, channels)


def _without_droppath(model: Any) -> None:
    for block in model.blocks:
        for part in ("ls1", "attn", "norm1", "ls2", "mlp", "norm2"):
            if not hasattr(block, part):
                raise BundleConfigError(f"{type(block).__name__} is no plain ViT block", remedy="take another ViT")
        block.drop_path1, block.drop_path2 = nn.Identity(), nn.Identity()


def plain_vit_state(vit: MaskedViT) -> StateDict:
    """The ViT's tensors as DINOv2 names them, which this package and ``timm.create_model(checkpoint_path=...)`` read.

    timm's form with registers keeps the class token's position in the token itself; DINOv2's adds it. A position of
    zero makes them equal.
    """
    state = dict(vit.model.state_dict())
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        state["pos_embed"] = torch.cat([torch.zeros_like(state["cls_token"]), state["pos_embed"]], dim=1)
    return state | {"mask_token": vit.mask_token.detach()[None]}


def write_teacher(
    path: Path,
    vit: MaskedViT,
    size: int,
    corpus_sha256: str,
    licence_notice: str,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write a pretrained ViT alone, no head, as a file that ``sonodistill distill --teacher`` takes.

    Args:
        size: pixels of the images that it was trained on.
        licence_notice: for the header, before that of the corpus in the record.
        record: further fields of the header: recipe, metrics, licences of the corpus, version of the code.
    """
    fields = dict(record or {})
    of_corpus = corpus_notice(fields.get("corpus_licences"), fields.get("corpus_restrictions"))
    info = WeightsInfo(
        kind="teacher",
        architecture=vit.name,
        normalisation=vit.input.normalisation,
        input_size=(size, size),
        corpus_hash=corpus_sha256,
        licence_notice="\n".join(dict.fromkeys(notice for notice in (licence_notice, of_corpus) if notice)),
        version=__version__,
        **fields,
    )
    save_weights(path, plain_vit_state(vit), info)


def corpus_notice(licences: Mapping[str, int] | None, restrictions: Mapping[str, int] | None = None) -> str:
    """What a network's corpus asks to go along with it, and with students of it; nothing of an unknown corpus."""
    if not licences:
        return ""
    notice = f"Pretrained on ultrasound frames by licence: {_counted(licences)}."
    return notice + (f" Withheld: {_counted(restrictions)}." if restrictions else "")


def _counted(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{name} ({count})" for name, count in numbers.items())
