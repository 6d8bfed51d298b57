"""A process that times a cine through the Predictor, and its parts alone: ``python -m ...cine_worker JOB``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sonodistill_training.bench.deploy.worker import serve


class CineWorker:
    """A Predictor and a cine.

    Args:
        job: as for :class:`~sonodistill_training.bench.deploy.worker.Worker`, with ``cine``, a file. The process is not
            kept to the cores of the inference: what decodes beside it has the others.
    """

    def __init__(self, job: dict[str, Any]) -> None:
        from sonodistill.frames import read
        from sonodistill.inference.predictor import Predictor
        from sonodistill.transforms.geometry import to_input

        self._read, self._cine = read, Path(job["cine"])
        self._frames = list(read(self._cine))
        self._predictor = Predictor(
            job["path"], runtime=job["runtime"], precision=job["precision"], threads=job["threads"]
        )
        size = self._predictor.runtime.input_size
        self._images = [to_input(frame.image, size)[None] for frame in self._frames]
        self.about: dict[str, Any] = {"frames": len(self._frames)}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Seconds of the clock and of the processor of each part, taken once in the order asked for."""
        parts: dict[str, Callable[[], None]] = {
            "bare": self._bare,
            "predictor": self._predict,
            "decode": self._decode,
            "end_to_end": self._all,
        }
        return {part: _timed(parts[part]) for part in request["parts"]}

    def _bare(self) -> None:
        for image in self._images:
            self._predictor.runtime(image)

    def _predict(self) -> None:
        for _ in self._predictor(self._frames):
            pass

    def _decode(self) -> None:
        for _ in self._read(self._cine):
            pass

    def _all(self) -> None:
        for _ in self._predictor(self._read(self._cine)):
            pass


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    began, worked = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - worked


if __name__ == "__main__":
    serve(CineWorker)
