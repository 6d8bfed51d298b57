"""Latency, throughput, memory and energy of a network's workers, which take turns so that a disturbance meets all."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sonodistill_training.bench.deploy.process import Child, ChildError
from sonodistill_training.bench.deploy.subjects import Subject
from sonodistill_training.bench.deploy.variants import EAGER, Variant

Row = dict[str, Any]

LEAST_CALLS, MOST_CALLS = 3, 60
_WARM_UP = 2
_WARM_SECONDS = 2.0
_EXPECTED = 60.0  # times the expected time of a request is what is waited for at least


@dataclass(frozen=True, slots=True)
class Effort:
    """How long is measured.

    Attributes:
        rounds: turns of each worker.
        turn_seconds: of a turn, about.
        batches: images at once, whose throughput is measured.
        most_seconds: of one call; a batch that takes longer is left out.
    """

    rounds: int = 3
    turn_seconds: float = 0.3
    batches: tuple[int, ...] = (1, 8, 32)
    most_seconds: float = 3.0


@dataclass
class Bench:
    """A worker with its row of the table."""

    row: Row
    child: Child | None
    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    by_round: list[float] = field(default_factory=list)
    joules: float | None = 0.0
    calls: int = LEAST_CALLS

    def fail(self, error: ChildError) -> None:
        """Keep the reason in the row, and the process no longer."""
        self.row["reason"] = error.message
        self.close()

    def close(self) -> None:
        """End the process."""
        if self.child is not None:
            self.child.close()
            self.child = None


def percentiles(milliseconds: Sequence[float]) -> tuple[float, float]:
    """The 50th and the 95th percentile, linear between the two nearest values."""
    half, most = np.percentile(np.asarray(milliseconds, float), (50, 95))
    return float(half), float(most)


def clock_ms(row: Mapping[str, Any]) -> float | None:
    """The time that ratios are made of: processor time where one thread computes, which leaves out what other
    processes took, else the clock's."""
    one_thread = row["threads"] == 1 and row["device"] == "cpu"
    return row.get("cpu_ms_p50" if one_thread else "latency_ms_p50")


def empty_row(subject: Subject, variant: Variant, threads: int, device: str) -> Row:
    """A row before anything is measured."""
    return {
        "network": subject.name,
        "variant": variant.name,
        "runtime": variant.runtime,
        "precision": variant.precision,
        "threads": threads,
        "device": device,
        "input_size": subject.size,
        "reason": "",
    }


def open_benches(subject: Subject, variants: Sequence[Variant], threads: int, device: str) -> list[Bench]:
    """A bench for each variant, loaded and warm; those that cannot be have a reason in their row."""
    benches: list[Bench] = []
    at_once = os.cpu_count() or 1  # are being loaded
    for variant in variants:
        if len(benches) >= at_once:
            _attempt(benches[-at_once], _wait)
        bench = Bench(empty_row(subject, variant, threads, device), None)
        benches.append(bench)
        try:
            bench.child = Child("worker", subject.job(variant, threads, device), threads)
        except ChildError as error:
            bench.fail(error)
    for bench in benches:
        _attempt(bench, _warm)
    return benches


def take_turns(benches: Sequence[Bench], effort: Effort, advance: Callable[[], None] = lambda: None) -> None:
    """Time single images in rounds, and put latency into the rows."""
    for bench in benches:
        bench.calls = int(np.clip(1e3 * effort.turn_seconds / bench.row.get("_warm_ms", 1e9), LEAST_CALLS, MOST_CALLS))
    for _ in range(effort.rounds):
        for bench in benches:
            _attempt(bench, _turn)
            advance()
    for bench in benches:
        if bench.wall:
            _put_latency(bench)


def measure(
    subject: Subject,
    variants: Sequence[Variant],
    threads: int,
    device: str,
    effort: Effort,
    *,
    batches: bool,
    scratch: Path,
    advance: Callable[[], None] = lambda: None,
    visit: Callable[[Bench], None] | None = None,
) -> list[Row]:
    """The rows of one network at one number of threads.

    Args:
        batches: whether throughput is measured for more than one image at once.
        scratch: folder for outputs, which are compared with those of the eager network.
        advance: called after each turn.
        visit: what else is to be done with each worker, which may raise ChildError.
    """
    benches = open_benches(subject, variants, threads, device)
    try:
        take_turns(benches, effort, advance)
        for bench in benches:
            _attempt(bench, _memory)
        _compare(benches, scratch)
        for batch in sorted(effort.batches if batches else ()):
            for bench in benches:
                _attempt(bench, lambda one, batch=batch: _throughput(one, batch, effort))  # type: ignore[misc]
        for bench in benches if batches else ():
            _attempt(bench, _memory_of_batches)
        for bench in benches if visit else ():
            _attempt(bench, visit)  # type: ignore[arg-type]
    finally:
        for bench in benches:
            bench.close()
    return [{key: value for key, value in bench.row.items() if not key.startswith("_")} for bench in benches]


def _attempt(bench: Bench, work: Callable[[Bench], None]) -> None:
    """Do it, unless the worker has failed; a failure costs itself alone."""
    if bench.child is None:
        return
    try:
        work(bench)
    except ChildError as error:
        bench.fail(error)


def _run(bench: Bench, batch: int, calls: int, warm: int) -> dict[str, Any]:
    assert bench.child is not None  # noqa: S101 (_attempt looks)
    expected = bench.row.get("_warm_ms", 0.0) / 1e3 * batch * (calls + warm)
    return bench.child.ask(
        {"do": "run", "batch": batch, "calls": calls, "warm": warm}, max(300.0, _EXPECTED * expected)
    )


def _wait(bench: Bench) -> None:
    assert bench.child is not None  # noqa: S101
    bench.child.ready()


def _warm(bench: Bench) -> None:
    assert bench.child is not None  # noqa: S101
    about = bench.child.ready()
    bench.row |= {name: about[name] for name in ("computed_in", "load_seconds", "idle_rss_mb", "energy_reason")}
    answer = _run(bench, 1, 1, _WARM_UP)
    bench.row["_warm_ms"] = answer["wall_ms"][0]


def _turn(bench: Bench) -> None:
    answer = _run(bench, 1, bench.calls, 1)
    bench.wall += answer["wall_ms"]
    bench.processor += answer["cpu_ms"]
    one_thread = bench.row["threads"] == 1 and bench.row["device"] == "cpu"
    bench.by_round.append(percentiles(answer["cpu_ms" if one_thread else "wall_ms"])[0])
    used = answer["joules"]
    bench.joules = None if used is None or bench.joules is None else bench.joules + used


def _put_latency(bench: Bench) -> None:
    row = bench.row
    row["latency_ms_p50"], row["latency_ms_p95"] = percentiles(bench.wall)
    row["cpu_ms_p50"], row["cpu_ms_p95"] = percentiles(bench.processor)
    row["calls"] = len(bench.wall)
    row["images_per_second"] = {"1": 1e3 / row["latency_ms_p50"]}
    row["joules_per_image"] = None if bench.joules is None else bench.joules / len(bench.wall)


def _memory(bench: Bench) -> None:
    assert bench.child is not None  # noqa: S101
    bench.row |= bench.child.ask({"do": "memory"})
    peak, idle = bench.row["peak_rss_mb"], bench.row["idle_rss_mb"]
    bench.row["rss_above_idle_mb"] = None if peak is None or idle is None else peak - idle


def _memory_of_batches(bench: Bench) -> None:
    assert bench.child is not None  # noqa: S101
    found = bench.child.ask({"do": "memory"})
    bench.row |= {f"{key}_largest_batch": value for key, value in found.items()}


def _throughput(bench: Bench, batch: int, effort: Effort) -> None:
    if batch == 1:
        return
    expected = bench.row["latency_ms_p50"] / 1e3 * batch
    if expected > effort.most_seconds:
        bench.row["images_per_second"][str(batch)] = None
        return
    # A runtime prepares the first call of another shape; eager modules do not, or hardly.
    short = expected < _WARM_SECONDS
    warm = int(short or not bench.row["variant"].startswith(EAGER))
    calls = max(1, min(5, int(1 / expected))) if short else 1
    answer = _run(bench, batch, calls, warm)
    bench.row["images_per_second"][str(batch)] = 1e3 * batch / percentiles(answer["wall_ms"])[0]


def _compare(benches: Sequence[Bench], scratch: Path) -> None:
    """The largest difference of each output from the eager network's, as a share of its largest value.

    Not of int8: with random weights it has no meaning.
    """
    wanted: Any = None
    for place, bench in enumerate(benches):
        path = scratch / f"output-{place}.npy"
        _attempt(bench, lambda one, path=path: outputs(one, path))  # type: ignore[misc]
        if bench.child is None:
            continue
        found = np.load(path)
        wanted = found if bench.row["variant"] == EAGER else wanted
        if wanted is not None and bench.row["precision"] != "int8":
            bench.row["difference_from_eager"] = float(np.abs(found - wanted).max() / np.abs(wanted).max())


def outputs(bench: Bench, path: Path, images: Path | None = None, seconds: float = 300.0) -> None:
    """Have the outputs written as an array: of the images in a file (n, 1, S, S), or of two random ones.

    Raises:
        ChildError: the worker cannot.
    """
    assert bench.child is not None  # noqa: S101
    bench.child.ask({"do": "outputs", "images": str(images or ""), "to": str(path), "batch": 2}, seconds)
