"""The objective: its options against plain torch, its gradient against autograd, and the memory it does not take."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from sonodistill.errors import BundleConfigError
from sonodistill_training.distill.objective import ChannelStatistics, Objective, interpolation_matrix


def case(seed=0, batch=5, dim=12, low=4, grid=9):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(batch, dim, low, low, generator=generator)
    return prediction.requires_grad_(), 3 * torch.randn(batch, dim, grid, grid, generator=generator) + 1


def resized(prediction, target):
    return functional.interpolate(prediction, target.shape[-2:], mode="bilinear", align_corners=False)


def l2(prediction, target):
    return (2 - 2 * functional.cosine_similarity(resized(prediction, target), target, dim=1)).mean()


def similarity(prediction, target):
    maps = [functional.normalize(tokens.flatten(2), dim=1) for tokens in (resized(prediction, target), target)]
    student, teacher = (torch.einsum("bcn,bcm->bnm", tokens, tokens) for tokens in maps)
    return (student - teacher).square().mean()


def mse(prediction, target):
    return functional.mse_loss(resized(prediction, target), target)


@pytest.mark.parametrize(
    ("objective", "reference"),
    [
        (Objective(), mse),
        (Objective("l2"), l2),
        (Objective("none", 2.0), lambda p, t: mse(p, t) + 2 * similarity(p, t)),
        (Objective("l2", 5.0), lambda p, t: l2(p, t) + 5 * similarity(p, t)),
    ],
)
def test_value_and_gradient_are_those_of_plain_torch(objective, reference, monkeypatch):
    monkeypatch.setattr("sonodistill_training.distill.objective._CHUNK_ELEMENTS", 2 * 12 * 81)  # pieces of 2, 2 and 1
    prediction, target = case()
    expected = reference(prediction, target)
    (gradient,) = torch.autograd.grad(expected, prediction)
    found = objective(prediction, target)["loss"]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(3 * found, prediction)[0], 3 * gradient, rtol=1e-4, atol=1e-7)


def test_equation_6_is_the_channel_sum_of_the_minimised_mean():
    prediction, target = case()
    values = Objective()(prediction, target)
    distances = (target - resized(prediction, target)).flatten(2).norm(dim=1).square()
    torch.testing.assert_close(values["eq6"], distances.mean().detach())
    torch.testing.assert_close(values["eq6"], 12 * values["loss"].detach())


@pytest.mark.parametrize("normalisation", ["none", "l2"])
def test_a_student_that_always_answers_the_mean_token_loses_the_target_variance(normalisation):
    _, target = case(batch=50)
    units = functional.normalize(target, dim=1) if normalisation == "l2" else target
    mean = units.mean((0, 2, 3)).view(1, -1, 1, 1)
    values = Objective(normalisation)(mean.expand(50, -1, 3, 3).contiguous(), target)
    if normalisation == "none":
        torch.testing.assert_close(values["token"], values["target_variance"])
    else:  # the mean token's own length counts nothing there: 2 - 2|m| beside 1 - |m|^2
        length = mean.norm()
        torch.testing.assert_close(values["token"], 2 - 2 * length)
        torch.testing.assert_close(values["target_variance"], 1 - length.square())


def test_standardised_channels_have_mean_0_and_variance_1():
    statistics = ChannelStatistics(12)
    scale = torch.logspace(-1, 2, 12).view(1, -1, 1, 1)
    for seed in range(40):
        statistics.update(case(seed)[1] * scale)
    standardised = statistics(case(99, batch=200)[1] * scale)
    torch.testing.assert_close(standardised.mean((0, 2, 3)), torch.zeros(12), atol=0.05, rtol=0)
    torch.testing.assert_close(standardised.var((0, 2, 3)), torch.ones(12), atol=0.1, rtol=0)
    prediction, target = case()
    values = Objective("standardize")(prediction, target, statistics)
    torch.testing.assert_close(values["loss"], mse(prediction, statistics(target)))


@pytest.mark.parametrize(("source", "grid"), [((7, 7), (14, 14)), ((6, 9), (16, 5)), ((4, 4), (4, 4))])
def test_the_interpolation_matrix_is_torchs_bilinear_interpolation(source, grid):
    maps = torch.randn(3, 5, *source)
    expected = functional.interpolate(maps, grid, mode="bilinear", align_corners=False)
    found = (maps.flatten(2) @ interpolation_matrix(source, grid)).unflatten(2, grid)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


class LargestFloat32(TorchDispatchMode):
    """The most elements of any float32 tensor that an operation made."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, torch.Tensor) and value.dtype == torch.float32:
                self.elements = max(self.elements, value.numel())
        return result


@pytest.mark.parametrize("objective", [Objective(), Objective("l2", 1.0)])
def test_a_large_target_never_exists_in_float32(objective):
    prediction = torch.randn(64, 384, 7, 7).bfloat16().requires_grad_()
    target = torch.randn(64, 384, 14, 14, dtype=torch.bfloat16)
    with LargestFloat32() as seen:
        objective(prediction, target)["loss"].backward()
    assert 0 < seen.elements <= target.numel() / 4


def test_maps_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="target"):
        Objective()(torch.zeros(1, 2, 3, 3), torch.zeros(1, 3, 3, 3))


@pytest.mark.parametrize("wrong", [{"normalisation": "unit"}, {"similarity": -1.0}])
def test_an_option_that_does_not_exist_is_refused(wrong):
    with pytest.raises(BundleConfigError, match="What to do"):
        Objective(**wrong)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_a_channel_is_divided_by_its_standard_deviation_to_the_power_asked_for(power):
    generator = torch.Generator().manual_seed(0)
    spread = torch.tensor([0.1, 1.0, 10.0]).view(1, 3, 1, 1)
    tokens = torch.randn(64, 3, 8, 8, generator=generator) * spread + 5 * spread
    statistics = ChannelStatistics(3)
    statistics.update(tokens)
    found = Objective("standardize", power=power).normalise(tokens, statistics)
    expected = spread.flatten() ** (1 - power)
    torch.testing.assert_close(found.std(dim=(0, 2, 3)), expected, rtol=0.03, atol=0)
    torch.testing.assert_close(found.mean(dim=(0, 2, 3)) / expected, torch.zeros(3), rtol=0, atol=0.01)


def test_a_power_out_of_range_is_refused():
    with pytest.raises(BundleConfigError, match="power"):
        Objective("standardize", power=2.0)
