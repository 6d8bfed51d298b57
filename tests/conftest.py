"""Fixtures shared by every test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tests are small, and several processes may run them: threads would wait for each other. Set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """Torch knows one number of threads for the whole process: a test that sets it sets it for itself alone."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    torch = sys.modules.get("torch")
    if torch and before is not None and torch.get_num_threads() != before:
        torch.set_num_threads(before)


SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real ultrasound and teacher weights beside the checkout; skips the test where there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared folder with real ultrasound data beside this checkout")
    return SHARED
