"""A student with the faster layers: the same function, the same names, the same training."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError
from sonodistill.networks.encoder import Encoder
from sonodistill_training.distill.engine import prepare_student
from sonodistill_training.kernels.convolution import PointwiseConv2d, SmallMapConv2d, windows
from sonodistill_training.kernels.stem import GrayConv2d, NormalisedPool

CPU = torch.device("cpu")


def pair(name, levels=1, **options):
    """An encoder, and the same with the faster layers; every layer has a gradient."""
    torch.manual_seed(0)
    plain = Encoder(name, **options).train().to(memory_format=torch.channels_last)
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    fast = copy.deepcopy(plain)
    prepare_student(fast, CPU, bf16=True, kind="fast", levels=levels)
    return plain, fast


def gradients(encoder, x, bf16=True, levels=1):
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        maps = encoder.pyramid(x)[-levels:]
    sum(one.float().square().mean() for one in maps).backward()
    return {name: value.grad.clone() for name, value in encoder.named_parameters()}


def images(size=64, count=6):
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenetv4_conv_small", "convnext_atto"])
def test_names_values_and_evaluation_stay_the_same(name):
    plain, fast = pair(name)
    assert {k: tuple(v.shape) for k, v in plain.state_dict().items()} == {
        k: tuple(v.shape) for k, v in fast.state_dict().items()
    }
    with torch.no_grad():
        for one, other in zip(plain.eval().pyramid(images()), fast.eval().pyramid(images()), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(("name", "levels"), [("resnet18", 1), ("resnet18", 5), ("resnet50", 2), ("resnet18d", 1)])
@pytest.mark.parametrize("size", [64, 98])
def test_gradients_are_as_near_to_float32_as_torch_s_in_bfloat16(name, levels, size):
    plain, fast = pair(name, levels)
    exact = gradients(copy.deepcopy(plain), images(size), bf16=False, levels=levels)
    of_torch, found = gradients(plain, images(size), levels=levels), gradients(fast, images(size), levels=levels)
    for part in ("conv1", "layer1", "layer4"):
        names = [name for name in exact if part in name]
        want, theirs, ours = (torch.cat([g[n].flatten() for n in names]) for g in (exact, of_torch, found))
        assert (ours - want).norm() < 1.25 * (theirs - want).norm() + 0.01 * want.norm(), part


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_running_moments_are_torch_s(name):
    plain, fast = pair(name)
    for encoder in (plain, fast):
        gradients(encoder, images())
    first, last = "model.bn1.running_mean", "model.layer4.1.bn2.num_batches_tracked"
    torch.testing.assert_close(fast.state_dict()[first], plain.state_dict()[first], rtol=0.02, atol=1e-3)
    assert fast.state_dict()[last] == plain.state_dict()[last] == 1


def test_in_another_precision_training_is_torch_s():
    plain, fast = pair("resnet18")
    expected, found = (gradients(encoder.double(), images().double(), bf16=False) for encoder in (plain, fast))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"), [(64, 7, 2, 3), (65, 7, 2, 3), (32, 3, 2, 1), (30, 3, 1, 1), (33, 4, 4, 0)]
)
def test_one_channel_gives_what_three_equal_ones_give(size, kernel, stride, padding):
    torch.manual_seed(0)
    layer = GrayConv2d(3, 8, kernel, stride, padding).double()
    x = torch.rand(2, 1, size, size + 3).double()
    three = functional.conv2d(x.expand(-1, 3, -1, -1), layer.weight, layer.bias, stride, padding)
    above = torch.rand_like(three)
    expected = torch.autograd.grad(three, layer.weight, above)[0]
    one = layer(x)
    torch.testing.assert_close(one, three)
    torch.testing.assert_close(torch.autograd.grad(one, layer.weight, above)[0], expected)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [((7, 7), 3, 1, 1), ((13, 9), 3, 2, 1), ((6, 8), (1, 3), 1, (0, 1)), ((5, 5), 5, 1, 0)],
)
def test_windows_are_those_of_a_convolution(size, kernel, stride, padding):
    x = torch.rand(3, 4, *size).contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(4, 6, kernel, stride, padding, bias=False)
    expected = layer(x).permute(0, 2, 3, 1).reshape(-1, 6)
    weight = layer.weight.permute(0, 2, 3, 1).reshape(6, -1)
    found = windows(x, layer.kernel_size, layer.stride, layer.padding) @ weight.t()
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2, (2, 1)])
@pytest.mark.parametrize("bias", [False, True])
def test_a_pointwise_convolution_is_torch_s(stride, bias):
    torch.manual_seed(0)
    plain = nn.Conv2d(16, 24, 1, stride, bias=bias)
    fast = copy.deepcopy(plain)
    fast.__class__ = PointwiseConv2d
    x = torch.rand(3, 16, 9, 7).contiguous(memory_format=torch.channels_last)
    found = []
    for layer in (plain, fast):
        leaf = x.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(leaf.bfloat16())
        y.float().square().sum().backward()
        assert y.is_contiguous(memory_format=torch.channels_last)
        found.append([y.float(), leaf.grad, layer.weight.grad])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=0.02, atol=0.02)


def test_a_map_that_is_supervised_is_computed():
    _, without = pair("resnet18", levels=4)
    _, whole = pair("resnet18", levels=5)
    assert isinstance(without.model.bn1, NormalisedPool) and not isinstance(whole.model.bn1, NormalisedPool)
    with torch.autocast("cpu", torch.bfloat16):
        assert whole.pyramid(images())[0].shape[-1] == 32


def test_three_different_channels_are_left_alone():
    _, fast = pair("resnet18", mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.2))
    assert not isinstance(fast.model.conv1, GrayConv2d) and fast.input(images()).shape[1] == 3


def test_convolutions_of_another_kind_are_left_alone():
    for layer in (
        nn.Conv2d(4, 4, 3, groups=2, bias=False),
        nn.Conv2d(4, 4, 3, bias=True),
        nn.Conv2d(4, 4, 3, dilation=2, bias=False),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.Conv2d(4, 4, 1, bias=False),
    ):
        assert not SmallMapConv2d.fits(layer)
    assert SmallMapConv2d.fits(nn.Conv2d(4, 4, 3, bias=False))


def test_fast_layers_are_refused_where_they_are_not_fast():
    with pytest.raises(BundleConfigError, match="bfloat16 on a CPU"):
        prepare_student(Encoder("resnet18"), CPU, bf16=False, kind="fast")
    with pytest.raises(BundleConfigError, match="unknown student engine tpu"):
        prepare_student(Encoder("resnet18"), CPU, bf16=True, kind="tpu")


def test_the_number_of_threads_stays_what_it_was():
    # In a process of its own: numba starts its threads once, and does so for every core.
    program = (
        "import torch; from sonodistill.networks.encoder import Encoder;"
        "from sonodistill_training.kernels.accelerate import accelerate;"
        "accelerate(Encoder('resnet18')); print(torch.get_num_threads())"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1"]
