"""The index of the shipped models, the page beside it, and the limits of their sizes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sonodistill.errors import SonoDistillError
from sonodistill.files import sha256, write_text
from sonodistill.models import INDEX, SCHEMA, Model, Part, catalogue
from sonodistill.weights_header import KINDS
from sonodistill_training.corpus import registry

FILE_LIMIT, FOLDER_LIMIT = 60_000_000, 150_000_000
"""Bytes of one file, and of all."""
PAGE = "README.md"
_INTRODUCTION = """\
# Models

Research use only; not a medical device. Every entry point takes a name of this table in the place of a path, and
`sonodistill weights show NAME` prints what a file says of itself. What they are for, and how well they do:
[the model card](../docs/model_card.md). `train.yaml` leaves its `model.safetensors` and `model.pt` here too, which are
not part of the bundle.
"""
_NONE = "\nNone are shipped yet: `sonodistill weights ship` puts one here.\n"


class SizeError(SonoDistillError):
    """A model that is too large for the folder that ships with the code."""


def part_of(path: Path, name: str | None = None) -> Part:
    """A file as the index has it, under its own name or another."""
    return Part(name or path.name, path.stat().st_size, sha256(path))


def require_sizes(models: Iterable[Model]) -> None:
    """Refuse a file or a folder that is too large.

    Raises:
        SizeError: with what it has and may have.
    """
    parts = {part.file: part for model in models for part in model.parts}
    for part in parts.values():
        if part.bytes > FILE_LIMIT:
            raise SizeError(
                f"{part.file} has {part.bytes / 1e6:.1f} MB, and a shipped file {FILE_LIMIT / 1e6:.0f} MB at most",
                remedy="take a smaller encoder, or share one: --encoder NAME",
            )
    total = sum(part.bytes for part in parts.values())
    if total > FOLDER_LIMIT:
        raise SizeError(
            f"the models would have {total / 1e6:.1f} MB together, and they may have {FOLDER_LIMIT / 1e6:.0f} MB",
            remedy="share an encoder (--encoder NAME), or take a model out of the folder and its index",
        )


def with_model(folder: Path, model: Model) -> tuple[list[Model], list[Model]]:
    """The folder's models with one more, or another under its name, in the order of the index; and those that go.

    An exported twin goes when the file that it was made from is replaced by another.
    """
    models = catalogue(folder)
    before = models.get(model.name)
    replaced = before is not None and before.part.sha256 != model.part.sha256
    stale = [one for one in models.values() if replaced and one.name.startswith(f"{model.name}.")]
    kept = {**models, model.name: model}
    listed = [one for one in kept.values() if one not in stale]
    return sorted(listed, key=lambda one: (KINDS.index(one.kind), one.name)), stale


def write_index(folder: Path, models: Iterable[Model]) -> None:
    """Write the index, and the page with the same table."""
    models = list(models)
    text = json.dumps({"schema": SCHEMA, "models": [_entry(model) for model in models]}, indent=1, ensure_ascii=False)
    write_text(folder / INDEX, text + "\n")
    write_text(folder / PAGE, page(models))


def page(models: Iterable[Model]) -> str:
    """The page of a folder of models, as Markdown: a table, and who is to be named for the data."""
    models = list(models)
    if not models:
        return _INTRODUCTION + _NONE
    lines = ["", "| name | what | network | input | labels | MB | trained on |", "|---|---|---|---|---|---|---|"]
    for model in models:
        size = " x ".join(map(str, model.input_size)) if model.input_size else "any"
        network = model.architecture + (f", encoder in `{model.encoder}`" if model.encoder else "")
        megabytes = sum(part.bytes for part in model.parts) / 1e6
        cells = [f"`{model.name}`", model.title, network, size, ", ".join(model.labels) or "-", f"{megabytes:.1f}"]
        lines.append(f"| {' | '.join([*cells, ', '.join(model.data)])} |")
    total = sum(part.bytes for part in {part.file: part for one in models for part in one.parts}.values())
    lines += ["", f"{total / 1e6:.1f} MB together.", "", "## Data", ""]
    lines += [f"- `{key}`: {_attribution(key, licence)}" for key, licence in sorted(_data(models).items())]
    notices = sorted({model.licence_notice for model in models if model.licence_notice})
    if notices:
        lines += ["", "## Notices", "", *(f"- {notice}" for notice in notices)]
    return _INTRODUCTION + "\n".join(lines) + "\n"


def _data(models: Iterable[Model]) -> dict[str, str]:
    return {key: licence for model in models for key, licence in model.data.items()}


def _attribution(key: str, licence: str) -> str:
    entry = registry.data_sets().get(key)
    if entry is None:
        return f"{licence}."
    return (
        f"{entry.name}. {entry.citation} {entry.url} {licence}, changed: frames were cropped, resized and learnt from."
    )


def _entry(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": model.title,
        "kind": model.kind,
        "architecture": model.architecture,
        "labels": list(model.labels),
        "input_size": list(model.input_size) if model.input_size else None,
        **_part(model.part),
        "encoder": model.encoder,
        "more": [_part(part) for part in model.more],
        "data": dict(model.data),
        "licences": list(model.licences),
        "licence_notice": model.licence_notice,
        "metrics": {name: value if math.isfinite(value) else None for name, value in model.metrics.items()},
    }


def _part(part: Part) -> dict[str, Any]:
    return {"file": part.file, "bytes": part.bytes, "sha256": part.sha256}
