"""Masked autoencoder (He et al. 2022): the baseline that paper B asks for, in the same loop as self-distillation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError
from sonodistill_training.kernels.transformer import quicken
from sonodistill_training.pretrain.build import seeded, write_teacher
from sonodistill_training.pretrain.crops import MultiCrop, make_views, single_crop
from sonodistill_training.pretrain.networks import MaskedViT

_HEAD = 32  # channels of an attention head of the decoder, as in the paper


class EncoderAndDecoder(nn.Module):
    """The ViT sees the patches that are left, a small decoder fills in the others.

    Args:
        student: the encoder, which is the product.
        side: patches along one side of the images.
        dim: width of the decoder.
        depth: its blocks.
    """

    positions: Tensor

    def __init__(self, student: MaskedViT, side: int, dim: int = 512, depth: int = 8) -> None:
        super().__init__()
        if dim % _HEAD or min(dim, depth) < 1:
            raise BundleConfigError(
                f"a decoder of {depth} blocks, {dim} wide", remedy=f"give 1 or more, and a multiple of {_HEAD}"
            )
        student.mask_token.requires_grad_(False)  # the encoder never sees it
        self.student = student
        self.embed = nn.Linear(student.num_features, dim)
        self.mask_token = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.mask_token, std=0.02)
        self.register_buffer("positions", build_sincos2d_pos_embed([side, side], dim), persistent=False)
        self.blocks = nn.Sequential(*(Block(dim, dim // _HEAD, qkv_bias=True) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.pixels = nn.Linear(dim, student.patch_size**2)

    def forward(self, images: Tensor, masks: Tensor, hidden: int) -> Tensor:
        """(B, hidden, patch * patch): the pixels of each hidden patch, in the order of the patches.

        Args:
            images: (B, 1, H, W) in [0, 1].
            masks: (B, N) bool, True at ``hidden`` patches of each image.
        """
        order = masks.int().argsort(dim=1, stable=True)  # what is seen first, then what is hidden
        seen = order.shape[1] - hidden
        classes, patches = self.student.tokens(images, only=order[:, :seen])
        x = self.embed(torch.cat([classes[:, None], patches], dim=1))
        masked = self.mask_token.to(x.dtype).expand(len(x), hidden, -1)
        x = torch.cat([x[:, :1], torch.cat([x[:, 1:], masked], dim=1) + self.positions[order]], dim=1)
        return self.pixels(self.norm(self.blocks(x))[:, 1 + seen :])


class MaskedAutoencoding:
    """The method the training loop runs.

    Args:
        student: any ViT of :func:`~sonodistill_training.pretrain.build.make_vit`; MAE has no stochastic depth.
        crops: those that the data set draws, of one global view.
        decoder_dim, decoder_depth: of the decoder.
        seed: of the decoder's first weights.
        corpus_sha256: of the frames, written into the product.
        licence_notice: for the product's header, before that of the corpus; by default that of the weights that it
            started from.
    """

    product = "teacher.safetensors"

    def __init__(
        self,
        student: MaskedViT,
        crops: MultiCrop | None = None,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        seed: int = 0,
        corpus_sha256: str = "",
        licence_notice: str = "",
    ) -> None:
        self.crops = crops or single_crop()
        if len(self.crops.whole) != 1 or self.crops.local_count:
            raise BundleConfigError("MAE has one view of a frame", remedy="give the crops of single_crop")
        with seeded(seed + 1):
            side = self.crops.size // student.patch_size
            self.network = EncoderAndDecoder(student, side, decoder_dim, decoder_depth)
        self._decoder = {"dim": decoder_dim, "depth": decoder_depth}
        self.corpus_sha256, self.licence_notice = corpus_sha256, licence_notice or student.licence_notice

    def prepare(self, device: torch.device, bf16: bool) -> None:
        """Move the network."""
        self.network.to(device)
        if bf16 and device.type == "cpu":
            quicken(self.network)

    def step(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:  # noqa: ARG002
        """``loss``: the mean squared error of hidden patches, each brought to mean 0 and variance 1 (section 3)."""
        whole, _ = make_views(batch, self.crops)
        images, masks = whole[0], batch["masks"][0]
        hidden = len(batch["masked"]) // len(images)
        found = network(images, masks, hidden)
        with torch.autocast(images.device.type, enabled=False):
            side = self.network.student.patch_size
            patches = functional.unfold(images, side, stride=side).transpose(1, 2)  # (B, N, side * side)
            # The places of the hidden patches among all, as the loader lists them.
            wanted = patches.flatten(0, 1)[batch["masked"]].unflatten(0, (-1, hidden))
            return {"loss": functional.mse_loss(found.float(), normalised(wanted))}

    @staticmethod
    def encoder(network: nn.Module) -> nn.Module:
        """The part of ``network`` (or of a copy of it) that is the product."""
        return network.student  # type: ignore[return-value]

    def identity(self) -> dict[str, Any]:
        """What makes it this pretraining and no other."""
        student = self.network.student
        return {
            "method": "MAE",
            "student": student.name,
            "channels": student.channels,
            "registers": student.model.num_reg_tokens,
            "drop_path": student.drop_path,
            "decoder": self._decoder,
            "corpus_sha256": self.corpus_sha256,
        }

    def export(self, path: Path, network: nn.Module | None = None, record: Mapping[str, Any] | None = None) -> None:
        """Write the encoder alone, as a file that ``sonodistill distill --teacher`` takes."""
        vit: Any = self.encoder(network or self.network)
        write_teacher(path, vit, self.crops.size, self.corpus_sha256, self.licence_notice, record)


def normalised(patches: Tensor) -> Tensor:
    """(..., pixels) with mean 0 and variance 1; a patch of one gray value, black say, is 0."""
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()
