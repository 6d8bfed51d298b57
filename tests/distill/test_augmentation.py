"""Ultrasound-aware views: what they may and may not do to a frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import v2

from sonodistill_training.distill.augment import (
    UltrasoundAugmentation,
    change_intensity,
    crop_and_flip,
    finish,
    gaussian_blur,
    mixup,
)


def draw(shape, count, **options):
    return UltrasoundAugmentation(**options).draw(0, range(count), [shape] * count)


def views(image, count=200, size=64, **options):
    """(count, size, size) views of one image."""
    return crop_and_flip([image] * count, draw(image.shape, count, **options), size)[:, 0]


def ramp(axis):
    line = np.linspace(0, 255, 128).astype(np.uint8)
    return np.tile(line[:, None] if axis == 0 else line[None], (1, 128) if axis == 0 else (128, 1))


def test_depth_is_never_turned_over():
    for view in views(ramp(axis=0)):
        assert view[-1].mean() > view[0].mean()


def test_half_of_the_views_are_mirrored():
    mirrored = sum(view[:, 0].mean() > view[:, -1].mean() for view in views(ramp(axis=1), count=1000))
    assert 440 < mirrored < 560  # 3.8 standard deviations


def test_a_crop_keeps_between_half_and_all_of_the_area():
    # On a ramp in x and one in y, the range of values says the size of the crop.
    def spans(axis):
        found = views(ramp(axis), flip=0.0)
        return np.array([np.ptp(view[:, 32] if axis == 0 else view[32]) / 255 for view in found])

    area = spans(0) * spans(1)
    assert area.min() > 0.45 and area.max() <= 1.0
    assert area.max() - area.min() > 0.3


def test_crops_are_distributed_as_torchvision_draws_them():
    count, side = 4000, 256
    ours = draw((side, side), count).boxes
    torch.manual_seed(0)
    image = torch.zeros(1, side, side)
    theirs = np.array([v2.RandomResizedCrop.get_params(image, (0.5, 1.0), (3 / 4, 4 / 3)) for _ in range(count)])
    both = [np.column_stack([boxes, boxes[:, 2] * boxes[:, 3], boxes[:, 3] / boxes[:, 2]]) for boxes in (ours, theirs)]
    for ours_column, theirs_column in zip(both[0].T, both[1].T, strict=True):  # top, left, height, width, area, ratio
        assert ks_2samp(ours_column, theirs_column).pvalue > 0.01


@given(height=st.integers(1, 300), width=st.integers(1, 300), seed=st.integers(0, 2**40))
def test_a_crop_lies_inside_its_frame(height, width, seed):
    boxes = (
        UltrasoundAugmentation(scale=(0.05, 1.0), ratio=(0.2, 5.0)).draw(seed, range(50), [(height, width)] * 50).boxes
    )
    top, left, rows, columns = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (rows > 0).all() and (columns > 0).all()
    assert (top + rows <= height).all() and (left + columns <= width).all()


def test_a_crop_that_cannot_fit_is_the_whole_frame():
    boxes = draw((100, 200), 20, scale=(1.0, 1.0), ratio=(2.0, 3.0)).boxes
    assert (boxes == [0, 0, 100, 200]).all()


def test_a_view_is_the_crop_resized_by_opencv():
    image = np.random.default_rng(0).integers(0, 256, (256, 340), dtype=np.uint8)
    drawn = draw(image.shape, 20)
    for (top, left, height, width), flip, view in zip(
        drawn.boxes, drawn.flip, crop_and_flip([image] * 20, drawn, 224)[:, 0], strict=True
    ):
        expected = cv2.resize(image[top : top + height, left : left + width], (224, 224))
        assert np.array_equal(view, expected[:, ::-1] if flip else expected)


def test_a_view_depends_on_the_seed_and_its_position_alone():
    image = np.random.default_rng(1).integers(0, 256, (90, 120), dtype=np.uint8)
    augmentation = UltrasoundAugmentation(intensity=0.5)

    def at(positions, seed=0):
        drawn = augmentation.draw(seed, positions, [image.shape] * len(positions))
        return crop_and_flip([image] * len(positions), drawn, 64), drawn.blur, drawn.intensity

    for whole, part in zip(at(range(20)), at([13, 4]), strict=True):
        assert np.array_equal(whole[[13, 4]], part)
    assert not np.array_equal(at(range(20))[0], at(range(20), seed=1)[0])


def test_half_of_the_views_get_a_mild_blur():
    drawn = draw((128, 128), 1000).blur
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


def test_an_image_is_blurred_alike_whatever_else_is_in_the_batch():
    images = torch.rand(2, 1, 32, 32)
    together = gaussian_blur(images, torch.tensor([0.4, 3.0]))
    torch.testing.assert_close(together[:1], gaussian_blur(images[:1], torch.tensor([0.4])), rtol=0, atol=1e-6)


def test_the_papers_recipe_leaves_intensities_alone():
    assert draw((64, 64), 100).intensity is None
    assert set(draw((64, 64), 100).on_device()) == {"blur"}


def test_intensity_changes_as_many_views_as_asked_for_within_its_ranges():
    levels = draw((64, 64), 2000, intensity=0.3).intensity
    changed = (levels != [0.0, 1.0, 1.0]).any(1)
    assert 0.26 < changed.mean() < 0.34  # 3.9 standard deviations
    low, high = levels[changed].min(0), levels[changed].max(0)
    assert (low >= np.float32([-0.1, 0.8, 0.8])).all() and (high <= np.float32([0.1, 1.25, 1.25])).all()
    assert (high - low > 0.8 * np.array([0.2, 0.45, 0.45])).all()


def test_intensity_is_gain_contrast_and_gamma_of_each_image():
    images = torch.rand(3, 1, 8, 8) * 0.9 + 0.05
    levels = torch.tensor([[0.1, 1.0, 1.0], [0.0, 1.2, 1.0], [-0.05, 0.9, 0.8]])
    expected = [images[0] + 0.1, images[1] * 1.2, 0.9 * images[2] ** 0.8 - 0.05]
    torch.testing.assert_close(change_intensity(images, levels), torch.stack(expected).clamp(0, 1))


def test_what_is_black_stays_black():
    images = torch.zeros(1, 1, 4, 4)
    assert torch.equal(change_intensity(images, torch.tensor([[0.1, 1.2, 0.8]])), images)


def test_a_finished_view_is_gray_in_0_to_1_and_has_not_lost_gray_levels_to_bf16():
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        view = finish({"image": image, "blur": torch.tensor([1e-3])})
    assert view.shape == (1, 1, 16, 16) and view.dtype == torch.float32
    torch.testing.assert_close(view, image / 255, rtol=0, atol=1e-6)


def test_what_is_drawn_for_the_device_is_applied_there():
    image = torch.randint(60, 200, (2, 1, 16, 16), dtype=torch.uint8)
    levels = torch.tensor([[0.0, 1.0, 1.0], [0.1, 1.0, 1.0]])
    view = finish({"image": image, "blur": torch.zeros(2), "intensity": levels})
    torch.testing.assert_close(view[0], image[0] / 255)
    torch.testing.assert_close(view[1], image[1] / 255 + 0.1)


def test_what_the_batch_does_not_hold_is_not_done():
    image = torch.randint(0, 256, (2, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(finish({"image": image}), image / 255)


def test_a_view_that_is_not_blurred_is_as_it_was_to_the_bit():
    image = torch.randint(0, 256, (3, 1, 16, 16), dtype=torch.uint8)
    assert torch.equal(finish({"image": image, "blur": torch.tensor([0.0, 0.9, 0.0])})[::2], image[::2] / 255)


def test_mixup_can_weigh_each_image_by_itself():
    images = torch.arange(1.0, 401).view(400, 1, 1, 1).expand(-1, 1, 2, 2)
    mixed = mixup(images, torch.Generator().manual_seed(0), per_sample=True)
    generator = torch.Generator().manual_seed(0)
    weights, partners = torch.rand(400, generator=generator), torch.randperm(400, generator=generator)
    own, other = images[:, 0, 0, 0], images[partners, 0, 0, 0]
    torch.testing.assert_close(mixed[:, 0, 1, 1], weights * own + (1 - weights) * other)
    apart = own != other
    recovered = ((mixed[:, 0, 0, 0] - other) / (own - other))[apart]
    assert kstest(recovered.numpy(), "uniform").pvalue > 0.01


def test_mixup_of_a_batch_has_one_weight_unless_asked_otherwise():
    images = torch.rand(8, 1, 2, 2)
    generator = torch.Generator().manual_seed(3)
    weight, partners = torch.rand((), generator=generator), torch.randperm(8, generator=generator)
    mixed = mixup(images, torch.Generator().manual_seed(3))
    assert torch.equal(mixed, weight * images + (1 - weight) * images[partners])
