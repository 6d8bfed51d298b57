"""The network that is exported: as it was trained, with its gray stem folded."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from timm.layers import Conv2dSame
from timm.utils import reparameterize_model
from torch import Tensor, nn

from sonodistill.networks.encoder import GrayInput

logger = logging.getLogger(__name__)

# Their output is linear in their weight, and what they pad with is zero.
_FOLDABLE = (nn.Conv2d, Conv2dSame)
_SAME = 1e-9  # relative; in float64, where a right folding differs by 1e-14


class Centred(nn.Module):
    """What is left of :class:`GrayInput` when its stem is folded: the mean comes off, so that padding stays zero."""

    mean: Tensor

    def __init__(self, mean: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) to (B, 1, H, W)."""
        return x - self.mean


def fold_stem(network: nn.Module, size: tuple[int, int] = (64, 64)) -> nn.Module:
    """A copy of ``network`` that computes the same with a stem of one channel instead of three equal ones.

    With one mean, sum_c W_c * (x - m) / s_c = (sum_c W_c / s_c) * (x - m): the weights are added up over the input
    channels, divided by the deviation. Only x - m stays before the convolution, because a convolution pads the
    normalised image with zeros, which are the mean of x. With a mean for each channel there is no such weight at the
    borders, and the stem stays as it is. Branches that were only for training (RepVGG, MobileOne, FastViT) are merged.

    Args:
        network: holds one :class:`GrayInput`; any mode, float32.
        size: (height, width) of the images that original and copy are compared on.

    Returns:
        A copy in eval mode, float32; an unfolded one where the result were not the same, which the log tells.
    """
    original = copy.deepcopy(network).eval().double()
    image = torch.rand((2, 1, *size), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kept = original
    for name, change in (("merge the branches", _merge), ("fold the stem", _fold)):
        changed = copy.deepcopy(kept)
        problem = change(changed, image) or _difference(original, changed, image)
        if problem:
            logger.warning("did not %s: %s", name, problem)
        else:
            kept = changed
    return kept.float()


def _merge(network: nn.Module, image: Tensor) -> str:
    del image
    reparameterize_model(network, inplace=True)
    return ""


def _fold(network: nn.Module, image: Tensor) -> str:
    """Fold in place; returns why it cannot be done, if so."""
    inputs = [(name, module) for name, module in network.named_modules() if isinstance(module, GrayInput)]
    if len(inputs) != 1:
        return f"it has {len(inputs)} gray inputs"
    name, gray = inputs[0]
    if not torch.equal(gray.mean.amin(), gray.mean.amax()):
        return "its input has a mean for each channel"
    stems = _readers(network, gray, image)
    if not stems or not all(isinstance(stem, nn.Conv2d) and type(stem) in _FOLDABLE for stem in stems):
        return f"its input is read by {', '.join(sorted({type(stem).__name__ for stem in stems})) or 'no module'}"
    for stem in stems:
        if stem.in_channels != 3 or stem.groups != 1 or stem.padding_mode != "zeros":
            return f"its stem is {stem}"
        stem.weight = nn.Parameter((stem.weight / gray.std).sum(1, keepdim=True), requires_grad=False)
        stem.in_channels = 1
    network.set_submodule(name, Centred(gray.mean[:, :1]))
    return ""


def _readers(network: nn.Module, gray: nn.Module, image: Tensor) -> list[Any]:
    """The modules without children that are given what ``gray`` returns."""
    outputs: list[Tensor] = []
    readers: list[nn.Module] = []

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        if any(value is output for value in args for output in outputs):
            readers.append(module)

    with ExitStack() as hooks, torch.inference_mode():
        hooks.enter_context(_removed(gray.register_forward_hook(lambda _, __, output: outputs.append(output))))
        for module in network.modules():
            if not any(module.children()) and module is not gray:
                hooks.enter_context(_removed(module.register_forward_pre_hook(look)))
        network(image)
    return readers


def _removed(handle: Any) -> ExitStack:
    stack = ExitStack()
    stack.callback(handle.remove)
    return stack


def _difference(original: Callable[[Tensor], Tensor], changed: Callable[[Tensor], Tensor], image: Tensor) -> str:
    """How the outputs differ; empty when they do not."""
    with torch.inference_mode():
        wanted = original(image)
        try:
            found = changed(image)
        except RuntimeError as error:
            return (str(error).splitlines() or [""])[0][:160]
    difference = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
    return "" if difference <= _SAME else f"the output would differ by {difference:.1e} of its largest value"
