"""Several processes compute what one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

CASE = Path(__file__).with_name("gradient_case.py")
WHOLE = Path(__file__).with_name("whole_case.py")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]


def test_two_gloo_processes_give_the_gradients_of_the_joint_batch(tmp_path):
    alone, joined = tmp_path / "alone.pt", tmp_path / "joined.pt"
    subprocess.run([sys.executable, str(CASE), str(alone)], check=True, timeout=300)
    subprocess.run([*TORCHRUN, str(CASE), str(joined)], check=True, timeout=300)
    expected, found = torch.load(alone, weights_only=True), torch.load(joined, weights_only=True)
    assert expected.keys() == found.keys() and len(expected) > 50
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3


def test_two_gloo_processes_train_the_student_that_one_trains(tmp_path):
    subprocess.run([sys.executable, str(WHOLE), str(tmp_path / "one"), "1"], check=True, timeout=300)
    subprocess.run([*TORCHRUN, str(WHOLE), str(tmp_path / "two"), "2"], check=True, timeout=300)
    one, two = (load_file(tmp_path / name / "student.safetensors") for name in ("one", "two"))
    start = load_file(tmp_path / "one" / "start.safetensors")
    for name, trained in one.items():
        moved = (trained - start[name]).norm()
        assert (two[name] - trained).norm() <= 0.05 * moved + 1e-7, name
    assert sum(float((one[name] - start[name]).abs().max()) > 1e-4 for name in one) > 50
