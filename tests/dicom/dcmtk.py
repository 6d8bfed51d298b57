"""DCMTK's programs, not those of the same names that pynetdicom puts into every environment it is installed in."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest


def program(name: str) -> str:
    """Path of one of DCMTK's programs; skips the test where it is not installed."""
    for folder in os.get_exec_path():
        found = shutil.which(name, path=folder)
        if found is not None and Path(found).read_bytes()[:2] != b"#!":  # pynetdicom's are scripts
            return found
    pytest.skip(f"DCMTK's {name} is not installed (apt-get install dcmtk)")
