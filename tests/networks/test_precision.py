"""Mixed precision: asked for by name, float32 on the way out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sonodistill.errors import BundleConfigError
from sonodistill.inference.inferer import PrecisionInferer
from sonodistill.networks.precision import use_bf16


class Spy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def forward(self, x):
        out = self.layer(x)
        self.dtype = out.dtype
        return out


@pytest.mark.parametrize(("precision", "inside"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_network_runs_in_the_precision_asked_for_and_answers_in_float32(precision, inside):
    spy, x = Spy(), torch.rand(1, 1, 4, 4)
    out = PrecisionInferer(precision)(x, spy)
    assert spy.dtype == inside and out.dtype == torch.float32
    torch.testing.assert_close(out, spy(x), rtol=2e-2, atol=2e-2)


def test_auto_is_one_of_the_two():
    assert use_bf16("auto", torch.device("cpu")) in (True, False)
    assert use_bf16("bf16", torch.device("cpu")) and not use_bf16("fp32", torch.device("cpu"))


def test_another_word_is_refused():
    with pytest.raises(BundleConfigError, match="fp8"):
        use_bf16("fp8", torch.device("cpu"))
