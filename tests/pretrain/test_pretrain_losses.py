"""Each loss against a few lines of its own, and what balancing and the health figures promise."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from sonodistill.errors import BundleConfigError
from sonodistill_training.pretrain.heads import ProjectionHead
from sonodistill_training.pretrain.losses import (
    Balance,
    dino_loss,
    ibot_loss,
    koleo_loss,
    prototype_health,
    sinkhorn,
    view_losses,
)


@pytest.fixture
def logits():
    return lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).clamp(-1, 1)


def entropy(target, logits, temperature=0.1):
    return -(target * functional.log_softmax(logits / temperature, -1)).sum(-1)


def test_dino_is_the_mean_cross_entropy_over_pairs_of_different_views(logits):
    local, whole, targets = logits(8, 5, 11), logits(2, 5, 11), logits(2, 5, 11).div(0.04).softmax(-1)
    pairs = [entropy(targets[g], view).mean() for g in range(2) for view in local]
    pairs += [entropy(targets[0], whole[1]).mean(), entropy(targets[1], whole[0]).mean()]
    assert len(pairs) == 18  # DINOv2 divides by as many
    torch.testing.assert_close(dino_loss(local, whole, targets), torch.stack(pairs).mean())


def test_dino_without_local_views_crosses_the_global_ones(logits):
    whole, targets = logits(2, 5, 11), logits(2, 5, 11).softmax(-1)
    expected = (entropy(targets[0], whole[1]).mean() + entropy(targets[1], whole[0]).mean()) / 2
    torch.testing.assert_close(dino_loss(None, whole, targets), expected)


def test_ibot_weighs_images_alike_however_many_patches_are_hidden(logits):
    students, targets = logits(7, 11), logits(7, 11).div(0.05).softmax(-1)
    weights = torch.tensor([1.0, 1 / 4, 1 / 4, 1 / 4, 1 / 4, 1 / 2, 1 / 2])
    rows = entropy(targets, students)
    expected = (rows[0] + rows[1:5].mean() + rows[5:].mean()) / 6
    torch.testing.assert_close(ibot_loss(students, targets, weights, images=6), expected)


def test_koleo_is_minus_the_log_distance_to_the_nearest_other(logits):
    units = functional.normalize(logits(9, 6), dim=-1)
    nearest = torch.cdist(units, units).fill_diagonal_(math.inf).min(1).values
    torch.testing.assert_close(koleo_loss(logits(9, 6)), -nearest.log().mean(), rtol=1e-4, atol=1e-4)


def test_koleo_is_computed_in_float32_under_autocast(logits):
    features = logits(9, 6)
    with torch.autocast("cpu", torch.bfloat16):
        found = koleo_loss(features)
    assert found.dtype == torch.float32 and torch.equal(found, koleo_loss(features))


def test_koleo_of_equal_features_is_large_and_finite_and_of_one_image_zero():
    features = torch.ones(4, 6, requires_grad=True)
    loss = koleo_loss(features)
    loss.backward()
    assert loss > 10 and torch.isfinite(features.grad).all()
    assert koleo_loss(torch.ones(1, 6)) == 0


def test_sinkhorn_is_the_published_iteration(logits):
    scores = logits(6, 9)
    q = torch.exp(scores / 0.07).T
    q = q / q.sum()
    for _ in range(3):
        q = q / q.sum(1, keepdim=True) / 9
        q = q / q.sum(0, keepdim=True) / 6
    torch.testing.assert_close(sinkhorn(scores, 0.07), (q * 6).T)


def test_sinkhorn_uses_all_prototypes_alike_whatever_all_images_prefer(logits):
    scores = logits(64, 8) * 0.3
    scores[:, 0] += 1
    assert scores.argmax(1).eq(0).all()
    targets = sinkhorn(scores, 0.1, iterations=50)
    torch.testing.assert_close(targets.sum(0), torch.full((8,), 8.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(targets.sum(1), torch.ones(64))


def test_sinkhorn_stays_finite_for_logits_beyond_the_range_of_exp():
    scores = torch.tensor([[100.0, -100.0], [100.0, -100.0]])
    assert torch.isfinite(sinkhorn(scores, 0.04)).all()


def test_sinkhorn_of_no_rows_is_none():
    assert sinkhorn(torch.empty(0, 5), 0.04).shape == (0, 5)


def test_centering_uses_the_mean_of_the_batches_before(logits):
    balance = Balance(7, "centering", momentum=0.9)
    first, second = logits(5, 7), logits(6, 7)
    torch.testing.assert_close(balance(first, 0.05), torch.softmax(first / 0.05, -1))
    torch.testing.assert_close(balance.center, 0.1 * first.mean(0, keepdim=True))
    torch.testing.assert_close(balance(second, 0.05), torch.softmax((second - 0.1 * first.mean(0)) / 0.05, -1))
    assert "center" in balance.state_dict()  # a training that goes on starts from it


def test_an_unknown_balancing_is_refused_by_name():
    with pytest.raises(BundleConfigError, match="centring"):
        Balance(4, "centring")


def test_the_losses_are_float32_under_autocast(logits):
    students, targets = logits(2, 3, 4), logits(2, 3, 4).softmax(-1)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            view_losses(students.bfloat16().float(), targets, 0.1), view_losses(students.bfloat16(), targets, 0.1)
        )


def test_the_head_gives_cosines_of_which_only_the_direction_is_learnt(logits):
    head = ProjectionHead(6, prototypes=10, hidden=8, bottleneck=4)
    before = head(logits(3, 6))
    head.prototypes.weight.data *= torch.rand(10, 1) + 0.5
    torch.testing.assert_close(head(logits(3, 6)), before)
    units = functional.normalize(head.mlp(logits(3, 6)), dim=-1)
    expected = units @ functional.normalize(head.prototypes.weight, dim=-1).T
    torch.testing.assert_close(before, expected)
    with pytest.raises(BundleConfigError, match="prototypes"):
        ProjectionHead(6, prototypes=0)


@pytest.mark.parametrize(
    ("logits", "entropy", "groups"),
    [
        (torch.eye(4)[[0, 0, 0, 0]], 0.0, 1.0),  # one prototype for all
        (torch.zeros(4, 4), 1.0, 1.0),  # no preference
        (torch.eye(4), 1.0, 4.0),  # each its own
        (torch.eye(4)[[0, 0, 1, 1]], 0.5, 2.0),
    ],
)
def test_prototype_health_tells_collapses_from_groups(logits, entropy, groups):
    found = prototype_health(logits, temperature=0.01)
    assert float(found["prototype_entropy"]) == pytest.approx(entropy, abs=1e-4)
    assert float(found["prototype_groups"]) == pytest.approx(groups, abs=1e-3)
