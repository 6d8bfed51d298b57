"""A folded stem computes the same, up to the borders; one that cannot be folded stays."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from sonodistill.networks.encoder import Encoder, GrayInput
from sonodistill_training.export.network import Centred, fold_stem


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv4_conv_small", "fastvit_t8"])
def test_it_is_exact_on_every_pixel_of_every_map(name: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder(name, mean=0.3, std=(0.2, 0.25, 0.3)).eval()
    folded = fold_stem(encoder)
    assert isinstance(folded.input, Centred)
    assert not any(module.in_channels == 3 for module in folded.modules() if isinstance(module, nn.Conv2d))
    image = torch.rand(2, 1, 96, 64)
    with torch.no_grad():
        for found, wanted in zip(folded.pyramid(image), encoder.pyramid(image), strict=True):
            assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max().clamp(min=1)
    assert isinstance(encoder.input, GrayInput)  # a copy was changed


def test_a_mean_for_each_channel_is_not_folded(caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder("resnet18", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)).eval()
    with caplog.at_level(logging.WARNING):
        kept = fold_stem(encoder)
    assert isinstance(kept.input, GrayInput)
    assert "a mean for each channel" in caplog.text
    image = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(kept(image), encoder(image), atol=0, rtol=0)


class _NormalisedFirst(nn.Module):
    """Its input is read by something else than a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.norm, self.conv = GrayInput(), nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(self.input(x)))


class _AddedLater(nn.Module):
    """A sum over the input's channels that no module does."""

    def __init__(self) -> None:
        super().__init__()
        self.input, self.conv = GrayInput(), nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        image = self.input(x)
        return self.conv(image) + image.sum(1, keepdim=True)


@pytest.mark.parametrize(("network", "said"), [(_NormalisedFirst(), "BatchNorm2d"), (_AddedLater(), "would differ")])
def test_what_would_change_the_output_is_left(network: nn.Module, said: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kept = fold_stem(network)
    assert said in caplog.text
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(kept(image), network.eval()(image))
