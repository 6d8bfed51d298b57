"""Give a student the faster layers."""

from __future__ import annotations

import numba
import torch
from timm.models.resnet import BasicBlock, Bottleneck
from torch import nn

from sonodistill.networks.encoder import Encoder
from sonodistill_training.kernels.batchnorm import FastBatchNorm2d
from sonodistill_training.kernels.convolution import PointwiseConv2d, SmallMapConv2d
from sonodistill_training.kernels.stem import GrayConv2d, NormalisedPool, OneChannelInput, PooledBefore


def accelerate(encoder: Encoder, first_map: bool = False) -> None:
    """Change the classes of layers, in place; parameters, buffers and their names stay as they are.

    In evaluation, in another precision and on another device the layers compute what they did before.

    Args:
        first_map: whether the map of the finest resolution is used in training; a ResNet can do without it.
    """
    numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]  # like torch; TBB warns at every fork
    threads = torch.get_num_threads()
    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    # Starting its threads, numba sets OpenMP's number for the whole process, and with it torch's.
    torch.set_num_threads(threads)
    _accelerate_stem(encoder, first_map)
    for module in list(encoder.model.modules()):
        if isinstance(module, BasicBlock):
            _join(module, "bn1", "act1")
        elif isinstance(module, Bottleneck):
            _join(module, "bn1", "act1")
            _join(module, "bn2", "act2")
    for module in encoder.model.modules():
        if _is_plain(module):
            module.__class__ = FastBatchNorm2d
        elif SmallMapConv2d.fits(module):
            module.__class__ = SmallMapConv2d
        elif PointwiseConv2d.fits(module):
            module.__class__ = PointwiseConv2d


def _accelerate_stem(encoder: Encoder, first_map: bool) -> None:
    first = next((module for module in encoder.model.modules() if isinstance(module, nn.Conv2d)), None)
    three_alike = all(len(set(values)) == 1 for values in encoder.input.normalisation)
    if type(first) is nn.Conv2d and first.in_channels == 3 and first.groups == 1 and three_alike and _is_open(first):
        first.__class__ = GrayConv2d
        encoder.input.__class__ = OneChannelInput
    if isinstance(getattr(encoder.model, "act1", None), nn.ReLU) and _is_plain(getattr(encoder.model, "bn1", None)):
        _join(encoder.model, "bn1", "act1")
        pool = getattr(encoder.model, "maxpool", None)
        if not first_map and _is_usual(pool):
            encoder.model.bn1.__class__ = NormalisedPool
            pool.__class__ = PooledBefore


def _join(module: nn.Module, norm: str, activation: str) -> None:
    """Let a batch normalisation compute the ReLU that follows it, where nothing stands between them."""
    between = getattr(module, "drop_block", None)
    if (
        _is_plain(getattr(module, norm))
        and type(getattr(module, activation)) is nn.ReLU
        and (norm != "bn1" or between is None or isinstance(between, nn.Identity))
    ):
        joined = getattr(module, norm)
        joined.__class__ = FastBatchNorm2d
        joined.relu = True
        setattr(module, activation, nn.Identity())


def _is_plain(norm: nn.Module | None) -> bool:
    return type(norm) is nn.BatchNorm2d and norm.affine and norm.track_running_stats


def _is_open(convolution: nn.Conv2d) -> bool:
    """Whether its windows are whole: no dilation, and zeros around the image."""
    return convolution.dilation == (1, 1) and convolution.padding_mode == "zeros" and convolution.padding != "same"


def _is_usual(pool: nn.Module | None) -> bool:
    return type(pool) is nn.MaxPool2d and (
        (pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode) == (3, 2, 1, 1, False)
    )
