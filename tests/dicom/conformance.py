"""What independent programs say of a DICOM file: dicom3tools' dciodvfy and dcentvfy, DCMTK's dcmftest."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

_SECONDS = 120


def dciodvfy_errors(path: str | Path) -> list[str]:
    """What is wrong with the object by its IOD; empty when nothing is. Skips the test where dicom3tools is absent."""
    done = _run("dciodvfy", "dicom3tools", path)
    errors = _errors(done)
    # Its exit code is 0 in spite of some errors, so that both have to be looked at.
    return errors or ([] if done.returncode == 0 else [f"dciodvfy exits with {done.returncode}: {done.stderr[-500:]}"])


def dcentvfy(paths: Iterable[str | Path]) -> list[str]:
    """What contradicts itself between objects of one patient and study; empty when nothing does."""
    done = _run("dcentvfy", "dicom3tools", *paths)
    errors = _errors(done)
    return errors or ([] if done.returncode == 0 else [f"dcentvfy exits with {done.returncode}: {done.stderr[-500:]}"])


def dcmftest(path: str | Path) -> bool:
    """Whether DCMTK takes it for a DICOM file. Skips the test where DCMTK is absent."""
    done = _run("dcmftest", "dcmtk", path)
    return done.returncode == 0 and done.stdout.startswith("yes:")


def _errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")]


def _run(tool: str, package: str, *paths: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed (apt install {package})")
    command = [tool, *map(str, paths)]
    # They print values as they are in the file, in whatever character set.
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False)
