"""What a run measures, and the steps it tells of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonodistill_training.bench.deploy.measure import Effort

LEFT_OUT = "left out, as they take long: --all measures them"
"""Reason of a row that is not made unless it is asked for."""
NETWORKS = (
    *("teacher", "teacher+light", "resnet50", "resnet18", "convnext_tiny"),
    *("resnet50+unet", "resnet18+unet", "convnext_tiny+unet"),
)


@dataclass(frozen=True)
class Setup:
    """What is measured.

    Attributes:
        networks: names for :func:`~sonodistill_training.bench.deploy.networks.build`.
        runtimes: names in ``VARIANTS``; empty for all.
        everything: also what takes long: every network compiled, int8 in ONNX Runtime, and encoders alone
            in every way and at every number of threads.
        input_size: pixels of a side.
        threads: numbers of threads of the processor; throughput by batch is measured at the largest.
        effort: how long.
        device: "cpu" or "cuda".
        frames: files, folders or a corpus that int8 is calibrated with.
        trained: weights files of trained segmenters by name.
        labelled: name and folder of the set that they are judged on.
        cine_frames: of the cine that goes through the Predictor.
        most_test_images: of the labelled set's test split; None for all.
    """

    networks: tuple[str, ...] = NETWORKS
    runtimes: tuple[str, ...] = ()
    everything: bool = False
    input_size: int = 224
    threads: tuple[int, ...] = (1, 2)
    effort: Effort = field(default_factory=Effort)
    device: str = "cpu"
    frames: tuple[Path, ...] = ()
    trained: dict[str, Path] = field(default_factory=dict)
    labelled: tuple[str, Path] | None = None
    cine_frames: int = 120
    most_test_images: int | None = None


class Bar:
    """Steps of the whole run."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task, self._done = progress, task, 0.0

    def say(self, text: str) -> None:
        """What is being done."""
        self._progress.update(self._task, description=text)

    def advance(self, steps: float = 1) -> None:
        """So many steps are done."""
        self._done += steps
        self._progress.update(self._task, completed=self._done)

    @contextmanager
    def steps(self, count: int) -> Iterator[None]:
        """So many steps, whatever :meth:`advance` says meanwhile."""
        until = self._done + count
        yield
        self.advance(until - self._done)


@contextmanager
def progress(setup: Setup, variants: int) -> Iterator[Bar]:
    """On the standard error, so that the last line of the standard output is the result."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    subjects = len(setup.networks) + len(setup.trained)
    total = subjects * (1 + len(setup.threads) * variants) + 2
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), TimeElapsedColumn(), TextColumn("ETA"), TimeRemainingColumn())
    # Steps differ in length: the speed of the last minutes says most about the rest.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=300) as shown:
        yield Bar(shown, shown.add_task("", total=total))
