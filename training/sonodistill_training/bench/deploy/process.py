"""The parent's end of a worker process: start it, ask it, and survive its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from sonodistill.errors import SonoDistillError

_PACKAGE = "sonodistill_training.bench.deploy"
_READY_SECONDS = 300.0
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class ChildError(SonoDistillError):
    """A worker process ended, did not answer in time, or could not do what it was asked."""


class Child:
    """A process of one of this package's modules; starting it does not wait for it.

    Args:
        module: name of the module in this package, which calls :func:`~sonodistill_training.bench.deploy.worker.serve`.
        job: what it is given, JSON values.
        threads: that its libraries may start; None leaves that to them.
    """

    def __init__(self, module: str, job: Mapping[str, Any], threads: int | None = None) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
        if threads is not None:
            environment |= dict.fromkeys(_POOLS, str(threads))
        if job.get("device") != "cuda":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{_PACKAGE}.{module}", json.dumps(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self._about: dict[str, Any] | None = None

    def ready(self, seconds: float = _READY_SECONDS) -> dict[str, Any]:
        """Wait until it is loaded; what it says of itself.

        Raises:
            ChildError: it cannot be loaded, ended, or took longer.
        """
        if self._about is None:
            self._about = self._answer(seconds)
        return self._about

    def ask(self, request: Mapping[str, Any], seconds: float = _READY_SECONDS) -> dict[str, Any]:
        """The answer to a request.

        Raises:
            ChildError: it failed, ended, or took longer (and was ended).
        """
        self.ready()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")  # type: ignore[union-attr]
            self._process.stdin.flush()  # type: ignore[union-attr]
        except OSError as error:
            raise self._ended() from error
        return self._answer(seconds)

    def is_alive(self) -> bool:
        """Whether it can be asked again."""
        return self._process.poll() is None

    def close(self) -> None:
        """End it, if it has not ended."""
        try:
            self._process.communicate(timeout=10)  # its standard input ends, and with it the worker
        except (subprocess.TimeoutExpired, OSError, ValueError):
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _answer(self, seconds: float) -> dict[str, Any]:
        late = threading.Event()

        def end() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        try:
            line = self._process.stdout.readline()  # type: ignore[union-attr]
        finally:
            timer.cancel()
        if late.is_set():
            self._process.wait()
            raise ChildError(f"no answer within {seconds:.0f} s")
        if not line:
            raise self._ended()
        answer = json.loads(line)
        if "error" in answer:
            raise ChildError(answer["error"])
        return answer

    def _ended(self) -> ChildError:
        code = self._process.wait()
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return ChildError(f"the process {how}" + (f": {said[-1][:200]}" if said else ""))
