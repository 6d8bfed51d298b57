"""A vision transformer with the faster layers: the same function, the same names, gradients as good as torch's."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Attention
from torch import nn

from sonodistill_training.kernels.transformer import TOKENS, PatchConv2d, ShortAttention, quicken
from sonodistill_training.pretrain.build import make_vit
from sonodistill_training.pretrain.mae import EncoderAndDecoder


def images(size=64, count=4):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(3))


def gradients(network, x, bf16=True):
    network.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        result = network(x)
    weights = torch.rand(result.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (result.double() * weights).sum().backward()
    return {name: value.grad.double() for name, value in network.named_parameters() if value.grad is not None}


def pair(**options):
    torch.manual_seed(0)
    plain = make_vit("vit_tiny_patch16_224", input_size=64, drop_path=0, **options).train()
    for name, value in plain.named_parameters():
        if name.endswith("gamma"):
            nn.init.uniform_(value, 0.5, 1)  # scaled by 1e-5 a layer's gradient is none
        elif name.endswith("qkv.weight"):
            value.data.mul_(4)  # attention that tells tokens apart
    fast = copy.deepcopy(plain)
    quicken(fast)
    return plain, fast


def distance(found, wanted):
    return {name: ((found[name] - wanted[name]).norm() / wanted[name].norm()).item() for name in wanted}


@pytest.mark.parametrize("options", [{}, {"channels": 3}, {"registers": 4}])
def test_gradients_are_nearly_as_near_to_float64_as_torch_s_in_bfloat16(options):
    plain, fast = pair(**options)
    assert {type(module) for module in fast.modules()} >= {ShortAttention, PatchConv2d}
    exact = gradients(copy.deepcopy(plain).double(), images().double(), bf16=False)
    theirs, ours = distance(gradients(plain, images()), exact), distance(gradients(fast, images()), exact)
    assert ours.keys() == theirs.keys() and len(ours) > 100
    for name, value in ours.items():
        assert value < 1.5 * theirs[name] + 0.005, (name, value, theirs[name])


def test_in_float32_and_in_evaluation_it_is_the_same_network():
    plain, fast = pair()
    assert plain.state_dict().keys() == fast.state_dict().keys()
    with torch.no_grad():
        assert torch.equal(plain.eval()(images()), fast.eval()(images()))
    wanted = gradients(plain.train(), images(), bf16=False)
    for name, value in distance(gradients(fast.train(), images(), bf16=False), wanted).items():
        assert value < 1e-4, name


def test_a_decoder_s_attention_is_quickened_too_and_what_is_not_plain_is_not():
    autoencoder = EncoderAndDecoder(make_vit("vit_tiny_patch16_224", input_size=32), side=2, dim=64, depth=1)
    quicken(autoencoder)
    assert {type(block.attn) for block in autoencoder.blocks} == {ShortAttention}
    special = [
        Attention(64, 2, qk_norm=True, norm_layer=nn.LayerNorm),
        Attention(64, 2, gated=True),
        Attention(64, 2, attn_drop=0.1),
        Attention(64, 2, scale_norm=True, norm_layer=nn.LayerNorm),
        nn.Conv2d(1, 4, 3, stride=2),
        nn.Conv2d(1, 4, 4, stride=4, padding=2),
        nn.Conv2d(1, 4, 1),
        nn.Conv2d(2, 4, 4, stride=4, groups=2),
    ]
    kinds = [type(module) for module in special]
    for module in special:
        quicken(module)
    assert [type(module) for module in special] == kinds


def test_very_many_tokens_and_masks_are_left_to_torch():
    torch.manual_seed(0)
    plain = Attention(8, 1).train()
    fast = copy.deepcopy(plain)
    quicken(fast)
    with torch.autocast("cpu", torch.bfloat16):
        many = torch.rand(1, TOKENS + 1, 8)
        assert torch.equal(plain(many), fast(many))
        few, mask = torch.rand(2, 5, 8), torch.rand(2, 1, 5, 5) > 0.3
        assert torch.equal(plain(few, mask), fast(few, mask))
        assert torch.equal(plain(few, is_causal=True), fast(few, is_causal=True))
