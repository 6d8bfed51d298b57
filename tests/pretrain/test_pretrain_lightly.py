"""The losses beside those of lightly (MIT), where it is installed: they agree, centres and all."""

from __future__ import annotations

import pytest
import torch

from sonodistill_training.pretrain.losses import Balance, dino_loss, ibot_loss, koleo_loss

lightly = pytest.importorskip("lightly.loss")


def draw(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape))) * 2 - 1


def test_dino_with_centering_over_two_batches():
    theirs, balance = lightly.DINOLoss(output_dim=13, center_momentum=0.9), Balance(13, "centering")
    for batch in (5, 6):
        student, teacher = draw(10, batch, 13), draw(2, batch, 13)
        expected = theirs([*teacher], [*student], teacher_temp=0.05)
        targets = balance(teacher.flatten(0, 1), 0.05).unflatten(0, (2, batch))
        torch.testing.assert_close(dino_loss(student[2:], student[:2], targets), expected)
    torch.testing.assert_close(balance.center.flatten(), theirs.center.flatten())


def test_ibot_with_centering():
    mask = draw(6, 4, 4) > 0.4
    mask[0] = False
    count = int(mask.sum())
    student, teacher = draw(count, 13), draw(count, 13)
    theirs, balance = lightly.IBOTPatchLoss(output_dim=13), Balance(13, "centering")
    weights = (1 / mask.sum((1, 2), keepdim=True).clamp(min=1)).expand_as(mask)[mask]
    found = ibot_loss(student, balance(teacher, 0.05), weights, images=6)
    torch.testing.assert_close(found, theirs(teacher, student, mask, teacher_temp=0.05))


def test_koleo():
    torch.testing.assert_close(koleo_loss(draw(9, 7)), lightly.KoLeoLoss()(draw(9, 7)))
