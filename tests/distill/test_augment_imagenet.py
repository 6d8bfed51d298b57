"""The "Default" augmentation beside torchvision's: the same operations, and draws of the same distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, fisher_exact, ks_2samp
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from sonodistill_training.distill.augment import crop_and_flip, finish
from sonodistill_training.distill.augment_imagenet import ImageNetAugmentation
from sonodistill_training.distill.augment_pixels import gaussian_blur, jitter


def draw(shape, count, seed=0, **options):
    return ImageNetAugmentation(**options).draw(seed, range(count), [shape] * count)


def assert_alike(ours, theirs):
    """Two-sample Kolmogorov-Smirnov at 1 %; the seeds are fixed, so it comes out the same every time."""
    assert ks_2samp(ours, theirs).pvalue > 0.01


@pytest.mark.parametrize("shape", [(200, 200), (240, 320), (100, 400), (300, 90)])
def test_crops_are_distributed_as_torchvision_draws_them(shape):
    count = 2000
    ours = draw(shape, count).boxes
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(64, (0.14, 1.0), (3 / 4, 4 / 3)), torch.empty(1, *shape)
    drawn = [crop.make_params([image]) for _ in range(count)]
    theirs = np.array([[box[name] for name in ("top", "left", "height", "width")] for box in drawn])
    for column in range(4):
        assert_alike(ours[:, column], theirs[:, column])
    assert_alike(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3])  # area
    assert_alike(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2])  # ratio


@pytest.mark.parametrize("shape", [(50, 400), (400, 50), (1, 30), (10000, 12000)])
def test_where_no_crop_fits_it_is_the_centre_that_torchvision_takes(shape):
    box = v2.RandomResizedCrop(64, (1.0, 1.0), (3 / 4, 4 / 3)).make_params([torch.empty(1, *shape)])
    ours = draw(shape, 20, scale=(1.0, 1.0)).boxes
    assert (ours == [box["top"], box["left"], box["height"], box["width"]]).all()


def test_an_enlarged_crop_is_torchvisions_resized_crop():
    image = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    drawn = draw(image.shape, 20, flip=0.0)
    for (top, left, height, width), view in zip(
        drawn.boxes.tolist(), crop_and_flip([image] * 20, drawn, 96), strict=True
    ):
        theirs = functional.resized_crop(torch.from_numpy(image)[None], top, left, height, width, [96, 96])
        assert np.abs(view.astype(int) - theirs.numpy().astype(int)).max() <= 1  # OpenCV's fixed point


def test_as_many_views_are_mirrored_as_by_torchvision():
    count = 2000
    ours = int(draw((64, 64), count, flip=0.3).flip.sum())
    torch.manual_seed(0)
    flip, line = v2.RandomHorizontalFlip(0.3), torch.tensor([[[0.0, 1.0]]])
    theirs = sum(bool(flip(line)[0, 0, 0]) for _ in range(count))
    assert binomtest(ours, count, 0.3).pvalue > 0.01
    assert fisher_exact([[ours, count - ours], [theirs, count - theirs]]).pvalue > 0.01


def test_a_mirrored_view_is_torchvisions():
    image = np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8)
    plain, mirrored = (crop_and_flip([image] * 5, draw(image.shape, 5, flip=share), 64) for share in (0.0, 1.0))
    assert torch.equal(torch.from_numpy(mirrored), functional.hflip(torch.from_numpy(plain)))


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize(("brightness", "contrast"), [(1.4, 1.4), (0.6, 1.3), (1.35, 0.6), (1.0, 0.7), (0.0, 0.5)])
def test_jitter_is_torchvisions_with_the_same_factors_and_order(order, brightness, contrast):
    images = torch.rand(3, 1, 20, 24) ** 2
    ours = jitter(images, torch.tensor([[brightness, contrast, order]] * 3))
    for image, changed in zip(images, ours, strict=True):
        ids = torch.tensor([2, 0, 3, 1] if order == 0 else [1, 3, 0, 2])
        params = {"fn_idx": ids, "brightness_factor": brightness, "contrast_factor": contrast}
        params |= {"saturation_factor": 0.7, "hue_factor": 0.05}
        transform = v2.ColorJitter(0.4, 0.4, 0.2, 0.1)
        torch.testing.assert_close(changed, transform.transform(image, params), rtol=0, atol=5e-7)
        # Replicated, torchvision's rounded luma (.2989 + .587 + .114 = .9999) moves it by a fortieth of a gray level.
        replicated = transform.transform(image.repeat(3, 1, 1), params)
        torch.testing.assert_close(changed.expand(3, -1, -1), replicated, rtol=0, atol=1.2e-4)


def test_each_image_has_a_jitter_of_its_own_and_factors_of_one_leave_it():
    images = torch.rand(3, 1, 16, 16)
    factors = torch.tensor([[1.0, 1.0, 0.0], [1.3, 0.7, 0.0], [1.3, 0.7, 1.0]])
    changed = jitter(images, factors)
    assert torch.equal(changed[0], images[0])
    for number in range(3):
        alone = jitter(images[number : number + 1], factors[number : number + 1])
        torch.testing.assert_close(changed[number : number + 1], alone, rtol=0, atol=1e-6)


def test_jittered_views_are_distributed_as_torchvisions():
    count = 1500
    image = (torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 255).to(torch.uint8)
    factors = torch.from_numpy(draw((12, 12), count).jitter)
    ours = finish({"image": image.expand(count, -1, -1, -1), "jitter": factors})
    torch.manual_seed(0)
    change = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8)
    theirs = torch.stack([change(image[0] / 255) for _ in range(count)])
    for statistic in (torch.mean, torch.std, torch.amin, torch.amax):
        # Rounded: a fifth of the views are left as they are, and should tie.
        assert_alike(*(statistic(views, dim=(1, 2, 3)).numpy().round(5) for views in (ours, theirs)))


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0, 1.7])
def test_blur_is_torchvisions_with_the_same_sigma_and_kernel(sigma):
    images = torch.rand(2, 1, 40, 48)
    side = 2 * int(np.ceil(3 * np.float32(sigma))) + 1
    theirs = functional.gaussian_blur(images, [side, side], [sigma, sigma])
    torch.testing.assert_close(gaussian_blur(images, torch.tensor([sigma] * 2)), theirs, rtol=0, atol=2e-6)


def test_sigmas_are_distributed_as_torchvisions():
    count = 2000
    drawn = draw((64, 64), count, blur=1.0).blur
    torch.manual_seed(0)
    blur = v2.GaussianBlur(13, (0.1, 2.0))
    assert_alike(drawn, [blur.make_params([])["sigma"][0] for _ in range(count)])


def test_as_many_views_are_changed_as_asked_for():
    drawn = draw((64, 64), 2000, jitter=0.8, blur=0.3)
    jittered = int((drawn.jitter != [1, 1, 0]).any(1).sum())
    assert binomtest(jittered, 2000, 0.8).pvalue > 0.01
    assert binomtest(int((drawn.blur > 0).sum()), 2000, 0.3).pvalue > 0.01
    brightness_first = drawn.jitter[(drawn.jitter != [1, 1, 0]).any(1), 2] < 0.5
    assert binomtest(int(brightness_first.sum()), jittered, 0.5).pvalue > 0.01
