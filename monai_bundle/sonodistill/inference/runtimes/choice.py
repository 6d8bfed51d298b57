"""The fastest runtime for a model on this machine: measured once, then remembered in the user's cache folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import statistics
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from sonodistill.errors import SonoDistillError
from sonodistill.files import cache_folder, sha256, write_text
from sonodistill.inference.runtimes import RUNTIMES, installed, open_with
from sonodistill.inference.runtimes.base import Runtime, RuntimeMissingError

logger = logging.getLogger(__name__)

_RUNS, _SECONDS = 7, 2.0
_MAX_BYTES = 1 << 16


def open_fastest(path: Path, able: list[str], options: dict[str, Any]) -> Runtime:
    """The runtime among ``able`` with the lowest median time of a call, with ``options`` as in ``open_runtime``.

    One that is not installed, or cannot do what is asked, is left out.

    Raises:
        RuntimeMissingError: none of them is installed.
        SonoDistillError: what the first said, when none can do it.
    """
    names = [name for name in able if RUNTIMES[name].raced and installed(name)]
    if not names:
        missing = ", ".join(f"pip install {RUNTIMES[name].pip}" for name in able if RUNTIMES[name].raced)
        raise RuntimeMissingError(f"{' or '.join(able)} reads it, and is not installed", path=path, remedy=missing)
    if len(names) == 1:
        return open_with(names[0], path, options)
    question = _question(path, names, options)
    folder = cache_folder()
    note = folder and folder / "runtimes" / f"{hashlib.sha256(question.encode()).hexdigest()}.json"
    known = _recall(note, question, names) if note else None
    if known is not None:
        return open_with(known, path, options)
    fastest, medians = _race(path, names, options)
    logger.info("%s: %s, by %s", path.name, fastest.name, medians)
    if note:
        _remember(note, {"question": question, "runtime": fastest.name, "median_ms": medians})
    return fastest


def _race(path: Path, names: list[str], options: dict[str, Any]) -> tuple[Runtime, dict[str, float]]:
    best: Runtime | None = None
    medians: dict[str, float] = {}
    failures: list[SonoDistillError] = []
    for name in names:
        try:
            runtime = open_with(name, path, options)
        except SonoDistillError as error:
            failures.append(error)
            continue
        medians[name] = _median_ms(runtime, options["batch"])
        if best is None or medians[name] < medians[best.name]:
            best = runtime
    if best is None:
        raise failures[0]
    return best, medians


def _median_ms(runtime: Runtime, batch: int | None) -> float:
    shape = (runtime.batch or batch or 1, 1, *runtime.input_size)
    images = np.random.default_rng(0).random(shape, np.float32)
    times: list[float] = []
    while len(times) < _RUNS and sum(times) < _SECONDS:
        start = time.perf_counter()
        runtime(images)
        times.append(time.perf_counter() - start)
    return round(1000 * statistics.median(times), 3)


def _question(path: Path, names: list[str], options: dict[str, Any]) -> str:
    """Everything that the answer depends on, as text."""
    beside = path.with_suffix(".bin")
    asked = {
        "model": sha256(path),
        "weights": sha256(beside) if path.suffix.lower() == ".xml" and beside.is_file() else "",
        **options,
        "runtimes": {name: _version(RUNTIMES[name].package) for name in names},
        "processor": _processor(),
        "cores": os.cpu_count(),
    }
    return json.dumps(asked, sort_keys=True)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # another distribution of the same package
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _recall(note: Path, question: str, names: list[str]) -> str | None:
    """The remembered runtime; None where nothing, something else or something damaged is remembered."""
    try:
        with note.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        return found["runtime"] if found["question"] == question and found["runtime"] in names else None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _remember(note: Path, found: dict[str, Any]) -> None:
    try:
        write_text(note, json.dumps(found))
    except OSError as error:
        logger.info("the choice is not remembered: %s", error)
