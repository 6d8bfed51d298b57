"""``sonodistill bench dicom``: the measurements, one after the other, in a folder that is removed afterwards."""

from __future__ import annotations

import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydicom import dcmread

from sonodistill_training.bench.dicom.clips import Loop, disk_loop, write_clips
from sonodistill_training.bench.dicom.drain import drain
from sonodistill_training.bench.dicom.models import export_models
from sonodistill_training.bench.dicom.sender import store
from sonodistill_training.bench.dicom.service import Running, ServiceError, configure, running, send
from sonodistill_training.bench.dicom.setup import Setup
from sonodistill_training.bench.dicom.speed import analyse_beside_bare, decode_ms
from sonodistill_training.hardware import hardware


def bench_dicom(setup: Setup) -> dict[str, Any]:
    """All numbers; ratios, milliseconds, 10^6 bytes a second and seconds as the keys say.

    ``end_to_end_vs_bare`` is of a model that finds one structure a frame, ``end_to_end_vs_bare_speckle`` of one that
    finds dozens in each; see :mod:`sonodistill_training.bench.dicom.models`.
    """
    with _ended_orderly(), tempfile.TemporaryDirectory(prefix="sonodistill-bench-") as name:
        folder = Path(name)
        loop = disk_loop(setup.seed)
        model, speckle = export_models(folder, loop, setup.input_size, setup.seed)
        cine = write_clips(_made(folder / "cine"), loop, setup.frames)[0]
        one = analyse_beside_bare(model, cine, folder / "one", setup)
        many = analyse_beside_bare(speckle, cine, folder / "many", setup)
        result = {
            "end_to_end_vs_bare": one["ratio"],
            "decode_ms_per_frame": decode_ms(cine, setup.rounds),
            **_receive(_made(folder / "receive"), loop, model, setup),
            **_first_result(_made(folder / "first"), loop, model, setup),
            "end_to_end_vs_bare_speckle": many["ratio"],
        }
        result["decode_seconds"] = result["decode_ms_per_frame"] * setup.frames / 1000
        result |= {key: value for key, value in one.items() if key != "ratio"}
        result |= {f"{key}_speckle": value for key, value in many.items() if key != "ratio"}
        if setup.drain:
            result["drain"] = drain(_made(folder / "drain"), model, setup)
    settings = {
        name: getattr(setup, name) for name in ("runtime", "precision", "threads", "input_size", "frames", "rounds")
    }
    return result | settings | hardware()


@contextmanager
def _ended_orderly() -> Iterator[None]:
    """SIGTERM ends the block as an exception does: with the processes and the folder it has made."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _receive(folder: Path, loop: Loop, model: Path, setup: Setup) -> dict[str, Any]:
    """Clips over several associations at once into the role that receives."""
    frame_bytes = statistics.mean(map(len, loop.encoded))
    clips = write_clips(_made(folder / "clips"), loop, max(1, round(setup.clip_mb * 1e6 / frame_bytes)), setup.clips)
    size = sum(path.stat().st_size for path in clips)
    configuration, port = configure(folder / "service", model, setup=setup, associations=setup.associations)
    with running(configuration, port, role="receive") as service:
        before = service.rss_mb()
        shares = [clips[at :: setup.associations] for at in range(setup.associations)]
        program, seconds = send(port, shares, service.rss_mb)
        states = service.states()
    if states != {"received": len(clips)}:
        raise ServiceError(f"{len(clips)} clips were sent, and the queue has {states}")
    shutil.rmtree(folder)
    return {
        "receive_mb_per_second": size / 1e6 / seconds,
        "receive_rss_mb": {"before": before, "peak": service.peak_rss_mb},
        "receive_clips": len(clips),
        "receive_clip_mb": size / 1e6 / len(clips),
        "receive_sender": program,
    }


def _first_result(folder: Path, loop: Loop, model: Path, setup: Setup) -> dict[str, Any]:
    """From the end of an association to the segmentation in the folder; the first cine only warms the service up."""
    clips = write_clips(_made(folder / "clips"), loop, setup.first_frames, setup.repeats + 1)
    configuration, port = configure(folder / "service", model, setup=setup)
    with running(configuration, port) as service:
        seconds = [_wait_for_segmentation(service, clip) for clip in clips][1:]
    return {"first_result_seconds": statistics.median(seconds), "first_result_seconds_most": max(seconds)}


def _wait_for_segmentation(service: Running, clip: Path) -> float:
    out, done = service.folder / "out", service.delivered()
    before = set(out.iterdir())
    if not store(service.port, [clip]):
        raise ServiceError("a cine was not taken")
    start = time.perf_counter()

    def segmented() -> bool:
        made = [path for path in out.iterdir() if path not in before and path.suffix == ".dcm"]
        return any(dcmread(path, specific_tags=["Modality"]).Modality == "SEG" for path in made)

    service.wait(segmented)
    seconds = time.perf_counter() - start
    service.wait(lambda: service.delivered() > done)  # the report, too
    return seconds
