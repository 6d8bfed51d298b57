"""The whole training: it goes on exactly, says when it collapses, leaves the last teacher, and uses its seeds."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from pretrain_case import Frames, make_loop, make_method
from safetensors.torch import load_file

from sonodistill.errors import BundleConfigError, SonoDistillError
from sonodistill_training.monitor.health import Health
from sonodistill_training.monitor.watch import LossWatch
from sonodistill_training.pretrain.build import plain_vit_state
from sonodistill_training.pretrain.losses import prototype_health
from sonodistill_training.pretrain.method import LossWeights
from sonodistill_training.pretrain.schedules import Schedules

CASE = Path(__file__).with_name("pretrain_case.py")
PRODUCT = "teacher.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted training, and its loop."""
    folder = tmp_path_factory.mktemp("whole")
    loop = make_loop(folder)
    assert loop.run() == folder / PRODUCT
    return folder, loop


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def same(folder, other):
    ours, theirs = load_file(folder / PRODUCT), load_file(other / PRODUCT)
    return all(torch.equal(ours[name], theirs[name]) for name in theirs) and [
        row["loss"] for row in log_of(folder)
    ] == [row["loss"] for row in log_of(other)]


@pytest.mark.slow
def test_killed_and_resumed_it_reaches_the_same_teacher(whole, tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    killed = subprocess.run([sys.executable, str(CASE), "killed", str(tmp_path)], check=False, env=environment)
    assert killed.returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "last.pt", weights_only=True)["step"] == 5
    make_loop(tmp_path).run()
    assert same(tmp_path, whole[0])


@pytest.mark.parametrize("balance", ["sinkhorn", "centering"])
def test_stopped_and_gone_on_with_it_reaches_the_same_teacher(balance, tmp_path):
    make_loop(tmp_path / "whole", make_method(balance=balance), max_steps=4).run()
    loop = make_loop(tmp_path / "parts", make_method(balance=balance), max_steps=4)
    loop.on_log = lambda row: signal.raise_signal(signal.SIGINT) if row["step"] == 2 else None
    with pytest.raises(KeyboardInterrupt):
        loop.run()
    make_loop(tmp_path / "parts", make_method(balance=balance), max_steps=4).run()
    assert same(tmp_path / "parts", tmp_path / "whole")


def test_two_trainings_of_one_seed_are_equal_and_of_another_are_not(whole, tmp_path):
    """The public code has its seeds commented out."""
    make_loop(tmp_path / "again").run()
    assert same(tmp_path / "again", whole[0])
    make_loop(tmp_path / "other", seed=1, max_steps=1).run()
    assert log_of(tmp_path / "other")[0]["loss"] != log_of(whole[0])[0]["loss"]


def test_the_teacher_as_it_is_at_the_end_is_what_is_left(whole):
    """The public code keeps the checkpoint of the worst accuracy as its best; here no figure chooses."""
    folder, loop = whole
    network = loop.method.network
    found = load_file(folder / PRODUCT)
    expected = plain_vit_state(network.teacher) | {"mask_token": network.teacher.mask_token.detach()[None]}
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    assert not torch.equal(network.teacher.model.pos_embed, network.student.model.pos_embed)


def test_after_a_step_the_teacher_has_taken_its_share_of_the_student(tmp_path):
    method = make_method(schedules=Schedules(momentum=(0.9, 1.0)))
    start = {name: value.clone() for name, value in method.network.teacher.named_parameters()}
    make_loop(tmp_path, method, max_steps=1).run()
    student = dict(method.network.student.named_parameters())
    assert not torch.equal(student["model.pos_embed"], start["model.pos_embed"])
    for name, value in method.network.teacher.named_parameters():
        torch.testing.assert_close(value, 0.9 * start[name] + 0.1 * student[name])


def test_the_log_has_every_loss_schedule_and_figure_of_health(whole):
    folder, _ = whole
    row = log_of(folder)[-1]
    assert {"loss", "dino", "ibot", "koleo", "prototype_entropy", "prototype_groups"} <= row.keys()
    assert {"learning_rate", "weight_decay", "teacher_momentum", "teacher_temperature", "gradient_norm"} <= row.keys()
    assert row["loss"] == pytest.approx(row["dino"] + row["ibot"] + 0.1 * row["koleo"], rel=1e-5)


def test_another_recipe_cannot_go_on(whole):
    with pytest.raises(SonoDistillError, match="other settings"):
        make_loop(whole[0], make_method(LossWeights(koleo=0))).run()


@pytest.mark.parametrize(
    ("weights", "idle"),
    [
        (LossWeights(ibot=0, koleo=0), ("student_patch_head", "student.mask_token")),  # DINO
        (LossWeights(dino=0, koleo=0), ("student_head",)),  # masked patches alone
        (LossWeights(koleo=0), ()),  # iBOT
    ],
)
def test_dino_and_ibot_alone_train_what_they_need_and_nothing_else(weights, idle, tmp_path):
    method = make_method(weights, separate_head=True, drop_path=0.0, schedules=Schedules(freeze_epochs=0))
    before = {name: value.clone() for name, value in method.network.named_parameters()}
    make_loop(tmp_path, method, max_steps=2).run()
    still = [
        name
        for name, value in method.network.named_parameters()
        if name.startswith("student") and torch.equal(value, before[name])
    ]
    assert all(name.startswith(idle) for name in still) if idle else not still
    assert bool(still) == bool(idle)


def test_no_loss_at_all_is_refused():
    with pytest.raises(BundleConfigError, match="nothing to learn"):
        LossWeights(dino=0, ibot=0)


def test_a_planted_collapse_raises_the_alarm(tmp_path, caplog):
    """Without balancing, all images soon fall on one prototype (DINO, section 5.3)."""
    method = make_method(
        LossWeights(ibot=0, koleo=0), drop_path=0.0, balance="none", schedules=Schedules(momentum=(0.5, 0.5))
    )
    with caplog.at_level(logging.WARNING):
        make_loop(tmp_path, method, max_steps=36, batch_size=4, learning_rate=3e-3).run()
    assert "The prototypes have collapsed" in caplog.text
    assert log_of(tmp_path)[-1]["prototype_groups"] < 1.01


def test_a_teacher_that_answers_all_images_alike_raises_the_alarm():
    watch = LossWatch(1000)
    for step in range(1, 22):
        logits = torch.randn(1, 16, generator=torch.Generator().manual_seed(step)).expand(8, 16)
        row = {"step": step, **{name: float(value) for name, value in prototype_health(logits, 0.05).items()}}
        watch.update(row)
    assert watch.told == ["indifferent"]
    healthy = LossWatch(1000)
    for step in range(1, 50):
        assert healthy.update({"step": step, "prototype_groups": 3.0, "prototype_entropy": 0.8}) is None


def test_collapsed_features_raise_the_alarm_through_the_health_monitor(tmp_path, caplog):
    """RankMe of an encoder whose weights are gone."""
    loop = make_loop(tmp_path, monitors=[Health(Frames().images, input_size=48)], monitor_steps=2, max_steps=4)
    follow = loop.method.after_step

    def break_the_teacher():
        follow()
        with torch.no_grad():
            for block in loop.method.network.teacher.model.blocks:
                block.ls1.gamma.zero_(), block.ls2.gamma.zero_()
            loop.method.network.teacher.model.patch_embed.proj.weight.zero_()

    loop.method.after_step = break_the_teacher
    with caplog.at_level(logging.WARNING):
        loop.run()
    assert "The features have collapsed" in caplog.text and log_of(tmp_path)[-1]["rankme"] < 2


@pytest.mark.slow
@pytest.mark.parametrize("balance", ["sinkhorn", "centering"])
def test_two_gloo_processes_train_the_teacher_that_one_trains(balance, tmp_path):
    run = [str(CASE), "whole"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([sys.executable, *run, str(tmp_path / "one"), balance], check=True, timeout=120)
    subprocess.run([*torchrun, *run, str(tmp_path / "two"), balance], check=True, timeout=120)
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True)["network"] for name in ("one", "two"))
    start = make_method(LossWeights(koleo=0), drop_path=0.0, balance=balance).network.state_dict()
    moved = 0
    for name, trained in one.items():
        distance = (trained - start[name]).norm()
        assert (two[name] - trained).norm() <= 0.05 * distance + 1e-6, name
        moved += float(distance) > 1e-4
    assert moved > 50
