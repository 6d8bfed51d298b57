"""The masked autoencoder: what it sees, what it is asked for, and that the loop trains it like any other method."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest
import torch
from pretrain_case import SIZE, Frames
from safetensors.torch import load_file

from sonodistill.errors import BundleConfigError
from sonodistill_training.loop import Loop
from sonodistill_training.pretrain.build import make_vit
from sonodistill_training.pretrain.crops import MultiCropFrames, make_views, multi_crop, single_crop
from sonodistill_training.pretrain.mae import MaskedAutoencoding, normalised
from sonodistill_training.pretrain.masks import RandomMasks

CROPS = single_crop(SIZE)


def make_method(**options):
    student = make_vit("test_vit", input_size=SIZE, drop_path=0.0, **options)
    return MaskedAutoencoding(student, CROPS, decoder_dim=32, decoder_depth=1)


def make_loop(output_dir, method=None, **settings):
    frames = MultiCropFrames(Frames(), CROPS, RandomMasks(0.7))
    defaults = {"max_steps": 6, "batch_size": 6, "learning_rate": 1e-3, "log_steps": 1, "precision": "fp32"}
    return Loop(method or make_method(), frames, output_dir, device="cpu", **{**defaults, **settings})


def batch_of(count=4):
    return MultiCropFrames(Frames(), CROPS, RandomMasks(0.7)).__getitems__([(n, n) for n in range(count)])


def test_three_quarters_of_the_patches_are_hidden_in_every_view():
    masks = RandomMasks().draw(0, np.arange(50), 1, 14)
    assert masks.shape == (50, 1, 196) and (masks.sum(-1) == 147).all()
    assert masks.mean(0).std() < 0.1 and len(np.unique(masks, axis=0)) == 50
    assert np.array_equal(RandomMasks().draw(0, np.array([7]), 1, 14)[0], masks[7])


def test_the_loss_is_the_squared_error_of_hidden_patches_brought_to_unit_variance():
    method, batch = make_method(registers=2), batch_of()
    method.network.eval()
    images, masks = make_views(batch, CROPS)[0][0], batch["masks"][0]
    hidden = int(masks[0].sum())
    found = method.network(images, masks, hidden)
    errors = []
    for image in range(4):
        for row, place in enumerate(masks[image].nonzero()[:, 0].tolist()):
            top, left = place // 3 * 16, place % 3 * 16
            patch = images[image, 0, top : top + 16, left : left + 16].flatten()
            target = (patch - patch.mean()) / (patch.var() + 1e-6).sqrt()
            errors.append((found[image, row] - target).square().mean())
    torch.testing.assert_close(method.step(method.network, batch, 0)["loss"], torch.stack(errors).mean())
    assert len(errors) == 4 * 6


def test_the_encoder_sees_nothing_of_hidden_patches():
    method, batch = make_method(), batch_of()
    images, masks = make_views(batch, CROPS)[0][0], batch["masks"][0]
    hidden = int(masks[0].sum())
    noise = masks.view(4, 1, 3, 3).repeat_interleave(16, 2).repeat_interleave(16, 3) * torch.rand_like(images)
    found = method.network(images, masks, hidden)
    torch.testing.assert_close(method.network(images + noise, masks, hidden), found)
    assert not torch.allclose(method.network(images * 0.5, masks, hidden), found)


def test_the_decoder_knows_where_a_hidden_patch_is():
    method = make_method()
    images, masks = torch.full((1, 1, SIZE, SIZE), 0.5), torch.ones(1, 9, dtype=torch.bool)
    masks[0, 4] = False
    found = method.network(images, masks, 8)[0]
    assert (torch.cdist(found, found).fill_diagonal_(1) > 1e-3).all()  # mask tokens are all alike but for their places
    masks[0, [3, 4]] = torch.tensor([False, True])
    other = method.network(images, masks, 8)[0]
    apart = (found - other).norm(dim=1)
    # Where the same place is asked for the answer is nearly the same; the fourth is asked for place 3, then for 4.
    assert apart[3] > 2 * apart[[0, 1, 2, 4, 5, 6, 7]].max()


def test_a_black_patch_is_a_target_of_zeros():
    assert torch.equal(normalised(torch.zeros(2, 9)), torch.zeros(2, 9))


def test_it_learns_stops_and_goes_on_exactly(tmp_path):
    make_loop(tmp_path / "whole").run()
    loop = make_loop(tmp_path / "parts")
    loop.on_log = lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == 3 else None
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    make_loop(tmp_path / "parts").run()
    whole, parts = (load_file(tmp_path / name / "teacher.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]
    vit = make_vit("test_vit", tmp_path / "whole" / "teacher.safetensors", SIZE)
    assert torch.equal(vit.model.pos_embed, whole["pos_embed"])


def test_views_of_another_method_and_a_decoder_that_cannot_be_are_refused():
    student = make_vit("test_vit", input_size=SIZE)
    with pytest.raises(BundleConfigError, match="one view"):
        MaskedAutoencoding(student, multi_crop(SIZE, 32))
    with pytest.raises(BundleConfigError, match="decoder of 1 blocks, 40 wide"):
        MaskedAutoencoding(student, CROPS, decoder_dim=40, decoder_depth=1)
