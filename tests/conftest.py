"""Fixtures shared by every test."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real ultrasound and teacher weights beside the checkout; skips the test where there is none."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no ../shared folder with real ultrasound data beside this checkout")
    return SHARED
