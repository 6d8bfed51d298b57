"""Speckle: noise that multiplies, is correlated in space and belongs to its view alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydicom.examples import get_path
from scipy.stats import binomtest, kstest

from sonodistill.frames import read
from sonodistill_training.corpus.simulator import simulate_frame
from sonodistill_training.distill.augment import UltrasoundAugmentation, crop_and_flip, finish
from sonodistill_training.distill.augment_pixels import grains, speckle
from sonodistill_training.distill.data import CorpusViews

EVERYTHING = UltrasoundAugmentation(intensity=0.5, depth_blur=0.5, tgc=0.5, speckle=0.5)


def noise(count, size, side=96):
    return grains(torch.arange(count) * 7919, (side, side), torch.full((count,), float(size)))


@pytest.mark.parametrize("size", [0.0, 0.5, 1.0, 1.5])
def test_grains_have_mean_0_and_variance_1_everywhere(size):
    drawn = noise(200, size, side=32)
    # The variance of a mean of n correlated values is that of n / (4 pi size ** 2) independent ones.
    spread = max(1.0, 4 * np.pi * size**2) / drawn.numel()
    assert abs(drawn.mean()) < 4 * spread**0.5
    assert abs(drawn.var() - 1) < 0.03
    border = torch.cat([drawn[..., :1, :], drawn[..., -1:, :]])
    assert abs(border.var() - 1) < 0.1


@pytest.mark.parametrize("size", [0.7, 1.0, 2.0])
def test_grains_are_as_large_as_asked_for(size):
    drawn = noise(40, size)
    for axis in (-2, -1):
        for lag in (1, 2, 3):
            shifted = (drawn * drawn.roll(lag, axis)).mean()
            assert abs(shifted - np.exp(-(lag**2) / (4 * size**2))) < 0.04  # of a Gaussian by itself


def test_grains_are_normally_distributed_once_they_are_larger_than_a_pixel():
    drawn = noise(20, 1.5)[:, 0, ::8, ::8].ravel().numpy()  # far enough apart to be independent
    assert kstest(drawn, "norm").pvalue > 0.01


def test_views_have_nothing_in_common_in_their_noise():
    drawn = noise(60, 1.0).flatten(1)
    correlation = drawn @ drawn.T / drawn.shape[1] - torch.eye(60)
    off = ~torch.eye(60, dtype=torch.bool)
    assert correlation[off].abs().max() < 5 * (4 * np.pi / drawn.shape[1]) ** 0.5


def test_neighbouring_seeds_give_noise_that_has_nothing_in_common():
    white = grains(torch.arange(64), (32, 32), torch.zeros(64)).flatten(1)
    correlation = white @ white.T / white.shape[1] - torch.eye(64) * (white**2).mean(1)
    assert correlation.abs().max() < 5 / white.shape[1] ** 0.5


def test_strength_is_the_spread_of_the_factor():
    images = torch.full((3, 1, 96, 96), 0.5)
    levels = torch.tensor([[0.0, 1.0], [0.1, 0.8], [0.2, 1.2]])
    factor = speckle(images, levels, torch.tensor([1, 2, 3])) / 0.5
    assert torch.equal(factor[0], torch.ones_like(factor[0]))
    assert abs(factor[1].std() - 0.1) < 0.01 and abs(factor[2].std() - 0.2) < 0.02


def test_speckle_stays_between_black_and_white():
    noisy = speckle(torch.rand(2, 1, 64, 64), torch.tensor([[1.0, 1.0]] * 2), torch.tensor([5, 6]))
    assert noisy.amin() >= 0 and noisy.amax() <= 1


def simulated():
    return simulate_frame(3, size=(120, 160)).image


def real():
    return next(iter(read(get_path("rgb_color")))).image


@pytest.mark.parametrize("source", [simulated, real])
def test_what_is_black_outside_the_sector_stays_black(source):
    frames = [source()] * 16
    augmentation = UltrasoundAugmentation(blur=0.0, intensity=1.0, tgc=1.0, speckle=1.0)
    views = augmentation.draw(0, range(16), [frame.shape for frame in frames])
    batch = {"image": torch.from_numpy(crop_and_flip(frames, views, 96))} | views.on_device()
    finished, black = finish(batch), batch["image"] == 0
    assert 0.05 < black.float().mean() < 0.95
    assert (finished[black] == 0).all()
    assert (finished[~black] != (batch["image"] / 255)[~black]).float().mean() > 0.9


def test_as_many_views_have_speckle_as_asked_for_within_its_ranges():
    options = {"speckle": 0.3, "speckle_strength": (0.1, 0.2), "speckle_size": (0.5, 1.0)}
    drawn = UltrasoundAugmentation(**options).draw(0, range(3000), [(64, 64)] * 3000)
    noisy = drawn.speckle[:, 0] > 0
    assert binomtest(int(noisy.sum()), 3000, 0.3).pvalue > 0.01
    assert kstest(drawn.speckle[noisy, 0], "uniform", (0.1, 0.1)).pvalue > 0.01
    assert kstest(drawn.speckle[noisy, 1], "uniform", (0.5, 0.5)).pvalue > 0.01
    assert kstest(drawn.speckle_seed, "uniform", (0, 2**32)).pvalue > 0.01


def test_a_finished_view_is_the_same_whichever_batch_it_falls_into():
    frames = [simulate_frame(number, size=(90, 120)).image for number in range(4)]
    views = CorpusViews(frames, 64, EVERYTHING, seed=5)
    positions = [(100 + number, number % 4) for number in range(24)]
    whole = views.__getitems__(positions)
    finished = finish(whole)
    for start, stop in ((0, 1), (1, 8), (8, 24)):
        part = views.__getitems__(positions[start:stop])
        assert all(torch.equal(values, whole[name][start:stop]) for name, values in part.items())
        torch.testing.assert_close(finish(part), finished[start:stop], rtol=0, atol=1e-6)
    again = finish(views.__getitems__(positions[::-1])).flip(0)
    torch.testing.assert_close(again, finished, rtol=0, atol=1e-6)


def test_a_finished_batch_is_the_same_to_the_bit_when_it_is_made_again():
    views = CorpusViews([simulated()], 64, EVERYTHING)
    positions = [(number, 0) for number in range(16)]
    torch.manual_seed(1)
    first = finish(views.__getitems__(positions))
    torch.manual_seed(2)
    assert torch.equal(first, finish(views.__getitems__(positions)))


def test_another_seed_or_position_has_other_noise():
    views, reseeded = (CorpusViews([simulated()], 32, EVERYTHING, seed=seed) for seed in (0, 1))
    seeds = [batch["speckle_seed"] for batch in (views.__getitems__([(n, 0) for n in range(500)]), reseeded[(0, 0)])]
    assert len(seeds[0].unique()) == 500 and seeds[1] != seeds[0][0]


def test_depth_is_never_turned_over_and_the_view_stays_gray():
    ramp = np.tile(np.linspace(60, 200, 96).astype(np.uint8)[:, None], (1, 96))
    finished = finish(CorpusViews([ramp], 64, EVERYTHING).__getitems__([(number, 0) for number in range(100)]))
    assert finished.shape == (100, 1, 64, 64) and finished.dtype == torch.float32
    assert (finished[..., -8:, :].mean((1, 2, 3)) > finished[..., :8, :].mean((1, 2, 3))).all()
