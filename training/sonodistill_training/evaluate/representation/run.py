"""Representation analysis of several encoders: draw frames, embed, project, measure, write; nothing is done twice."""

from __future__ import annotations

import hashlib
import json
import re
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError, UnreadableFileError
from sonodistill.files import atomic_path, write_text
from sonodistill.networks.precision import use_bf16
from sonodistill.weights import tensors_sha256
from sonodistill_training.evaluate.representation.frames import DrawnFrame, draw
from sonodistill_training.evaluate.representation.numbers import (
    METRIC,
    NEIGHBOURS,
    cka_matrix,
    numbers,
    require_datasets,
    require_neighbours,
)
from sonodistill_training.evaluate.representation.projection import (
    KINDS,
    figure,
    points_table,
    project,
    require_kind,
    write_figure,
    write_points,
)
from sonodistill_training.evaluate.representation.table import markdown
from sonodistill_training.monitor.features import BATCH, NotFiniteError, embeddings, require_at_least, shrink

NUMBERS, TABLE, CACHE = "numbers.json", "numbers.md", "embeddings"
POINTS = ("points.parquet", "points.csv")
_VERSION = 1
_TAKEN = 32  # frames at a time, so that few lie in memory at their full size
_SHOWN_DIGITS = 16  # of a hash in the name of a cached file

Step = TypeVar("Step")
Encoders = Mapping[str, "nn.Module | Callable[[], nn.Module]"]


def analyse(
    encoders: Encoders,
    sources: Mapping[str, str | Path],
    out: str | Path,
    *,
    keys: Mapping[str, str] | None = None,
    anatomies: Mapping[str, str] | None = None,
    limit: int = 400,
    input_size: int = 224,
    seed: int = 0,
    neighbours: int = NEIGHBOURS,
    projections: Sequence[str] = tuple(KINDS),
    device: str | torch.device = "cpu",
    precision: str = "fp32",
) -> dict[str, Any]:
    """Embed the same frames with every encoder; write figures, points and numbers to ``out``, and return the numbers.

    What is there is used: an encoder whose embeddings lie in ``out/embeddings`` is not called again, and a run that is
    asked for the same as the last one leaves every file as it is.

    Args:
        encoders: by the name that is shown: a module from (B, 1, H, W) in [0, 1] to (B, C, h, w), or a function that
            makes one when it is needed. Modules are set to eval mode and moved to the device.
        sources: by the name of the data set: a folder with an ``index.csv`` (its columns dataset, anatomy and group
            are used), a corpus (folder or URI), or a folder laid out as the registry's data set of that name is
            published, of a video the first frame.
        out: the folder to write to.
        keys: what an encoder's embeddings follow from (the SHA-256 of its weights file, say), by name; without one
            the module's own tensors are hashed.
        anatomies: by data set, before what the index and the registry say.
        limit: frames of each data set at most, from as many groups as there are.
        input_size: pixels of the square that each frame is brought to.
        seed: of the draw, the projections and the order of the points.
        neighbours: of the purities.
        projections: "tsne", "umap".
        precision: of the encoders; in bfloat16 the rounding alone raises RankMe.

    Returns:
        the content of ``numbers.json``: ``data_sets``, ``encoders`` (see :func:`representation.numbers`), ``cka`` and
        ``cka_debiased``, ``confounded`` (every anatomy is of one data set, so that neither can be told from the other),
        ``files``, and the settings.

    Raises:
        DatasetError: one data set only, one in two sources, an unknown anatomy, fewer frames than neighbours.
        NotFiniteError: an encoder gives what is not a finite number.
        MissingPackageError: "umap" without umap-learn.
        BundleConfigError: no encoder, or a setting that cannot work.
        UnreadableFileError, UnsupportedFormatError: a frame or a cached file cannot be read.
    """
    _require_settings(encoders, projections, limit, input_size)
    out, device = Path(out), torch.device(device)
    bf16 = use_bf16(precision, device)
    frames = draw(sources, limit, seed, anatomies)
    columns = (
        [frame.dataset for frame in frames],
        [frame.anatomy for frame in frames],
        [frame.group for frame in frames],
    )
    require_datasets(columns[0])
    require_neighbours(columns[2], neighbours)

    content = _hash([frame.sha256 for frame in frames])
    loaded: dict[str, nn.Module] = {}
    own = {name: (keys or {}).get(name) or _own_key(_module(name, encoders, loaded)) for name in encoders}
    cached = {name: _hash(_VERSION, own[name], content, input_size, bf16) for name in encoders}
    key = _hash(_VERSION, list(cached.items()), columns, seed, neighbours, list(projections))
    done = _finished(out, key)
    if done is not None:
        return done

    images, found = _Images(frames, input_size), {}
    for name in encoders:
        found[name] = _cached(
            out / CACHE / f"{_slug(name)}-{cached[name][:_SHOWN_DIGITS]}.npz",
            lambda name=name: _embed(name, _module(name, encoders, loaded), images, device, precision),
        )
        loaded.pop(name, None)  # of encoders that are made when they are needed, one at a time lies in memory
    points = {kind: _projected(found, cached, kind, seed, out) for kind in projections}
    result = {
        "key": key,
        "frames": len(frames),
        "input_size": input_size,
        "seed": seed,
        "neighbours": neighbours,
        "metric": METRIC,
        **_described(*columns),
        "encoders": {name: numbers(found[name], *columns, neighbours) for name in _bar(found, "measuring")},
        "cka": cka_matrix(found),
        "cka_debiased": cka_matrix(found, debiased=True),
    }
    return _write(out, result, points, columns)


def _require_settings(encoders: Encoders, projections: Sequence[str], limit: int, input_size: int) -> None:
    if not encoders or not projections:
        raise BundleConfigError("no encoder or no projection to analyse", remedy="name one or more")
    require_at_least(1, limit=limit, input_size=input_size)
    for kind in projections:
        require_kind(kind)


def _write(
    out: Path,
    result: dict[str, Any],
    points: Mapping[str, Mapping[str, NDArray[np.float64]]],
    columns: tuple[list[str], list[str], list[str]],
) -> dict[str, Any]:
    """Write everything but the cache; returns the result with the names of the files."""
    pictures = [f"{kind}.{suffix}" for kind in points for suffix in ("svg", "png")]
    result = {**result, "files": [*pictures, *POINTS, TABLE]}
    for kind, of_kind in points.items():
        drawn = figure(of_kind, columns[0], columns[1], kind, result["seed"])
        for suffix in ("svg", "png"):
            write_figure(drawn, out / f"{kind}.{suffix}")
    table = points_table(points, *columns)
    for name in POINTS:
        write_points(table, out / name)
    write_text(out / TABLE, markdown(result))
    # Last: without this file the analysis is not finished.
    write_text(out / NUMBERS, json.dumps(result, indent=1, allow_nan=False) + "\n")
    return result


class _Images:
    """(N, 1, S, S) uint8 of the frames, read when the first encoder needs them."""

    def __init__(self, frames: Sequence[DrawnFrame], size: int) -> None:
        self._frames, self._size, self._images = frames, size, None  # type: ignore[var-annotated]

    def __call__(self) -> Tensor:
        if self._images is None:
            starts = range(0, len(self._frames), _TAKEN)
            parts = (self._frames[start : start + _TAKEN] for start in _bar(starts, "reading frames"))
            self._images = torch.cat([shrink((frame.load() for frame in part), self._size) for part in parts])
        return self._images


def _embed(name: str, encoder: nn.Module, images: _Images, device: torch.device, precision: str) -> NDArray[np.float32]:
    encoder = encoder.to(device).eval()
    parts = images().split(BATCH)
    multiple = getattr(encoder, "input_multiple", 1)
    if parts[0].shape[-1] % multiple:
        raise BundleConfigError(
            f"{name} takes inputs whose sides are multiples of {multiple}, not {parts[0].shape[-1]}",
            remedy="give an input size that suits every encoder (224 suits patches of 14 and 16)",
        )
    try:
        found = [embeddings(encoder, part, device, precision) for part in _bar(parts, f"embedding {name}")]
    except NotFiniteError as error:
        raise NotFiniteError(f"{name}: {error.message}", remedy=error.remedy) from error
    return np.concatenate(found).astype(np.float32)  # exact: they were computed in float32


def _projected(
    found: Mapping[str, NDArray[np.float64]], cached: Mapping[str, str], kind: str, seed: int, out: Path
) -> dict[str, NDArray[np.float64]]:
    points = {}
    for name in _bar(found, f"projecting by {KINDS[kind]}"):
        stored = out / CACHE / f"{_slug(name)}-{kind}-{_hash(cached[name], kind, seed)[:_SHOWN_DIGITS]}.npz"
        points[name] = _cached(stored, lambda name=name: project(found[name], kind, seed))
    return points


def _cached(path: Path, compute: Callable[[], NDArray[Any]]) -> NDArray[np.float64]:
    if not path.is_file():
        values = compute()
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, values=values)
    try:
        with np.load(path, allow_pickle=False) as stored:
            return stored["values"].astype(np.float64)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UnreadableFileError(
            f"holds no embeddings ({error})", path=path, remedy="remove it and run again"
        ) from error


def _finished(out: Path, key: str) -> dict[str, Any] | None:
    """The numbers of a run that was asked for the same and whose files are all there."""
    try:
        stored = json.loads((out / NUMBERS).read_text(encoding="utf-8"))
        whole = stored["key"] == key and all((out / name).is_file() for name in stored["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return stored if whole else None


def _described(datasets: list[str], anatomies: list[str], groups: list[str]) -> dict[str, Any]:
    triples = list(zip(datasets, anatomies, groups, strict=True))
    described = {
        name: {
            "frames": datasets.count(name),
            "groups": len({group for dataset, _, group in triples if dataset == name}),
            "anatomies": sorted({anatomy for dataset, anatomy, _ in triples if dataset == name}),
        }
        for name in sorted(set(datasets))
    }
    pairs = {(dataset, anatomy) for dataset, anatomy, _ in triples}
    return {"data_sets": described, "confounded": len(pairs) == len(set(anatomies))}


def _module(name: str, encoders: Encoders, loaded: dict[str, nn.Module]) -> nn.Module:
    if name not in loaded:
        given = encoders[name]
        loaded[name] = given if isinstance(given, nn.Module) else given()
    return loaded[name]


def _own_key(module: nn.Module) -> str:
    """Of a module's layers and tensors; of buffers also those that no state dict has (its input's mean)."""
    return _hash(repr(module), tensors_sha256({**dict(module.named_parameters()), **dict(module.named_buffers())}))


def _bar(steps: Collection[Step], description: str) -> Iterable[Step]:
    """The steps with a progress bar on a terminal; in a file a bar leaves blank lines."""
    console = Console()
    return track(steps, description, console=console, transient=True, disable=not console.is_terminal)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("_.") or "encoder"
