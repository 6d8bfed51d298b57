"""The loss of hidden patches in pieces: the same loss, gradient and centre as the plain form."""

from __future__ import annotations

import pytest
import torch

from sonodistill_training.pretrain import method as method_module
from sonodistill_training.pretrain import patch_loss
from sonodistill_training.pretrain.build import make_vit
from sonodistill_training.pretrain.crops import multi_crop
from sonodistill_training.pretrain.heads import ProjectionHead
from sonodistill_training.pretrain.losses import Balance, ibot_loss
from sonodistill_training.pretrain.method import SelfDistillation
from sonodistill_training.pretrain.patch_loss import loss_in_pieces

K, M = 37, 23


@pytest.fixture
def heads():
    torch.manual_seed(0)
    return [ProjectionHead(12, K, hidden=16, bottleneck=8) for _ in range(2)]


@pytest.mark.parametrize("kind", ["sinkhorn", "centering", "none"])
@pytest.mark.parametrize("rows", [1, 5, 100])
def test_pieces_give_the_plain_loss_gradient_and_centre(heads, kind, rows):
    student, teacher = heads
    teacher.requires_grad_(False)
    tokens, seen = torch.randn(M, 12, requires_grad=True), torch.randn(M, 12)
    weights, found = torch.rand(M), []
    for pieces in (False, True):
        balance = Balance(K, kind)
        balance.center += torch.linspace(-0.2, 0.2, K)
        if pieces:
            sides = (student.units(tokens), student.cosines, teacher.units(seen), teacher.cosines)
            loss = loss_in_pieces(*sides, balance, weights, 6, 0.05, 0.1, rows)
        else:
            loss = ibot_loss(student(tokens), balance(teacher(seen), 0.05), weights, 6, 0.1)
        wanted = [tokens, student.prototypes.weight, student.mlp[0].weight]
        found.append([loss.detach(), *torch.autograd.grad(loss, wanted), balance.center])
    for plain, piecewise in zip(*found, strict=True):
        torch.testing.assert_close(piecewise, plain, atol=1e-6, rtol=1e-4)


def test_without_a_hidden_patch_the_loss_is_zero_and_can_be_derived(heads):
    student, teacher = heads
    tokens = torch.randn(0, 12, requires_grad=True)
    sides = (student.units(tokens), student.cosines, teacher.units(tokens).detach(), teacher.cosines)
    loss = loss_in_pieces(*sides, Balance(K), torch.rand(0), 6, 0.05)
    loss.backward()
    assert float(loss.detach()) == 0


def test_no_piece_is_larger_than_asked_for(heads):
    student, teacher = heads
    seen = []

    def watched(units):
        seen.append(len(units))
        return student.cosines(units)

    tokens = torch.randn(M, 12)
    sides = (student.units(tokens), watched, teacher.units(tokens).detach(), teacher.cosines)
    loss = loss_in_pieces(*sides, Balance(K), torch.rand(M), 6, 0.05, rows=4)
    loss.backward()
    assert max(seen) == 4


def test_a_step_in_pieces_is_a_step(monkeypatch):
    crops = multi_crop(size=32, local_size=16, local_count=2)
    batch = {"masked": torch.arange(3), "mask_weight": torch.full((3,), 1 / 3)}
    batch["masks"] = torch.zeros(2, 2, 4, dtype=torch.bool)
    batch["masks"][0, 0, :3] = True
    generator = torch.Generator().manual_seed(0)
    whole, local = torch.rand(2, 2, 1, 32, 32, generator=generator), torch.rand(2, 2, 1, 16, 16, generator=generator)
    found = []
    for limit in (patch_loss.AT_ONCE, 1):
        monkeypatch.setattr(method_module, "AT_ONCE", limit)
        monkeypatch.setattr(patch_loss, "AT_ONCE", limit)
        vit = make_vit("test_vit", input_size=32, drop_path=0)
        method = SelfDistillation(vit, crops, prototypes=K, hidden=16, bottleneck=8)
        values = method.losses(method.network, whole, local, batch)
        values["loss"].backward()
        found.append((values, [p.grad for p in method.network.parameters() if p.grad is not None]))
    (plain, gradients), (pieces, others) = found
    assert len(gradients) == len(others)
    torch.testing.assert_close(pieces["ibot"], plain["ibot"], atol=1e-5, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-3)
