"""The external check: every set in turn, and its results as CSV, JSON and one page."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.progress import Progress

from sonodistill import __version__
from sonodistill.errors import BundleConfigError
from sonodistill.files import atomic_path, sha256, write_text
from sonodistill.inference.predictor import Predictor
from sonodistill_training.evaluate.external.cases import credit, write_sheet
from sonodistill_training.evaluate.external.frames import Item, Reading, index_sha256, items_of, spread
from sonodistill_training.evaluate.external.judge import COLUMNS, Judged, judge, summary
from sonodistill_training.evaluate.external.overlap import OverlapError, alike, require_unknown, seed_of
from sonodistill_training.evaluate.external.page import external_page

REPORT, SUMMARY, SHEET = "external.html", "external.json", "-cases.jpg"


def check(
    predictor: Predictor,
    folders: Mapping[str, Path],
    out: Path,
    progress: Progress,
    *,
    label: str | None = None,
    split: str = "all",
    trained_on: Path | None = None,
    limit: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Judge a segmenter on every set and write :data:`SUMMARY`, :data:`REPORT` and files of each set into ``out``.

    Those are ``<name>.csv`` with a row for each image, and ``<name>-cases.jpg``, a small sheet of the cases to look at.

    Args:
        predictor: a segmenter.
        folders: of the sets, by name.
        out: made where it is missing.
        progress: gets a task for each set.
        label: the channel that the masks show; needed of a model with several.
        split: "all", or that of the index alone.
        trained_on: folder of the frames that the model was made on (but for its test split), to compare pictures with.
        limit: images of each set, at even distances.

    Returns:
        What was found, by set.

    Raises:
        OverlapError: a set took part in the training.
        BundleConfigError: no segmenter, or a label it does not have.
        DatasetError, EmptyInputError, UnreadableFileError: a set cannot be used at all.
    """
    if predictor.kind != "segmenter":
        raise BundleConfigError(f"{predictor.path} is a {predictor.kind}", remedy="give a segmenter")
    channel = _channel(predictor, label)
    info = predictor.runtime.info
    chosen: dict[str, list[Item]] = {}
    for name, folder in folders.items():
        require_unknown(info.weights if info else None, name, folder, split)
        seed = seed_of(info.weights if info else None, folder)
        items = [item for item in items_of(name, folder, seed) if split in ("all", item.split)]
        if not items:
            raise BundleConfigError(f"{name} has no frame in the split {split}", remedy="give --split all")
        chosen[name] = spread(items, limit)
        if trained_on is not None:
            _require_other_pictures(name, chosen[name], trained_on, progress)
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, tuple[dict[str, Any], Judged]] = {}
    for name, items in chosen.items():
        task = progress.add_task(name, total=len(items))
        judged = judge(predictor, items, channel, lambda task=task: progress.advance(task))  # type: ignore[misc]
        progress.update(task, completed=len(items))
        _write_rows(out / f"{name}.csv", judged)
        shown = f"{predictor.path.name} on {name}" + (f", {split} split" if split != "all" else "")
        write_sheet(out / f"{name}{SHEET}", shown, judged.cases, credit(name))
        found[name] = ({**summary(judged), "index_sha256": index_sha256(folders[name])}, judged)
    said = {
        "model": predictor.path.name,
        "model_sha256": sha256(predictor.path),
        "label": predictor.labels[channel],
        "runtime": f"{predictor.runtime.name} ({predictor.runtime.precision})",
        "version": __version__,
        "split": split,
        "compared_with_training_frames": trained_on is not None,
        "sets": {name: one for name, (one, _) in found.items()},
    }
    write_text(out / SUMMARY, json.dumps(_finite(said), indent=1))
    write_text(out / REPORT, external_page(predictor.path.name, found))
    return {name: one for name, (one, _) in found.items()}


def _channel(predictor: Predictor, label: str | None) -> int:
    names = ", ".join(predictor.labels)
    if label is None:
        if len(predictor.labels) == 1:
            return 0
        raise BundleConfigError(f"the model has the labels {names}", remedy="say which the masks show: --label NAME")
    if label not in predictor.labels:
        raise BundleConfigError(f"the model has no label {label}", remedy=f"choose from {names}")
    return predictor.labels.index(label)


def _require_other_pictures(name: str, items: list[Item], trained_on: Path, progress: Progress) -> None:
    known = [item for item in items_of("", trained_on) if item.split != "test"]
    task = progress.add_task(f"comparing {name} with {trained_on.name}", total=None)
    shown = [(item, frame.image) for item, frame in Reading(items)]
    leaks = alike([image for _, image in shown], known)
    progress.remove_task(task)
    if leaks:
        row, training = next(iter(leaks.items()))
        raise OverlapError(
            f"{len(leaks)} of {len(shown)} images of {name} show what a training frame shows "
            f"({shown[row][0].name} is {training})",
            path=trained_on,
            remedy="leave them out of the set, or give another",
        )


def _write_rows(path: Path, judged: Judged) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
        table.writeheader()
        table.writerows(judged.rows)


def _finite(value: Any) -> Any:
    """JSON has no NaN: None."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
