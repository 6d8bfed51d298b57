"""Where the batches run: a Dask cluster of this machine's cores, or the scheduler of a bigger one."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

import dask
from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, get_worker
from distributed.client import Future, as_completed

from sonodistill.errors import SonoDistillError
from sonodistill_training.corpus.batch import Done, Job, process
from sonodistill_training.corpus.plan import Batch
from sonodistill_training.corpus.sandbox import Limits, Sandbox

_logger = logging.getLogger(__name__)
_CONNECT_SECONDS = 10
_IDLE_SECONDS = 60.0
_WINDOW = 4  # batches in flight for each thread: enough to keep it busy, few enough for a scheduler's memory
# What a supervisor holds beside its child: Python, Arrow and the frames of one file.
_WORKER_MEMORY = "1.5GB"


# Dask looks after itself many times a second, which costs a tenth of a core for each process; our tasks take seconds.
_CALM = {
    "distributed.logging.distributed": "critical",
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "1s",
}


class SandboxPlugin(WorkerPlugin):
    """Gives a worker its decoding children, one for each thread that asks at the same time.

    It stays with the workers of a scheduler that outlives the build; a child that nobody needs for a minute ends.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.name = plugin_name(limits)

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - Dask's signature
        self._idle: list[Sandbox] = []

    def teardown(self, worker: Any) -> None:  # noqa: ARG002
        while self._idle:
            self._idle.pop().close()

    @contextmanager
    def sandbox(self) -> Iterator[Sandbox]:
        """A child of one's own for the time of a batch."""
        try:
            child = self._idle.pop()
        except IndexError:
            child = Sandbox("sonodistill_training.corpus.extract", "extract", self.limits)
        try:
            yield child
        finally:
            self._idle.append(child)
            timer = threading.Timer(_IDLE_SECONDS, self._retire, (child,))
            timer.daemon = True
            timer.start()

    def _retire(self, child: Sandbox) -> None:
        with contextlib.suppress(ValueError):  # it is at work again, or was closed
            self._idle.remove(child)
            child.close()


def plugin_name(limits: Limits) -> str:
    """Builds of the same limits share the children of a worker."""
    return f"sonodistill-sandboxes-{limits.memory_bytes}-{limits.silence_seconds:g}"


@contextmanager
def connect(scheduler: str | None, workers: int | None, limits: Limits) -> Iterator[Client]:
    """A client of the given scheduler, or of a cluster on this machine's loopback that ends with the block.

    Raises:
        SonoDistillError: the scheduler cannot be reached.
    """
    # Dask describes a failed task by its arguments; ours hold paths, which no log is to show.
    for name in ("distributed", *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(_CALM):
        if scheduler is None:
            with (
                _same_environment(),
                LocalCluster(
                    n_workers=workers or os.cpu_count() or 1,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    memory_limit=_WORKER_MEMORY,
                    silence_logs=logging.CRITICAL,
                ) as cluster,
                Client(cluster) as client,
            ):
                client.register_plugin(SandboxPlugin(limits))
                yield client
            return
        try:
            client = Client(scheduler, timeout=_CONNECT_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:
            raise SonoDistillError(
                f"the scheduler {scheduler} cannot be reached within {_CONNECT_SECONDS} seconds",
                remedy="start it, or leave --scheduler out",
            ) from error
        with client:
            if not client.nthreads():
                _logger.warning("the scheduler has no worker yet; waiting for one")
            # To register it again would end the children of another build, in the middle of a file.
            if not client.run_on_scheduler(_has_plugin, plugin_name(limits)):
                client.register_plugin(SandboxPlugin(limits))
            yield client


@contextmanager
def _same_environment() -> Iterator[None]:
    """Dask sets the variables of its workers (one OpenMP thread ...) in this process as well, and leaves them there."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _has_plugin(name: str, dask_scheduler: Any) -> bool:
    return name in dask_scheduler.worker_plugins


def run(client: Client, batches: Iterable[Batch], job: Job, limits: Limits) -> Iterator[Done | Batch]:
    """Process the batches; yields each as it is done, or the batch itself when it could not be.

    A worker that dies takes its batch back to the queue. A batch whose workers die again and again is given up.

    Args:
        limits: those of ``connect``.
    """
    # The job is sent with each task; it is small, and a scattered one would be lost with its worker.
    waiting = iter(batches)
    mine: dict[str, Batch] = {}
    # Another build on the same scheduler may read the same batches into another folder.
    prefix = f"batch-{uuid.uuid4().hex[:12]}-"

    def submit() -> Iterator[Future]:
        """As many as there is room for now: workers come and go."""
        window = _WINDOW * max(1, sum(client.nthreads().values()))
        while len(mine) < window and (batch := next(waiting, None)) is not None:
            mine[batch.key] = batch
            yield client.submit(_task, batch, job, plugin_name(limits), key=prefix + batch.key, pure=False)

    running = as_completed(list(submit()))
    for future in running:
        batch = mine.pop(future.key.removeprefix(prefix))
        try:
            yield future.result()
        except (KilledWorker, CancelledError):
            yield batch
        future.release()
        for following in submit():
            running.add(following)


def _task(batch: Batch, job: Job, plugin_name: str) -> Done:
    plugin: SandboxPlugin = get_worker().plugins[plugin_name]
    with plugin.sandbox() as sandbox:
        return process(batch, job, sandbox)
