"""One training loop for every method: exact resume, DDP, mixed precision, monitors, health checks and logs."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from sonodistill.errors import SonoDistillError
from sonodistill.networks.precision import use_bf16
from sonodistill_training.checkpoint import CheckpointError, load_checkpoint, require_room, save_checkpoint
from sonodistill_training.cost import Cost
from sonodistill_training.distributed import World, largest, world
from sonodistill_training.logs import JSONL, Writers, read_log
from sonodistill_training.memory import keep_freed_memory, threads
from sonodistill_training.monitor.watch import LossWatch
from sonodistill_training.progress import (
    Clock,
    StopRequests,
    batches_of,
    ignore_stop_signals,
    progress_bar,
    stop_requests,
    stopped,
)
from sonodistill_training.sampling import EndlessShuffle, StepBatches
from sonodistill_training.settings import Settings
from sonodistill_training.state import State

logger = logging.getLogger(__name__)

PRODUCT = "student.safetensors"

Monitor = Callable[[nn.Module, torch.device], dict[str, float]]
"""Looks at the encoder (in eval mode) now and then; what it finds is logged."""


class DivergedError(SonoDistillError):
    """The loss or the gradient is no longer a finite number."""


class Method(Protocol):
    """What a training method brings; the loop brings the rest.

    A method may also have ``product``, the name of the exported file; ``begin(batch, step)``, which begins what of a
    step depends on nothing that is trained (a frozen teacher's answer) while the step before it is computed, and whose
    result ``step`` then gets in the batch's place; ``parameter_groups(weight_decay)`` for the
    optimiser; ``schedule(groups, rate, weight_decay, step, total, epoch_steps)``, which sets the groups' learning rate
    and weight decay before each step and returns what is logged of it; and ``after_step()``.
    """

    @property
    def network(self) -> nn.Module:
        """Everything that is trained, or follows what is. Nothing else is saved or synchronised."""

    def prepare(self, device: torch.device, bf16: bool) -> None:
        """Move the network and what the method keeps beside it (a frozen teacher) to the device."""

    def step(self, network: nn.Module, batch: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Losses of one batch; ``"loss"`` is minimised, all are logged. ``network`` may be wrapped by DDP."""

    def encoder(self, network: nn.Module) -> nn.Module:
        """The part of ``network``, or of a copy of it, that monitors look at."""

    def identity(self) -> dict[str, Any]:
        """Plain values that must not change when a training is gone on with."""

    def export(self, path: Path, network: nn.Module, record: Mapping[str, Any]) -> None:
        """Write the trained product of ``network``, with the record of its training in the header."""


class Loop:
    """Train ``method`` on ``dataset``; leaves ``last.pt``, ``log.jsonl`` and the exported product in ``output_dir``.

    The dataset is asked for ``(position, index)`` pairs (see :class:`StepBatches`); all its randomness must come from
    the seed and the position. With that, a training killed at any point and run again reaches the same weights.

    Args:
        method: what is trained and how a batch becomes a loss.
        output_dir: made if it is not there; a training in it is gone on with.
        device: "auto", "cpu", "cuda" ...
        on_log: called on the main process with each row of the log.
        monitors: called on the main process every ``monitor_steps`` steps and at the end.
        record: of where the data come from; it goes into the product's header.
        settings: the fields of :class:`Settings`.
    """

    def __init__(
        self,
        method: Method,
        dataset: Dataset[Any],
        output_dir: str | Path,
        device: str | torch.device = "auto",
        on_log: Callable[[dict[str, Any]], None] | None = None,
        monitors: Sequence[Monitor] = (),
        record: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.method = method
        self.dataset = dataset
        self.output_dir = Path(output_dir)
        self.settings = Settings(**settings)
        self.device = device
        self.on_log = on_log
        self.monitors = [monitor for monitor in monitors if monitor is not None]
        self.record = dict(record or {})
        self._threads = torch.get_num_threads()  # of which a method may leave some to what else it runs
        self._found: dict[str, float] = {}
        self._cost: Cost

    @property
    def total_steps(self) -> int:
        """Optimiser steps of the whole training."""
        return self.settings.steps(self._samples)

    @property
    def _samples(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def run(self) -> Path:
        """Train to the end, from the last checkpoint if there is one. Returns the exported file.

        Raises:
            DivergedError: a loss or gradient is not finite. The checkpoint before it is kept.
            CheckpointError: the disk is too small for the checkpoints, or full at the end.
            KeyboardInterrupt: after Ctrl-C, once the step in hand is finished and saved.
            SystemExit: likewise after SIGTERM or SIGUSR1, with 128 + the signal's number.
        """
        with threads(self._threads), world(self.device) as place:
            return self._run(place)

    def _run(self, place: World) -> Path:
        settings = self.settings
        torch.manual_seed(settings.seed)
        bf16 = use_bf16(settings.precision, place.device)
        if place.device.type == "cpu":
            keep_freed_memory()
        self.method.prepare(place.device, bf16)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        self._cost = Cost(place.device)
        groups = getattr(self.method, "parameter_groups", lambda _: None)(settings.weight_decay)
        state = State(self.method.network, settings, place, bf16, groups)
        start = self._resume(state)
        self._cost.start()
        logger.info("training in %s on %s, %d steps", "bf16" if bf16 else "fp32", place.device, self.total_steps)
        with stop_requests() as stop, self._writers(start, place) as writers:
            self._train(state, start, stop, writers)
        product = self.output_dir / getattr(self.method, "product", PRODUCT)
        if place.is_main:
            self.method.export(product, state.best, self._record())
        return product

    def _train(self, state: State, start: int, stop: StopRequests, writers: Writers | None) -> None:
        settings, place, total = self.settings, state.place, self.total_steps
        clock = Clock()
        watch = self._watch(start)
        with (
            closing(batches_of(self._loader(start, place))) as loaded,
            progress_bar(total, start, place.is_main) as progress,
        ):
            batches = self._begun(clock.waiting(loaded), start, place)
            for step in range(start, total):
                values = self._step(state, batches, step)
                done, last = step + 1, step + 1 == total
                clock.count(settings.batch_size)
                looks = bool(self.monitors) and (last or _due(done, settings.monitor_steps))
                logs = last or looks or step == start or done % settings.log_steps == 0
                # A GPU that is asked for a number makes the program wait: it is asked where that is needed anyway.
                if logs or place.device.type == "cpu":
                    self._require_finite(values, step)
                if place.is_main and logs:
                    row = {"step": done, "epoch": round(done * settings.batch_size / self._samples, 4)}
                    row |= {name: float(value) for name, value in values.items()} | clock.report()
                    found = self._look(state) if looks else {}
                    self._log(row | found, writers, watch)
                    progress.show(row, found)
                progress.advance()
                stopping = largest(stop.signal_number or 0, place)
                if last or stopping or _due(done, settings.checkpoint_steps):
                    self._require_finite(values, step)
                    self._save(state, done, keep_on=not (last or stopping))
                if stopping and not last:
                    raise stopped(stopping)
                if looks:
                    clock.report()  # the time it took to look is not the training's

    def _begun(self, batches: Iterator[Any], start: int, place: World) -> Iterator[Mapping[str, Any]]:
        """The batches on the device, each with what the method begins of it, one batch ahead of its step."""
        begin = getattr(self.method, "begin", lambda batch, _: batch)
        last: Mapping[str, Any] | None = None
        for number in itertools.count(start * self.settings.accumulate):
            try:
                loaded = next(batches, None)
            except Exception:
                if last is not None:
                    yield last  # the steps before a batch that cannot be had are taken, and saved
                raise
            if loaded is None:
                break
            batch = {name: value.to(place.device, non_blocking=True) for name, value in loaded.items()}
            coming = begin(batch, number)
            if last is not None:
                yield last
            last = coming
        if last is not None:
            yield last

    def _step(self, state: State, batches: Iterator[Mapping[str, Any]], step: int) -> dict[str, Any]:
        """One optimiser step; what it lost, and at which learning rate and gradient norm."""
        settings, place = self.settings, state.place
        torch.manual_seed(_seed(settings.seed, step, place.rank))
        rate = settings.learning_rate_at(step, self._samples)
        scheduled = self._schedule(state, rate, step)
        state.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for part in range(settings.accumulate):
            batch = next(batches)
            with state.synchronised(last=part == settings.accumulate - 1):
                with torch.autocast(place.device.type, torch.bfloat16, enabled=state.bf16):
                    losses = self.method.step(state.wrapped, batch, step * settings.accumulate + part)
                (losses["loss"] / settings.accumulate).backward()
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + value.detach() / settings.accumulate
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip)
        state.optimizer.step()
        if hasattr(self.method, "after_step"):
            self.method.after_step()
        if state.average is not None:
            state.average.update(state.network, step=step)
        return {**sums, "learning_rate": rate, **scheduled, "gradient_norm": norm}

    def _schedule(self, state: State, rate: float, step: int) -> dict[str, float]:
        """Set what this step computes with: the learning rate, and what else the method changes with the step."""
        groups, settings = state.optimizer.param_groups, self.settings
        if hasattr(self.method, "schedule"):
            epoch_steps = self._samples / settings.batch_size
            return self.method.schedule(groups, rate, settings.weight_decay, step, self.total_steps, epoch_steps)
        for group in groups:
            group["lr"] = rate
        return {}

    def _require_finite(self, values: Mapping[str, Any], step: int) -> None:
        loss, norm = float(values["loss"]), float(values["gradient_norm"])
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise DivergedError(
                f"the loss is {loss} and the gradient norm {norm} at step {step}",
                path=self.output_dir,
                remedy="lower the learning rate or lengthen the warm-up; the last checkpoint is kept",
            )

    def _loader(self, start: int, place: World) -> DataLoader[Any]:
        settings, dataset = self.settings, self.dataset
        parts = place.size * settings.accumulate
        local_batch, remainder = divmod(settings.batch_size, parts)
        if remainder:
            raise SonoDistillError(
                f"a batch of {settings.batch_size} cannot be shared by {place.size} processes"
                + (f" and {settings.accumulate} parts" if settings.accumulate > 1 else ""),
                remedy=f"choose a batch size that is a multiple of {parts}",
            )
        # A data set may know its order, its way of collating, and how its workers have to be started.
        order = getattr(dataset, "order", lambda seed: EndlessShuffle(self._samples, seed))(settings.seed)
        first, stop = start * settings.accumulate, self.total_steps * settings.accumulate
        return DataLoader(
            dataset,
            batch_sampler=StepBatches(order, local_batch, first, stop, place.rank, place.size),
            collate_fn=getattr(dataset, "collate", None),
            num_workers=settings.workers,
            multiprocessing_context=getattr(dataset, "start_method", None) if settings.workers else None,
            pin_memory=place.device.type == "cuda",
            worker_init_fn=ignore_stop_signals,
            # Its own: a loader draws from torch's numbers when it starts, which would change the step it starts with.
            generator=torch.Generator(),
        )

    def _look(self, state: State) -> dict[str, float]:
        """What the monitors find; training goes on as if they had not looked."""
        encoder = self.method.encoder(state.best)
        modes = {module: module.training for module in encoder.modules()}
        encoder.eval()
        devices = [state.place.device] if state.place.device.type == "cuda" else []
        with threads(self._threads), torch.random.fork_rng(devices), torch.no_grad():
            self._found = {k: v for monitor in self.monitors for k, v in monitor(encoder, state.place.device).items()}
        for module, mode in modes.items():
            module.training = mode
        return self._found

    def _identity(self) -> dict[str, Any]:
        """What must not change between a checkpoint and the training that goes on from it."""
        settings = self.settings
        of_data = self.dataset.identity() if hasattr(self.dataset, "identity") else {}
        own = ("batch_size", "accumulate", "seed", "learning_rate", "weight_decay", "clip", "ema")
        return (
            self.method.identity()
            | of_data
            | {"samples": self._samples, "total_steps": self.total_steps}
            | {name: getattr(settings, name) for name in own}
        )

    def _record(self) -> dict[str, Any]:
        """Recipe, data, last measurements and the cost, for the header of the product."""
        return {**self.record, "recipe": self._identity(), "metrics": self._found, "cost": self._cost.record()}

    def _save(self, state: State, step: int, keep_on: bool) -> None:
        """Save; when that fails in mid-training, say so and go on: the next checkpoint may find room again."""
        if not state.place.is_main:
            return
        try:
            found = {"found": self._found} if self._found else {}
            contents = state.contents() | found | {"cost": self._cost.state_dict()}
            save_checkpoint(self.output_dir, contents | {"step": step, "identity": self._identity()})
        except CheckpointError as error:
            if not keep_on:
                raise
            logger.error("%s", error)

    def _resume(self, state: State) -> int:
        place = state.place
        found = load_checkpoint(self.output_dir, self._identity(), place.device)
        if found is None:
            if place.is_main:
                require_room(self.output_dir, state.contents())
            return 0
        state.restore(found)
        self._found = dict(found.get("found", {}))
        self._cost.load_state_dict(found.get("cost", {}))
        logger.info("going on from step %d of %d", found["step"], self.total_steps)
        return int(found["step"])

    def _writers(self, start: int, place: World) -> AbstractContextManager[Writers | None]:
        if not place.is_main:
            return nullcontext()
        return Writers(
            self.output_dir,
            self.settings.logs,
            start_step=start,
            tracking_uri=self.settings.mlflow_uri,
            settings=self._identity(),
        )

    def _watch(self, start: int) -> LossWatch:
        """What warns of a training that goes wrong, knowing what was logged before."""
        samples = self._samples
        watch = LossWatch(self.total_steps, self.settings.warmup_steps(samples), self.settings.clip)
        if start and (self.output_dir / JSONL).is_file():
            for row in read_log(self.output_dir):
                watch.update(row)
        return watch

    def _log(self, row: dict[str, Any], writers: Writers | None, watch: LossWatch) -> None:
        if writers:
            writers.write(row)
        if warning := watch.update(row):
            logger.warning("step %d: %s", row["step"], warning)
        if self.on_log:
            self.on_log(row)


def _due(step: int, every: int) -> bool:
    """Whether something is to be done after this step; ``every`` 0 is never."""
    return every > 0 and step % every == 0


def _seed(seed: int, step: int, rank: int) -> int:
    """A 63-bit seed for this step on this rank (drop-path, dropout)."""
    return (seed * 1_000_003 + step) * 1_009 + rank & (2**63 - 1)
