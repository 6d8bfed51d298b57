"""Ultrasound-aware views: what they may and may not do to a frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from sonodistill_training.distill.augment import UltrasoundAugmentation, gaussian_blur


def views(image, count=200, **options):
    augmentation = UltrasoundAugmentation(**options)
    return [augmentation.view(image, 64, np.random.default_rng([0, i])) for i in range(count)]


def ramp(axis):
    line = np.linspace(0, 255, 128).astype(np.uint8)
    return np.tile(line[:, None] if axis == 0 else line[None], (1, 128) if axis == 0 else (128, 1))


def test_depth_is_never_turned_over():
    for view, _ in views(ramp(axis=0)):
        assert view[-1].mean() > view[0].mean()


def test_half_of_the_views_are_mirrored():
    mirrored = sum(view[:, 0].mean() > view[:, -1].mean() for view, _ in views(ramp(axis=1), count=1000))
    assert 440 < mirrored < 560


def test_a_crop_keeps_between_half_and_all_of_the_area():
    # On a ramp in x and one in y, the range of values says the size of the crop.
    def spans(axis):
        found = views(ramp(axis), flip=0.0, blur=0.0)
        return np.array([np.ptp(view[:, 32] if axis == 0 else view[32]) / 255 for view, _ in found])

    area = spans(0) * spans(1)
    assert area.min() > 0.45 and area.max() <= 1.0
    assert area.max() - area.min() > 0.3


def test_a_view_depends_on_its_seed_alone():
    image = np.random.default_rng(1).integers(0, 256, (90, 120), dtype=np.uint8)
    for (one, blur_one), (other, blur_other) in zip(views(image, 20), views(image, 20), strict=True):
        assert np.array_equal(one, other) and blur_one == blur_other


def test_half_of_the_views_get_a_mild_blur():
    drawn = np.array([sigma for _, sigma in views(ramp(0), count=1000)])
    assert 0.44 < (drawn > 0).mean() < 0.56
    assert drawn[drawn > 0].min() >= 0.1 and drawn.max() <= 1.0


@pytest.mark.parametrize("sigma", [0.4, 1.0])
def test_blur_agrees_with_opencv(sigma):
    image = np.random.default_rng(0).random((48, 40)).astype(np.float32)
    ours = gaussian_blur(torch.from_numpy(image)[None, None], torch.tensor([sigma]))[0, 0].numpy()
    side = 2 * int(np.ceil(3 * sigma)) + 1
    theirs = cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_each_image_gets_its_own_blur_and_zero_is_none():
    images = torch.rand(3, 1, 32, 32)
    blurred = gaussian_blur(images, torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(blurred[0], images[0])
    roughness = [image.diff(dim=-1).abs().mean() for image in blurred]
    assert roughness[0] > roughness[1] > roughness[2]
