"""Beyond the paper's recipe: several levels, several teachers, another grid, other students."""

from __future__ import annotations

import pytest
import torch

from sonodistill.errors import BundleConfigError
from sonodistill.networks.encoder import Encoder
from sonodistill_training.distill.method import Distillation
from sonodistill_training.distill.objective import Objective
from sonodistill_training.distill.teacher import load_teacher


@pytest.fixture(scope="module")
def teachers():
    torch.manual_seed(0)
    return [
        load_teacher("vit_tiny_patch16_224", random=True, input_size=96),
        load_teacher("convnext_atto", random=True, input_size=96),
    ]


@pytest.fixture(scope="module")
def batch():
    images = torch.randint(0, 256, (4, 1, 96, 96), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return {"image": images, "blur": torch.zeros(4)}


def test_every_supervised_level_gets_gradients_of_its_own(teachers, batch):
    method = Distillation(teachers[0], Encoder("resnet18"), levels=3, mixup="off")
    method.step(method.network, batch, 0)["loss"].backward()
    assert [projector[0].in_channels for projector in method.network.projectors] == [128, 256, 512]
    assert all(projector[0].weight.grad.abs().sum() > 0 for projector in method.network.projectors)


def test_the_loss_of_several_levels_is_their_mean(teachers, batch):
    torch.manual_seed(0)
    method = Distillation(teachers[0], Encoder("resnet18"), levels=2, mixup="off")
    method.network.eval()
    with torch.no_grad():
        images = batch["image"] / 255
        (target,) = method.targets(images)
        single = [Objective()(prediction, target)["loss"] for prediction in method.network(images)]
        assert len(single) == 2
        torch.testing.assert_close(method.step(method.network, batch, 0)["loss"], sum(single) / 2)


def test_several_teachers_are_averaged_and_each_has_its_projector(teachers, batch):
    method = Distillation(teachers, Encoder("resnet18"), mixup="off")
    method.network.eval()
    with torch.no_grad():
        targets = method.targets(batch["image"] / 255)
        predictions = method.network(batch["image"] / 255)
        expected = [Objective()(p, t)["loss"] for p, t in zip(predictions, targets, strict=True)]
        torch.testing.assert_close(method.step(method.network, batch, 0)["loss"], sum(expected) / 2)
    assert [t.shape[1] for t in targets] == [teacher.dim for teacher in teachers]
    assert method.identity()["teacher"] == "vit_tiny_patch16_224+convnext_atto"


def test_another_grid_averages_the_teachers_tokens(teachers, batch):
    method = Distillation(teachers[0], Encoder("resnet18"), grid=3)
    images = batch["image"] / 255
    (target,) = method.targets(images)
    torch.testing.assert_close(target[:, :, 0, 0], teachers[0](images)[:, :, :2, :2].mean((2, 3)))
    assert target.shape[-2:] == (3, 3)


def test_standardised_targets_go_into_the_checkpoint(teachers, batch):
    method = Distillation(teachers[0], Encoder("resnet18"), objective=Objective("standardize"))
    method.step(method.network, batch, 0)
    state = method.network.state_dict()
    assert state["statistics.0.batches"] == 1 and state["statistics.0.mean"].abs().sum() > 0


@pytest.mark.parametrize("student", ["efficientnet_b0", "fastvit_t8", "mobilenetv4_conv_small"])
def test_small_students_for_the_edge_learn_from_a_step(teachers, batch, student):
    method = Distillation(teachers[0], Encoder(student), mixup="sample")
    method.step(method.network, batch, 0)["loss"].backward()
    gradients = [p.grad for p in method.network.student.parameters() if p.grad is not None]
    assert len(gradients) > 50 and all(torch.isfinite(gradient).all() for gradient in gradients)


def test_a_student_without_a_spatial_pyramid_is_refused():
    with pytest.raises(BundleConfigError, match="vit_tiny_patch16_224"):
        Encoder("vit_tiny_patch16_224")


@pytest.mark.parametrize("wrong", [{"levels": 6}, {"levels": 0}, {"mixup": "cutmix"}])
def test_an_option_that_cannot_work_is_refused(teachers, wrong):
    with pytest.raises(BundleConfigError, match="What to do"):
        Distillation(teachers[0], Encoder("resnet18"), **wrong)
