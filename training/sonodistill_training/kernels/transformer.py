"""A vision transformer's slow layers on a CPU: attention and patch embedding, as matrix products."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from sonodistill_training.kernels.bfloat16 import trains_in_bfloat16

TOKENS = 1024  # above, the (tokens, tokens) matrices are worth avoiding


class ShortAttention(Attention):
    """timm's attention; in a bfloat16 training on a CPU its gradient is computed otherwise, and faster.

    The gradient of torch's fused attention takes several times as long there as the products that it saves.
    """

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, tokens, D)."""
        if attn_mask is not None or is_causal or x.shape[1] > TOKENS:
            return super().forward(x, attn_mask, is_causal)
        joint = self.qkv(x)
        if not trains_in_bfloat16(self, joint):
            return super().forward(x)
        query, key, value = joint.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed: Tensor = _Attend.apply(query, key, value)  # type: ignore[no-untyped-call]
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether it is an attention without anything that this one leaves out."""
        return (
            type(module) is Attention
            and module.gate is None
            and module.attn_drop.p == 0
            and module.proj_drop.p == 0
            and all(isinstance(norm, nn.Identity) for norm in (module.q_norm, module.k_norm, module.norm))
        )


class PatchConv2d(nn.Conv2d):
    """A patch embedding: a linear layer over each patch's pixels, whose weight gradient is a matrix product."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W)."""
        if not self.training or x.device.type != "cpu":
            return super().forward(x)
        patches = functional.pixel_unshuffle(x, self.stride[0]).permute(0, 2, 3, 1).contiguous()
        return functional.linear(patches, self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether it cuts an image into squares that do not overlap."""
        return (
            type(module) is nn.Conv2d
            and module.kernel_size == module.stride == (module.stride[0],) * 2
            and module.stride[0] > 1
            and module.padding == (0, 0)
            and module.dilation == (1, 1)
            and module.groups == 1
        )


def quicken(network: nn.Module) -> None:
    """Change the classes of layers, in place; parameters and their names stay as they are.

    In evaluation and on another device they compute what they did before.
    """
    for module in network.modules():
        if ShortAttention.fits(module):
            module.__class__ = ShortAttention
        elif PatchConv2d.fits(module):
            module.__class__ = PatchConv2d


class _Attend(torch.autograd.Function):
    """softmax(Q K^T / sqrt(d)) V for (B, heads, tokens, d) in bfloat16."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(query, key, value)
        return functional.scaled_dot_product_attention(query, key, value)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = ctx.saved_tensors
        query = query * query.shape[-1] ** -0.5
        weights = (query @ key.transpose(-2, -1)).softmax(-1)
        above = gradient @ value.transpose(-2, -1)
        logits = torch._softmax_backward_data(above, weights, -1, weights.dtype)
        return (
            (logits @ key) * key.shape[-1] ** -0.5,
            logits.transpose(-2, -1) @ query,
            weights.transpose(-2, -1) @ gradient,
        )
