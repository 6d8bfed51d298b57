"""Compute what is planned and not there yet; a cell that cannot be computed is listed, and the others go on."""

from __future__ import annotations

import gc
import logging
import platform
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from sonodistill import __version__
from sonodistill.errors import DatasetError, SonoDistillError
from sonodistill_training.distributed import pick_device
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.divide import few_shots, labelled_part
from sonodistill_training.evaluate.encoders.load import load_encoder
from sonodistill_training.evaluate.learning.frozen import FrozenEncoder
from sonodistill_training.evaluate.learning.protocols import Outcome, Trial, run_protocol
from sonodistill_training.evaluate.metrics.classification import class_numbers, summarise_classification
from sonodistill_training.evaluate.metrics.segmentation import summarise_segmentation
from sonodistill_training.evaluate.metrics.structures import summarise_structures
from sonodistill_training.evaluate.plan import Planned
from sonodistill_training.evaluate.results import Cell, Result, Store
from sonodistill_training.evaluate.scoring import classification_columns, segmentation_columns
from sonodistill_training.memory import keep_freed_memory
from sonodistill_training.provenance import code_version

logger = logging.getLogger(__name__)

_UNFINISHED, _FEATURES = "unfinished", "features"


@dataclass(frozen=True, slots=True)
class Failure:
    """A cell that could not be computed, and why."""

    cell: Cell
    reason: str


def run(
    planned: Sequence[Planned],
    store: Store,
    *,
    device: str = "auto",
    memory: float = 8e9,
) -> tuple[list[Result], list[Failure]]:
    """Compute the cells that the store lacks, with a progress bar.

    Args:
        planned: as :func:`plan` orders them.
        store: where results are looked for and kept.
        device: "auto", "cpu", "cuda" ...
        memory: bytes for the features of a frozen encoder; what is more goes to a file beside the results.

    Returns:
        the results of all cells, and those that failed.
    """
    keep_freed_memory()
    place = pick_device(device)
    results: list[Result] = []
    failures: list[Failure] = []
    frozen: tuple[Any, FrozenEncoder] | None = None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn()) as progress:
        whole = progress.add_task("evaluations", total=len(planned))
        for item in planned:
            if store.has(item.cell):
                results.append(store.read(item.cell))
                progress.advance(whole)
                continue
            if frozen is None or frozen[0] != item.frozen_key:
                frozen = None  # its memory is free before the next one's is taken
                gc.collect()
                frozen = item.frozen_key, _frozen(item, store, place, memory)
            bar = progress.add_task(f"  {item.cell.title}", total=item.cell.recipe.epochs)
            on_epoch = partial(_advance, progress, bar)
            try:
                results.append(_compute(item, store, frozen[1], place, on_epoch))
            except SonoDistillError as error:
                failures.append(Failure(item.cell, str(error)))
            except Exception as error:  # a fault of one cell, in whatever library, is not to cost the others
                failures.append(Failure(item.cell, f"{type(error).__name__}: {error}"))
                logger.warning("%s failed", item.cell.title, exc_info=True)
            progress.remove_task(bar)
            progress.advance(whole)
    return results, failures


def _advance(progress: Progress, bar: TaskID, _: dict[str, float]) -> None:
    progress.advance(bar)


def _frozen(item: Planned, store: Store, device: torch.device, memory: float) -> FrozenEncoder:
    return FrozenEncoder(_maker(item), item.data, device, item.cell.precision, store.folder / _FEATURES, memory)


def _maker(item: Planned, drop_path: float = 0.0) -> Callable[[], torch.nn.Module]:
    size, seed = item.cell.recipe.input_size, item.cell.seed
    return lambda: load_encoder(item.spec, input_size=size, drop_path_rate=drop_path, seed=seed)  # type: ignore[return-value]


def _compute(
    item: Planned,
    store: Store,
    frozen: FrozenEncoder,
    device: torch.device,
    on_epoch: Callable[[dict[str, float]], None],
) -> Result:
    began = time.perf_counter()
    cell, data = item.cell, item.data
    checkpoint = store.folder / _UNFINISHED / f"{cell.key}.pt"
    trial = Trial(
        cell=cell,
        data=data,
        classes=_classes(item) if cell.task == "classification" else (),
        train=_labelled(item),
        validation=item.division.validation,
        test=item.division.test,
        make_encoder=_maker(item, cell.recipe.drop_path),
        frozen=frozen,
        device=device,
        checkpoint=checkpoint,
    )
    outcome = run_protocol(trial, on_epoch)
    masks = None
    if cell.task == "segmentation":
        columns, masks = segmentation_columns(data, trial.test, outcome.logits)
        summary: dict[str, Any] = summarise_segmentation(columns) | summarise_structures(columns)
    else:
        probabilities = torch.cat(outcome.logits).double().softmax(dim=1).numpy()
        columns = classification_columns(data, trial.test, probabilities, trial.classes)
        truth = class_numbers(columns["truth"], trial.classes)
        summary = summarise_classification(truth, probabilities, trial.classes)
    about = _about(trial, outcome, item) | {"summary": summary, "seconds": round(time.perf_counter() - began, 2)}
    result = store.write(cell, columns, about, masks)
    checkpoint.unlink(missing_ok=True)
    return result


def _labelled(item: Planned) -> NDArray[np.int64]:
    cell, rows = item.cell, item.division.train
    if cell.shots:
        return few_shots(item.data, rows, cell.shots, cell.draw)
    return labelled_part(item.data, rows, cell.fraction, cell.draw)


def _classes(item: Planned) -> tuple[str, ...]:
    """The labels of the frames that are trained on; one that only validation or test has is refused, not learnt."""
    names = tuple(sorted({item.data.labels[row] for row in item.division.train.tolist()}))
    if len(names) < 2:
        raise DatasetError(
            f"all training frames of {item.data.name} have the label {names[0]}; two classes are needed",
            remedy="see the column label of its index",
        )
    for rows in (item.division.validation, item.division.test):
        class_numbers([item.data.labels[row] for row in rows.tolist()], names)
    return names


def _about(trial: Trial, outcome: Outcome, item: Planned) -> dict[str, Any]:
    """What is worth knowing of a result besides its metrics; plain JSON."""
    row, trained = item.spec.row, outcome.trained
    about: dict[str, Any] = {
        "frames": {name: len(getattr(trial, name)) for name in ("train", "validation", "test")},
        "labelled_by_class": dict(Counter(trial.data.labels[index] for index in trial.train.tolist())),
        "split": item.division.way,
        "data": trial.data.sha256,
        "head_parameters": outcome.head_parameters,
        "learning_rate_chosen": outcome.rate,
        "probe_chosen": outcome.probe,
        "encoder_status": row.status if row else "",
        "device": trial.device.type,
        "bf16": trial.bf16,
        "software": {"sonodistill": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "code_version": code_version(),
        "calibrated": _calibrated(trial.data, trial.test),
    }
    if trained is not None:
        about |= {"best_epoch": trained.best_epoch, "best_validation": trained.best, "curve": trained.curve}
        about |= {"training_seconds": round(trained.seconds, 2), "data_wait": round(trained.data_wait, 4)}
    return about


def _calibrated(data: LabelledSet, rows: NDArray[np.int64]) -> int:
    """How many of the frames have a known pixel size."""
    return int((~np.isnan(data.mm_per_pixel[rows]).any(axis=1)).sum())
