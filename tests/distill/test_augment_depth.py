"""What changes with depth: a blur that grows from the top of a view to its bottom, and a gain that varies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, kstest
from torchvision.transforms.v2 import functional

from sonodistill_training.distill.augment import UltrasoundAugmentation
from sonodistill_training.distill.augment_pixels import change_gain_by_depth, gaussian_blur


def draw(count, seed=0, **options):
    return UltrasoundAugmentation(**options).draw(seed, range(count), [(64, 64)] * count)


@pytest.mark.parametrize("sigma", [0.3, 1.0, 2.4])
def test_a_blur_that_is_the_same_at_top_and_bottom_is_the_plain_blur(sigma):
    images, width = torch.rand(2, 1, 40, 32), torch.tensor([sigma, 0.8])
    torch.testing.assert_close(
        gaussian_blur(images, width, torch.ones(2)), gaussian_blur(images, width), rtol=0, atol=2e-6
    )


def test_every_row_is_torchvisions_blur_of_its_own_sigma():
    image, rows = torch.rand(1, 1, 33, 40), 33
    blurred = gaussian_blur(image, torch.tensor([0.41]), torch.tensor([5.0]))
    for row, sigma in enumerate(np.linspace(0.41, 2.05, rows, dtype=np.float32)):
        side = 2 * int(np.ceil(3 * sigma)) + 1
        expected = functional.gaussian_blur(image, [side, side], [float(sigma)] * 2)
        torch.testing.assert_close(blurred[:, :, row], expected[:, :, row], rtol=0, atol=2e-6)


def test_detail_fades_with_depth():
    images = torch.rand(1, 1, 96, 96)
    rough = gaussian_blur(images, torch.tensor([0.5]), torch.tensor([4.0])).diff(dim=-1).abs().mean((0, 1, 3))
    assert rough[:24].mean() > 2 * rough[36:60].mean() > 2 * rough[72:].mean()


def test_no_brightness_is_lost_to_it():
    flat = torch.full((1, 1, 48, 48), 0.37)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([1.0]), torch.tensor([3.0])), flat, rtol=0, atol=2e-6)


def test_an_image_is_blurred_with_depth_alike_whatever_else_is_in_the_batch():
    images, sigma, depth = torch.rand(4, 1, 32, 32), torch.tensor([0.4, 2.0, 0.0, 0.7]), torch.tensor([1.0, 3, 2, 2])
    together = gaussian_blur(images, sigma, depth)
    for number in range(4):
        one = slice(number, number + 1)
        assert torch.equal(together[one], gaussian_blur(images[one], sigma[one], depth[one]))
    assert torch.equal(together[2], images[2])  # no blur at the top is none at the bottom


@pytest.mark.parametrize("depth", [None, torch.tensor([10.0])])
def test_a_kernel_wider_than_the_view_ends_where_the_view_does(depth):
    image = torch.rand(1, 1, 5, 7)
    blurred = gaussian_blur(image, torch.tensor([9.0]), depth)
    assert blurred.shape == image.shape and torch.isfinite(blurred).all()
    assert image.amin() <= blurred.amin() and blurred.amax() <= image.amax()


def test_blur_grows_with_depth_in_as_many_blurred_views_as_asked_for_and_by_as_much():
    drawn = draw(3000, depth_blur=0.4, blur_depth=(1.5, 2.5)).blur_depth
    grows = drawn != 1
    assert binomtest(int(grows.sum()), 3000, 0.4).pvalue > 0.01
    assert kstest(drawn[grows], "uniform", (1.5, 1.0)).pvalue > 0.01


def test_gain_is_that_of_the_control_points_at_their_depths():
    points = torch.tensor([[0.1, -0.2, 0.3], [0.0, 0.0, 0.0]])
    images = torch.full((2, 1, 41, 8), 0.5)
    changed = change_gain_by_depth(images, points)
    torch.testing.assert_close(changed[0, 0, [0, 20, 40], 0] - 0.5, points[0])
    assert torch.equal(changed[1], images[1])
    assert torch.equal(changed, changed[..., :1].expand_as(changed))  # a row has one gain


def test_gain_goes_smoothly_from_one_point_to_the_next_and_no_further():
    points = torch.tensor([[0.1, -0.2, 0.3, 0.3]])
    gain = change_gain_by_depth(torch.full((1, 1, 301, 1), 0.5), points)[0, 0, :, 0] - 0.5
    assert gain.amin() >= -0.2 - 1e-6 and gain.amax() <= 0.3 + 1e-6
    assert (gain[:101].diff() <= 1e-6).all() and (gain[100:201].diff() >= -1e-6).all()  # monotone between points
    assert gain.diff().diff().abs().amax() < 4e-4  # no kink: 0.5 * 6 / 100**2 at most


def test_gain_leaves_black_black_and_ends_at_white():
    images = torch.tensor([0.0, 0.95, 0.05]).view(1, 1, 1, 3).repeat(1, 1, 4, 1)
    changed = change_gain_by_depth(images, torch.full((1, 2), 0.2))
    torch.testing.assert_close(changed[0, 0, 0], torch.tensor([0.0, 1.0, 0.25]))
    darker = change_gain_by_depth(images, torch.full((1, 2), -0.2))
    torch.testing.assert_close(darker[0, 0, 0], torch.tensor([0.0, 0.75, 0.0]))


def test_gain_varies_with_depth_in_as_many_views_as_asked_for_within_its_range():
    drawn = draw(2000, tgc=0.25, tgc_gain=(-0.2, 0.1), tgc_points=4).tgc
    varies = (drawn != 0).any(1)
    assert drawn.shape == (2000, 4) and binomtest(int(varies.sum()), 2000, 0.25).pvalue > 0.01
    assert kstest(drawn[varies].ravel(), "uniform", (-0.2, 0.3)).pvalue > 0.01
    correlation = np.corrcoef(drawn[varies].T) - np.eye(4)
    assert np.abs(correlation).max() < 4 / np.sqrt(varies.sum())
