"""How fast a corpus is built: frames a second and core, scaling from one worker to two, memory, near-duplicates."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from sonodistill_training.bench.cine import encoded_loop, write_cine
from sonodistill_training.corpus.build import Plan, build
from sonodistill_training.corpus.duplicates import bench_near_duplicates
from sonodistill_training.hardware import hardware

_KEY = bytes(range(32))
_MIB = 2**20


def bench_corpus(
    *, clips: int = 8, frames: int = 4000, long_clip: int = 10_000, signatures: int = 162_000, seed: int = 0
) -> dict[str, Any]:
    """Build from synthetic 640 x 480 JPEG cine loops of the DICOM kind, in temporary folders.

    Args:
        clips, frames: of the timed builds, how many loops of how many frames.
        long_clip: frames of the one loop whose memory is measured.
        signatures: among which near-duplicates are searched.
    """
    with tempfile.TemporaryDirectory(prefix="sonodistill-bench-") as name:
        folder = Path(name)
        loops = [encoded_loop(seed + number) for number in range(min(clips, 4))]
        for number in range(clips):
            write_cine(folder / "clips" / f"{number:03d}.dcm", loops[number % len(loops)], frames)
        write_cine(folder / "long" / "long.dcm", loops[0], long_clip)
        one = _timed(folder / "clips", folder / "one", workers=1)
        two = _timed(folder / "clips", folder / "two", workers=2)
        with _peak_of_a_worker() as peak:
            long = _timed(folder / "long", folder / "memory", workers=1)
    near = bench_near_duplicates(signatures, seed)
    return {
        "frames_per_second_per_core": round(one["frames"] / one["seconds"], 1),
        "scaling_two_workers": round(one["seconds"] / two["seconds"], 3),
        "peak_memory_mb": round(peak[0] / _MIB),
        "near_duplicate_seconds_162k": round(near["seconds"], 2),
        "near_duplicates": near,
        "frames": one["frames"],
        "kept": one["kept"],
        "seconds_one_worker": round(one["seconds"], 2),
        "seconds_two_workers": round(two["seconds"], 2),
        "long_clip_frames": long["frames"],
        "long_clip_seconds": round(long["seconds"], 2),
        "seed": seed,
        **hardware(),
    }


def _timed(source: Path, out: Path, workers: int) -> dict[str, Any]:
    start = time.perf_counter()
    summary = build(Plan(sources=[str(source)], out=out, key=_KEY, workers=workers))
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "frames": summary["frames_read"], "kept": summary["frames"]["kept"]}


@contextmanager
def _peak_of_a_worker() -> Iterator[list[int]]:
    """The largest sum of resident bytes of a Dask worker and the child it supervises, seen while the block runs."""
    peak, stop = [0], threading.Event()

    def watch() -> None:
        me = psutil.Process()
        while not stop.wait(0.05):
            for child in me.children(recursive=True):
                try:
                    if any("corpus.child" in part for part in child.cmdline()):
                        parent = child.parent()
                        both = child.memory_info().rss + (parent.memory_info().rss if parent else 0)
                        peak[0] = max(peak[0], both)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
