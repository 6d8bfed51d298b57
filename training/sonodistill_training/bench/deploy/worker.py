"""A process that holds one network in one runtime, so that its memory is its own and its crash too.

``python -m sonodistill_training.bench.deploy.worker JOB`` says on its standard output, a JSON object a line, that it is
ready or why not, and then answers the requests that come on its standard input. It imports what its runtime needs and
nothing else: where that is ONNX Runtime or OpenVINO, no torch.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from sonodistill_training.bench.deploy.resources import EnergyMeter, peak_rss_mb, pin

Call = Callable[[Any], Any]
"""(B, 1, H, W) float32 of NumPy to the output, of NumPy."""


class Worker:
    """The network and its answers.

    Args:
        job: ``variant`` (name, for modules of torch), ``runtime``, ``precision``, ``path`` (an exported file, or a
            weights file), ``network`` (a name, where there is no weights file), ``size`` (pixels), ``threads``,
            ``device``.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        idle = peak_rss_mb()
        import numpy as np

        self._np = np
        began = time.perf_counter()
        self._call, self.about = self._load()
        self.about |= {"idle_rss_mb": idle, "load_seconds": time.perf_counter() - began}
        self._energy = _GpuMeter() if job["device"] == "cuda" else EnergyMeter()
        self.about["energy_reason"] = self._energy.reason

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """What a request asks for: ``run``, ``memory`` or ``outputs``."""
        return {"run": self._run, "memory": self._memory, "outputs": self._outputs}[request["do"]](request)

    def _load(self) -> tuple[Call, dict[str, Any]]:
        job = self._job
        if job["eager"]:
            from sonodistill_training.bench.deploy.modules import load_module

            return load_module(job)
        if job["runtime"].startswith("torch"):
            import torch  # noqa: F401 - before the process is kept to its cores, on which it would take its time
        pin(job["threads"])
        from sonodistill.inference.runtimes import open_runtime

        runtime = open_runtime(
            Path(job["path"]),
            job["runtime"],
            precision=job["precision"],
            threads=job["threads"],
            device=job["device"],
        )
        return runtime, {"computed_in": runtime.precision}

    def _images(self, batch: int) -> Any:
        side = self._job["size"]
        return self._np.random.default_rng(0).random((batch, 1, side, side), dtype="float32")

    def _run(self, request: dict[str, Any]) -> dict[str, Any]:
        """Milliseconds of each of ``calls`` calls on ``batch`` images, after ``warm`` that are not timed."""
        images = self._images(request["batch"])
        for _ in range(request["warm"]):
            self._call(images)
        wall, processor = [], []
        self._energy.start()
        for _ in range(request["calls"]):
            began, worked = time.perf_counter(), time.process_time()
            self._call(images)
            processor.append(1e3 * (time.process_time() - worked))
            wall.append(1e3 * (time.perf_counter() - began))
        return {"wall_ms": wall, "cpu_ms": processor, "joules": self._energy.joules()}

    def _memory(self, _: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {"peak_rss_mb": peak_rss_mb(), "gpu_allocated_mb": None, "gpu_reserved_mb": None}
        if self._job["device"] == "cuda" and "torch" in sys.modules:
            import torch

            found["gpu_allocated_mb"] = torch.cuda.max_memory_allocated() / 1e6
            found["gpu_reserved_mb"] = torch.cuda.max_memory_reserved() / 1e6
        return found

    def _outputs(self, request: dict[str, Any]) -> dict[str, Any]:
        """Outputs of the images in the file ``images``, into the file ``to``; of random ones where there is none."""
        np = self._np
        images = np.load(request["images"]) if request["images"] else self._images(2)
        step = request["batch"]
        outputs = [self._call(images[start : start + step]) for start in range(0, len(images), step)]
        np.save(request["to"], np.concatenate(outputs))
        return {}


class _GpuMeter:
    """Joules of the GPU: the power that NVML tells, times the time. See :class:`EnergyMeter`."""

    def __init__(self) -> None:
        self._began, self.reason = 0.0, ""
        try:
            self._watts()
        except Exception as error:  # noqa: BLE001 - without NVML, or without its Python package
            self.reason = reason_of(error)

    def start(self) -> None:
        self._began = time.perf_counter()

    def joules(self) -> float | None:
        seconds = time.perf_counter() - self._began
        return None if self.reason else self._watts() * seconds

    @staticmethod
    def _watts() -> float:
        import torch

        return torch.cuda.power_draw() / 1e3


def serve(make: Callable[[dict[str, Any]], Any]) -> None:
    """Answer on the standard output until the standard input ends; what libraries print goes to the standard error.

    Args:
        make: from the job on the command line to an object with ``about`` and ``answer``.
    """
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        worker = make(json.loads(sys.argv[1]))
    except Exception as error:  # noqa: BLE001 - any reason is one for the table
        _reply(replies, {"error": reason_of(error)})
        return
    _reply(replies, worker.about)
    for line in sys.stdin:
        try:
            _reply(replies, worker.answer(json.loads(line)))
        except Exception as error:  # noqa: BLE001
            _reply(replies, {"error": reason_of(error)})


def reason_of(error: BaseException) -> str:
    """An error in one line."""
    message = " ".join(str(getattr(error, "message", error)).split())[:300]
    remedy = getattr(error, "remedy", None)
    return f"{type(error).__name__}: {message}" + (f" ({remedy})" if remedy else "")


def _reply(replies: TextIO, answer: dict[str, Any]) -> None:
    replies.write(json.dumps(answer) + "\n")
    replies.flush()


if __name__ == "__main__":
    serve(Worker)
