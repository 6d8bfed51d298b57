"""Batch normalisation with its ReLU and pooling: nearer to float64 than torch's in bfloat16 is, or as near."""

from __future__ import annotations

import copy

import numba
import pytest
import torch
from torch import nn
from torch.nn import functional

from sonodistill_training.kernels.batchnorm import FastBatchNorm2d
from sonodistill_training.kernels.bfloat16 import channels_last, narrow, rows, widen
from sonodistill_training.kernels.stem import NormalisedPool, PooledBefore

SHAPES = [(2, 3, 7, 9), (5, 64, 13, 13), (1, 17, 1, 5), (3, 8, 32, 31)]


def norm(channels):
    torch.manual_seed(channels)
    layer = nn.BatchNorm2d(channels)
    nn.init.normal_(layer.weight)
    nn.init.normal_(layer.bias)
    return layer


def images(shape, mean=0.0):
    generator = torch.Generator().manual_seed(1)
    return channels_last(torch.randn(shape, generator=generator) * 2 + mean)


def trained(layer, x, then=lambda y: y):
    """Result, gradients of input, weight and bias, and the running moments, after one step with a fixed gradient."""
    x = x.clone().requires_grad_()
    y = then(layer(x))
    above = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    y.backward(above.to(y.dtype))
    values = (y.detach(), x.grad, layer.weight.grad, layer.bias.grad, layer.running_mean, layer.running_var)
    return [value.double() for value in values]


def distance(found, expected):
    return ((found - expected).norm() / expected.norm().clamp_min(1e-9)).item()


@numba.njit
def round_trip(data, result):
    for index in range(data.size):
        result[index] = narrow(widen(data[index]) * numba.float32(1.0))


def test_bits_are_read_and_written_as_torch_does():
    values = torch.randn(10_001) * torch.logspace(-30, 30, 10_001)
    special = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), 1.0, 3.3895e38])
    bits = torch.cat([values, special]).bfloat16().view(torch.uint16).numpy()
    result = bits * 0
    round_trip(bits, result)
    assert (result == bits).all()


@numba.njit
def rounded(data, result):
    for index in range(data.size):
        result[index] = narrow(data[index])


def test_rounding_is_torch_s():
    values = torch.cat([torch.randn(100_000), torch.tensor([1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-9])])
    result = values.bfloat16().view(torch.uint16).numpy() * 0
    rounded(values.numpy(), result)
    assert (result == values.bfloat16().view(torch.uint16).numpy()).all()


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("mean", [0.0, 40.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_normalisation_is_as_exact_as_torch_s(shape, mean, relu):
    then = functional.relu if relu else lambda y: y
    plain = norm(shape[1])
    fast = copy.deepcopy(plain)
    fast.__class__, fast.relu = FastBatchNorm2d, relu
    exact = trained(copy.deepcopy(plain).double(), images(shape, mean).double(), then)
    of_torch, found = trained(plain, images(shape, mean), then), trained(fast, images(shape, mean))
    for name, want, theirs, ours in zip(["y", "dx", "dw", "db", "mean", "var"], exact, of_torch, found, strict=True):
        assert distance(ours, want) < max(1.2 * distance(theirs, want), 0.004), name


@pytest.mark.parametrize("shape", SHAPES)
def test_normalisation_with_pooling_is_as_exact_as_torch_s(shape):
    pool = nn.MaxPool2d(3, 2, 1)
    plain = norm(shape[1])
    fast = copy.deepcopy(plain)
    fast.__class__ = NormalisedPool
    after = PooledBefore(3, 2, 1)
    exact = trained(copy.deepcopy(plain).double(), images(shape).double(), lambda y: pool(functional.relu(y)))
    of_torch = trained(plain, images(shape), lambda y: pool(functional.relu(y)))
    found = trained(fast, images(shape), after)
    for name, want, theirs, ours in zip(["y", "dx", "dw", "db", "mean", "var"], exact, of_torch, found, strict=True):
        assert distance(ours, want) < max(1.2 * distance(theirs, want), 0.004), name


def test_in_evaluation_the_layers_are_torch_s():
    x = images((2, 8, 12, 12))
    plain, pool = norm(8).eval(), nn.MaxPool2d(3, 2, 1)
    fast, after = copy.deepcopy(plain), PooledBefore(3, 2, 1).eval()
    fast.__class__ = NormalisedPool
    assert torch.equal(after(fast(x)), pool(functional.relu(plain(x))))


def test_moments_do_not_depend_on_the_number_of_threads():
    x = images((4, 16, 30, 30))
    found = []
    for threads in (1, 2):
        numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
        layer = norm(16)
        layer.__class__, layer.relu = FastBatchNorm2d, True
        found.append(trained(layer, x))
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))


def test_what_is_not_finite_stays_so():
    layer = norm(4)
    layer.__class__, layer.relu = FastBatchNorm2d, True
    x = images((2, 4, 6, 6))
    x[0, 1, 2, 3] = float("nan")
    values = trained(layer, x)
    assert values[0][:, 1].isnan().all() and values[1][:, 1].isnan().all()
    assert all(value[:, [0, 2, 3]].isfinite().all() for value in values[:2])


def test_no_copy_is_made_of_the_images():
    x = images((2, 8, 4, 4))
    rows(x)[:] = 0
    assert not x.any()
