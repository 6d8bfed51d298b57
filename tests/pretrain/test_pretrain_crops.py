"""Views and masks: sizes, what is never done to ultrasound, shares as they are asked for, and the device's cutting."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretrain_case import SIZE, Frames
from torchvision.transforms.v2 import functional as reference

from sonodistill.errors import BundleConfigError
from sonodistill_training.distill.augment_options import AugmentationError
from sonodistill_training.pretrain.crops import MultiCropFrames, make_views, multi_crop
from sonodistill_training.pretrain.cut import crop
from sonodistill_training.pretrain.masks import BlockMasks, block_mask

PLACES = [(place, place % 16) for place in range(8)]


def batch_of(crops=None, places=PLACES, seed=0, frames=None, **options):
    return MultiCropFrames(frames or Frames(), crops or multi_crop(SIZE, 32, 8), seed=seed, **options).__getitems__(
        places
    )


def test_two_global_and_eight_local_gray_views_of_their_sizes():
    crops = multi_crop(SIZE, 32)
    whole, local = make_views(batch_of(crops), crops)
    assert whole.shape == (2, 8, 1, SIZE, SIZE) and local.shape == (8, 8, 1, 32, 32)
    for views in (whole, local):
        assert views.dtype == torch.float32 and views.min() >= 0 and views.max() <= 1
    defaults = multi_crop()
    assert [(count, size) for _, _, count, size in defaults.kinds] == [(1, 224), (1, 224), (8, 96)]


def test_every_view_differs_from_every_other():
    crops = multi_crop(32, 32, 4)
    whole, local = make_views(batch_of(crops, [(0, 0)]), crops)
    views = torch.cat([whole, local])[:, 0].flatten(1)
    assert (torch.cdist(views, views).fill_diagonal_(1) > 0.1).all()
    batch = batch_of(crops)
    chances = torch.stack([batch[f"{name}/flip"][:, 0] for name in ("global0", "global1", "local")])
    assert not torch.equal(batch["global0/boxes"], batch["global1/boxes"])  # drawn apart
    assert not torch.equal(chances[0], chances[1]) and not torch.equal(chances[0], chances[2])


def test_a_view_depends_on_seed_and_position_alone():
    crops = multi_crop(SIZE, 32, 2)
    both, one = batch_of(crops, PLACES), batch_of(crops, PLACES[3:4])
    for name in ("global0/boxes", "global1/blur", "local/flip"):
        assert torch.equal(both[name][3:4], one[name])
    assert torch.equal(both["masks"][:, 3:4], one["masks"])
    # its frame lies in a larger canvas in the one batch than in the other
    torch.testing.assert_close(make_views(both, crops)[0][:, 3:4], make_views(one, crops)[0], rtol=0, atol=1e-5)
    assert not torch.equal(batch_of(crops, PLACES, seed=1)["local/boxes"], both["local/boxes"])


def test_no_view_is_ever_upside_down():
    """The public code flips vertically and not horizontally; the probe is at the top."""
    ramp = np.repeat(np.linspace(20, 235, 64, dtype=np.uint8)[:, None], 64, axis=1)
    for frame, rises in ((ramp, True), (ramp.T.copy(), False)):
        crops = multi_crop(SIZE, 32, 8, intensity=0)
        whole, local = make_views(batch_of(crops, [(n, 0) for n in range(32)], frames=[frame]), crops)
        for views in (whole, local):
            down = views.mean(-1).diff(dim=-1).mean((-1, -2)) if rises else views.mean(-2).diff(dim=-1).mean((-1, -2))
            share = float((down < 0).float().mean())
            assert share == 0 if rises else 0.3 < share < 0.7


def test_a_blurs_probability_is_the_share_that_is_blurred():
    """In the code that UltraDINO inherits, a probability of 1 never blurs and one of 0.1 nine times in ten."""
    batch = batch_of(multi_crop(16, 16, 2), [(n, 0) for n in range(1000)])
    shares = {name: float((batch[f"{name}/blur"] > 0).float().mean()) for name in ("global0", "global1", "local")}
    assert shares["global0"] == 1
    assert shares["global1"] == pytest.approx(0.1, abs=0.03) and shares["local"] == pytest.approx(0.5, abs=0.05)
    still = multi_crop(SIZE, 32, 2, intensity=0, flip=0, blur=(1, 0, 0), global_scale=(1, 1), blur_sigma=(2, 2))
    sharp, blurred = multi_crop(SIZE, 32, 2, intensity=0, flip=0, blur=(0, 0, 0), global_scale=(1, 1)), still
    (one, _), (other, _) = (make_views(batch_of(crops), crops) for crops in (sharp, blurred))
    variation = [views.diff(dim=-1).abs().mean((1, 2, 3, 4)) for views in (one, other)]
    assert variation[1][0] < 0.9 * variation[0][0] and torch.equal(one[1], other[1])


def test_crops_keep_the_share_of_the_area_that_was_asked_for():
    batch = batch_of(multi_crop(16, 16, 8), [(n, n % 16) for n in range(200)])
    frames = Frames()
    areas = torch.tensor([frames[n % 16].size for n in range(200)])[:, None]
    for name, (low, high) in {"global0": (0.32, 1), "global1": (0.32, 1), "local": (0.05, 0.32)}.items():
        shares = batch[f"{name}/boxes"][..., 2:].prod(-1) / areas
        assert low * 0.9 < shares.min() and shares.max() < high * 1.1 + 1e-6


@pytest.mark.parametrize("size", [16, 40, 100])
def test_cutting_is_torchvisions_antialiased_crop_and_flip(size):
    images = torch.rand(2, 50, 70, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[[3, 5, 40, 60], [0, 0, 50, 70]], [[10, 20, 12, 9], [49, 0, 1, 70]]])
    flip = torch.tensor([[False, True], [True, False]])
    found = crop(images, boxes, flip, size)
    for image in range(2):
        for view in range(2):
            box = boxes[image, view].tolist()
            expected = reference.resized_crop(images[image][None], *box, [size, size], antialias=True)
            expected = reference.horizontal_flip(expected) if flip[image, view] else expected
            torch.testing.assert_close(found[image, view], expected, rtol=1e-4, atol=1e-4)


def test_half_of_the_global_views_are_masked_at_a_tenth_to_a_half():
    masks = BlockMasks().draw(0, np.arange(400), 2, 14)
    hidden = masks.sum(-1)
    assert ((hidden > 0).sum(1) == 1).all()  # of two views always one
    assert (hidden > 0).mean(0) == pytest.approx([0.5, 0.5], abs=0.08)
    shares = hidden[hidden > 0] / 196
    assert shares.min() >= 0.1 - 1 / 196 and shares.max() <= 0.5 + 1 / 196
    assert shares.mean() == pytest.approx(0.3, abs=0.02) and shares.std() == pytest.approx(0.4 / 12**0.5, abs=0.02)


def test_a_mask_hides_exactly_as_many_patches_as_asked_in_blocks():
    alone = []
    for hidden in range(0, 100, 7):
        mask = block_mask(np.random.default_rng(hidden), 14, hidden)
        assert mask.sum() == hidden
        padded = np.pad(mask, 1)
        beside = padded[:-2, 1:-1] | padded[2:, 1:-1] | padded[1:-1, :-2] | padded[1:-1, 2:]
        alone.append((mask & ~beside).sum() / max(hidden, 1))
    assert np.mean(alone) < 0.1
    assert block_mask(np.random.default_rng(0), 3, 100).all()


def test_hidden_patches_are_listed_with_their_images_weights():
    batch = batch_of()
    flat = batch["masks"].flatten()  # of (global views, frames, patches)
    assert torch.equal(flat.nonzero()[:, 0], batch["masked"])
    per_image = torch.zeros(16).index_add(0, batch["masked"] // 9, batch["mask_weight"])
    assert set(per_image.round(decimals=5).tolist()) <= {0.0, 1.0} and per_image.sum() > 0


def test_what_cannot_be_is_refused():
    with pytest.raises(BundleConfigError, match="no multiple of the patch of 16.*take 32 or 48|no multiple"):
        batch_of(multi_crop(40, 32))
    with pytest.raises(AugmentationError, match="flip"):
        multi_crop(flip=2)
    with pytest.raises(BundleConfigError, match="three"):
        multi_crop(blur=(1, 0))
    with pytest.raises(AugmentationError, match="ratio"):
        BlockMasks(ratio=(0.5, 0.1))
