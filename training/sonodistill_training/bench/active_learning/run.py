"""Run what is not there yet, and gather it."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sonodistill.files import sha256, write_text
from sonodistill_training.bench.active_learning.curve import run_curve
from sonodistill_training.bench.active_learning.frames import Frames, load_frames
from sonodistill_training.bench.active_learning.setup import Setup
from sonodistill_training.bench.active_learning.summary import summarise
from sonodistill_training.bench.report import one_core
from sonodistill_training.hardware import hardware

_VERSION = 1  # another one where the same run would give another result


def bench_active_learning(setup: Setup, out: Path | None = None) -> dict[str, Any]:
    """Simulate every strategy on every set with every seed.

    Args:
        setup: what.
        out: folder that features and finished runs are kept in: what was killed goes on there.

    Returns: what ``summarise`` says, and data, encoder, weights, rounds, seeds, strategies, seconds (of computing, of
        all runs that the result is of), hardware; plain JSON.
    """
    with tempfile.TemporaryDirectory() as scratch, one_core():
        return _run(setup, out or Path(scratch))


def _run(setup: Setup, folder: Path) -> dict[str, Any]:
    began = time.perf_counter()
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    frames: dict[str, Any] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    seconds = 0.0
    for name, source in setup.sources.items():
        loaded = load_frames(name, source, setup, folder / "features")
        frames[name] = _about(loaded)
        runs[name] = {strategy: [] for strategy in setup.strategies}
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(name, total=setup.seeds * len(setup.strategies))
            for seed in range(setup.seeds):
                for strategy in setup.strategies:
                    progress.update(task, description=f"{name} {strategy} {seed}")
                    found = _kept(loaded, strategy, seed, setup, folder / "runs")
                    runs[name][strategy].append(found)
                    seconds += found["seconds"]
                    progress.advance(task)
    spec = setup.encoder
    return {
        **summarise(runs),
        "data": frames,
        "encoder": spec.name,
        "weights": sha256(spec.file) if spec.file and spec.file.is_file() else spec.key(),
        "input_size": setup.input_size,
        "rounds": list(setup.rounds),
        "seeds": setup.seeds,
        "strategies": list(setup.strategies),
        "run_seconds": round(seconds, 1),
        "seconds": round(time.perf_counter() - began, 1),
        **hardware(),
        "threads": 1,
    }


def _kept(frames: Frames, strategy: str, seed: int, setup: Setup, folder: Path) -> dict[str, Any]:
    """A run, computed unless it is there."""
    words = [_VERSION, frames.data.sha256, setup.encoder.key(), setup.input_size, strategy, seed, setup.rounds]
    digest = hashlib.sha256(json.dumps(words).encode()).hexdigest()[:12]
    path = folder / f"{frames.data.name}-{strategy}-{seed}-{digest}.json"
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    began = time.perf_counter()
    found = run_curve(frames, strategy, seed, setup.rounds)
    found |= {"strategy": strategy, "seed": seed, "seconds": round(time.perf_counter() - began, 2)}
    write_text(path, json.dumps(found) + "\n")
    return found


def _about(frames: Frames) -> dict[str, Any]:
    return {
        "frames": len(frames.rows),
        "with_structure": int(frames.structured.sum()),
        "groups": len(set(frames.groups.tolist())),
        "sha256": frames.data.sha256,
    }
