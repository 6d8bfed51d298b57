"""Several processes compute what one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import distributed_case
import pytest
import torch
from distributed_case import GRADIENTS, START
from safetensors.torch import load_file

CASE = Path(__file__).with_name("distributed_case.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> Path:
    """What two gloo processes wrote: starting them costs more than what they compute."""
    folder = tmp_path_factory.mktemp("two")
    subprocess.run([*TORCHRUN, str(CASE), str(folder)], check=True, timeout=300)
    return folder


def test_two_gloo_processes_give_the_gradients_of_the_joint_batch(two, tmp_path):
    distributed_case.write_gradients(tmp_path)
    expected, found = (torch.load(folder / GRADIENTS, weights_only=True) for folder in (tmp_path, two))
    assert expected.keys() == found.keys() and len(expected) > 50
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


def test_two_gloo_processes_train_the_student_that_one_trains(two, tmp_path):
    distributed_case.train(tmp_path, parts=2)
    ours, theirs = (load_file(folder / "student.safetensors") for folder in (tmp_path, two))
    start = load_file(tmp_path / START)
    for name, trained in ours.items():
        moved = (trained - start[name]).norm()
        assert (theirs[name] - trained).norm() <= 0.05 * moved + 1e-7, name
    assert sum(float((ours[name] - start[name]).abs().max()) > 1e-4 for name in ours) > 50
