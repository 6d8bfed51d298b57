"""Schedules against their formulas, and each layer's learning rate and weight decay."""

from __future__ import annotations

import math

import pytest
from pretrain_case import make_method

from sonodistill.errors import BundleConfigError
from sonodistill_training.pretrain.schedules import Schedules

TOTAL, EPOCH = 1000, 25.0


@pytest.fixture(scope="module")
def method():
    return make_method()


def group_of(groups, parameter):
    (found,) = [group for group in groups if any(one is parameter for one in group["params"])]
    return found


def test_the_momentum_is_half_a_cosine_from_0992_to_1():
    schedules = Schedules()
    for step in (0, 1, 250, 500, 999, 1000):
        expected = 1 - (1 - 0.992) * (math.cos(math.pi * step / TOTAL) + 1) / 2  # BYOL, section 3.2
        assert schedules.momentum_at(step, TOTAL) == pytest.approx(expected, abs=1e-12)


def test_the_weight_decay_is_half_a_cosine_from_004_to_04():
    schedules = Schedules()
    assert schedules.weight_decay_at(0.04, 0, TOTAL) == pytest.approx(0.04)
    assert schedules.weight_decay_at(0.04, 500, TOTAL) == pytest.approx(0.22)
    assert schedules.weight_decay_at(0.04, 1000, TOTAL) == pytest.approx(0.4)


def test_the_teachers_temperature_rises_linearly_and_stays():
    schedules = Schedules(temperature_epochs=4)
    found = [schedules.temperature_at(step, TOTAL, EPOCH) for step in (0, 50, 100, 900)]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    # 30 epochs of 100 are three tenths; a shorter training keeps that share
    assert Schedules().temperature_at(150, TOTAL, EPOCH) == pytest.approx(0.055)


def test_prototypes_stand_still_in_the_first_epoch_alone(method):
    groups = method.parameter_groups(0.04)
    frozen = group_of(groups, method.network.student_head.prototypes.weight)
    other = group_of(groups, method.network.student_head.mlp[0].weight)
    for step, rate in ((0, 0.0), (24, 0.0), (25, 2e-3), (500, 2e-3)):
        method.schedule(groups, 2e-3, 0.04, step, TOTAL, EPOCH)
        assert frozen["lr"] == rate and other["lr"] == 2e-3


def test_each_block_learns_at_nine_tenths_of_the_next_ones_rate(method):
    groups, student = method.parameter_groups(0.04), method.network.student
    method.schedule(groups, 1.0, 0.04, 500, TOTAL, EPOCH)
    depth = len(student.model.blocks)
    for number, block in enumerate(student.model.blocks):
        assert group_of(groups, block.mlp.fc1.weight)["lr"] == pytest.approx(0.9 ** (depth - number))
    assert group_of(groups, student.model.pos_embed)["lr"] == pytest.approx(0.9 ** (depth + 1))
    assert group_of(groups, student.mask_token)["lr"] == pytest.approx(0.9 ** (depth + 1))
    assert group_of(groups, student.model.patch_embed.proj.weight)["lr"] == pytest.approx(0.2 * 0.9 ** (depth + 1))
    assert group_of(groups, student.model.norm.weight)["lr"] == 1


def test_biases_norms_and_layer_scales_do_not_decay(method):
    groups, student = method.parameter_groups(0.04), method.network.student
    method.schedule(groups, 1.0, 0.04, 500, TOTAL, EPOCH)
    block = student.model.blocks[0]
    for parameter in (block.mlp.fc1.bias, block.norm1.weight, block.ls1.gamma):
        assert group_of(groups, parameter)["weight_decay"] == 0
    assert group_of(groups, block.mlp.fc1.weight)["weight_decay"] == pytest.approx(0.22)


def test_the_teacher_is_in_no_group_and_the_student_in_one_each(method):
    trained = [parameter for group in method.parameter_groups(0.04) for parameter in group["params"]]
    network = method.network
    expected = [*network.student.parameters(), *network.student_head.parameters()]
    assert {id(p) for p in trained} == {id(p) for p in expected} and len(trained) == len(expected)


@pytest.mark.parametrize(
    "wrong", [{"momentum": (0.9, 1.1)}, {"momentum": 0.9}, {"layer_decay": 2}, {"teacher_temperature": (0, 0.1)}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(BundleConfigError):
        Schedules(**wrong)
