"""Several processes compute what one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

CASE = Path(__file__).with_name("gradient_case.py")


def test_two_gloo_processes_give_the_gradients_of_the_joint_batch(tmp_path):
    alone, joined = tmp_path / "alone.pt", tmp_path / "joined.pt"
    subprocess.run([sys.executable, str(CASE), str(alone)], check=True, timeout=300)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    subprocess.run([*torchrun, str(CASE), str(joined)], check=True, timeout=300)
    expected, found = torch.load(alone, weights_only=True), torch.load(joined, weights_only=True)
    assert expected.keys() == found.keys() and len(expected) > 50
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6)
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 1e-3
