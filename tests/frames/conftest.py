"""Fixtures of the reader tests: the DICOM factory and the files that pydicom brings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import dicom_factory
import numpy as np
import pydicom
import pytest

_FOLDERS = (
    Path(pydicom.__file__).parent / "data" / "test_files",
    Path(pydicom.__file__).parents[1] / "data_store" / "data",
)


@pytest.fixture(scope="session")
def factory():
    """The module that writes small DICOM files."""
    return dicom_factory


@pytest.fixture(scope="session")
def pydicom_file() -> Callable[[str], Path]:
    """Path of a file of pydicom or pydicom-data, without their download machinery; skips where it is not installed."""

    def find(name: str) -> Path:
        for folder in _FOLDERS:
            if (folder / name).is_file():
                return folder / name
        pytest.skip(f"{name} is in the package pydicom-data, which is not installed")

    return find


@pytest.fixture
def speckle() -> np.ndarray:
    """(4, 24, 31) uint8 noise: odd width, every frame different."""
    return np.random.default_rng(0).integers(0, 256, (4, 24, 31), dtype=np.uint8)
