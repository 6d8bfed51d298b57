"""Export one checkpoint to one target: write, check, sign, and only then put it in its place."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill.files import sha256
from sonodistill.inference.exported import ExportInfo
from sonodistill.inference.scored import Scored, load_score
from sonodistill.networks.checkpoint import load_network
from sonodistill.transforms.geometry import Size
from sonodistill.weights_header import WeightsInfo
from sonodistill_training.export.check import (
    Array,
    ExportCheckError,
    Limits,
    compare,
    compare_scores,
    outputs,
    require,
    require_scores,
    run,
)
from sonodistill_training.export.frames import CalibrationError, FrameSet, evenly
from sonodistill_training.export.network import fold_stem
from sonodistill_training.export.targets import Target, companion_paths

logger = logging.getLogger(__name__)

DEFAULT_SIZE = 256
_CHECKED = {"fp32": 16}
_CHECKED_AT_MOST = 100


class ExportError(SonoDistillError):
    """The toolchain of a target failed."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint that is ready for export to any number of targets.

    Attributes:
        network: as it was trained, eval mode, float32: what every export is compared with.
        folded: what is exported, see :func:`fold_stem`.
        info: the checkpoint's header.
        sha256: of the checkpoint.
        size: (height, width) of the input, pixels.
        frames: for calibration and check.
        reference: the network's output on the frames of the check.
        scored: ``folded`` with the warning score of the checkpoint; None for one without.
        scores: the score of the frames of the check.
    """

    network: nn.Module
    folded: nn.Module
    info: WeightsInfo
    sha256: str
    size: Size
    frames: FrameSet
    reference: Array
    scored: nn.Module | None = None
    scores: Array | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written.

    Attributes:
        target: what it is.
        path: of the file that is opened.
        megabytes: of it and its companions, 10^6 bytes.
        info: what it says of itself, with the figures of its check.
    """

    target: Target
    path: Path
    megabytes: float
    info: ExportInfo


def prepare(
    checkpoint: str | Path,
    frames: Callable[[Size], FrameSet],
    *,
    size: Size | None = None,
    labels: Sequence[str] | None = None,
    familiarity: bool = True,
) -> Source:
    """Load a checkpoint and compute what exports of it are compared with.

    Args:
        checkpoint: .safetensors of ours.
        frames: gives the frames for a size: :func:`default_frames`, or one made of :func:`given_frames`.
        size: of the exported input; by default what the checkpoint was trained at, else 256 x 256.
        labels: in place of the checkpoint's.
        familiarity: whether the exports warn of unfamiliar frames, where the checkpoint does.

    Raises:
        WeightsError: the checkpoint is not what it says, or does not take this size.
        CalibrationError: there are too few frames.
    """
    network, info = load_network(checkpoint, labels)
    size = size or info.input_size or (DEFAULT_SIZE, DEFAULT_SIZE)
    encoder: Any = getattr(network, "encoder", network)
    if size[0] % encoder.input_multiple or size[1] % encoder.input_multiple:
        raise WeightsError(
            f"cannot be exported for {size[0]} x {size[1]} pixels",
            path=checkpoint,
            remedy=f"take multiples of {encoder.input_multiple}: --input-size {DEFAULT_SIZE}",
        )
    found = frames(size)
    found = replace(found, check=tuple(found.check[i] for i in evenly(len(found.check), _CHECKED_AT_MOST)))
    try:
        reference = outputs(network, found.check)
    except (RuntimeError, AssertionError) as error:
        raise WeightsError(
            f"{info.architecture} does not run at {size[0]} x {size[1]} pixels ({str(error)[:120]})", path=checkpoint
        ) from error
    folded, score = fold_stem(network, size), load_score(checkpoint, network, info) if familiarity else None
    source = Source(network, folded, info, sha256(checkpoint), size, found, reference)
    if score is None:
        return source
    scores = outputs(Scored(network, score).eval(), found.check, 1)
    return replace(source, scored=Scored(folded, score).eval(), scores=scores)


def export(
    source: Source,
    target: Target,
    out: str | Path,
    *,
    precision: str | None = None,
    limits: Limits | None = None,
    unchecked: bool = False,
) -> Exported:
    """Write ``source`` to ``out`` in the target's format. The file appears when its check has passed, or not at all.

    With ``unchecked`` also where it cannot be run on this machine; its metadata then have no check.

    Raises:
        SonoDistillError: the target has no such precision, or the file name another suffix.
        CalibrationError: an int8 target, and no frames were given.
        ToolchainMissingError: a package of the target is not installed.
        UnsupportedOperatorError: the format lacks an operator of the network.
        ExportError: its toolchain failed in another way.
        ExportCheckError: the file says something else than the network.
    """
    out = Path(out)
    precision = precision or target.precisions[0]
    if precision not in target.precisions:
        raise SonoDistillError(
            f"{target.name} is not written in {precision}", remedy=f"it is in {', '.join(target.precisions)}"
        )
    if out.suffix != target.suffix:
        raise SonoDistillError(f"a file of {target.name} ends in {target.suffix}", path=out, remedy="rename it")
    if precision == "int8" and not source.frames.calibration:
        raise CalibrationError(
            f"{target.name} is calibrated on real frames, and none were given",
            remedy="give --frames ultrasound files, folders or a corpus",
        )
    if not target.can_run and not unchecked:
        raise ExportCheckError(
            f"{target.name} cannot be run on this machine, so what is written cannot be checked",
            path=out,
            remedy="export it on macOS, or take the file as it is: --unchecked",
        )
    # Where a file cannot have the score, its header does not promise one.
    with_score = source.scored is not None and target.scored
    if source.scored is not None and not with_score:
        logger.warning("%s has one output: the file does not warn of unfamiliar frames", target.name)
    info = ExportInfo(
        weights=source.info if with_score else replace(source.info, familiarity={}),
        target=target.name,
        precision=precision,
        input_size=source.size,
        weights_sha256=source.sha256,
        calibration=source.frames.account() if precision == "int8" else {},
        tools=_versions(("sonodistill", "torch", *target.packages)),
    )
    try:
        with placed(out, target) as path:
            _write(source, target, path, info)
            if target.can_run:
                info = _checked(source, target, path, info, limits or Limits(), out)
    except OSError as error:
        raise ExportError(
            f"cannot be written ({error.strerror or error})", path=out, remedy="free space, or name another --out"
        ) from error
    files = [out, *companion_paths(out, target)]
    return Exported(target, out, sum(map(_bytes, files)) / 1e6, info)


def _write(source: Source, target: Target, path: Path, info: ExportInfo) -> None:
    try:
        target.write(_network(source, info), path, info, source.frames.calibration)
    except (SonoDistillError, OSError):
        raise
    # As wide as this: eight toolchains raise what they like, and a batch of targets goes on after each.
    except Exception as error:
        logger.info("%s failed", target.name, exc_info=True)
        first = (str(error).strip().splitlines() or [""])[0][:200]
        raise ExportError(
            f"{target.name} cannot write this {source.info.architecture} ({type(error).__name__}: {first})",
            remedy="choose another target; `sonodistill --verbose export` tells more",
        ) from error


def _network(source: Source, info: ExportInfo) -> nn.Module:
    return source.scored if info.weights.familiarity and source.scored is not None else source.folded


def _checked(source: Source, target: Target, path: Path, info: ExportInfo, limits: Limits, out: Path) -> ExportInfo:
    """``info`` with the figures of the check, as the file says it from now on."""
    places = evenly(len(source.frames.check), _CHECKED.get(info.precision, _CHECKED_AT_MOST))
    frames = [source.frames.check[place] for place in places]
    reference = source.reference[places]
    opened = target.open(path)
    found = run(opened, frames)
    figures = compare(source.info.kind, reference, found)
    require(source.info.kind, info.precision, reference, figures, limits, out)
    if info.weights.familiarity and source.scores is not None:
        figures |= compare_scores(source.scores[places], run(opened, frames, 1))
        require_scores(info.precision, figures, out)
    info = replace(info, check=figures)
    target.stamp(_network(source, info), path, info)
    again = target.open(path)
    if again.info != info or not np.array_equal(again(frames[0][None]), found[:1]):
        raise ExportCheckError("is not the same any more after its metadata were added", path=out)
    return info


@contextmanager
def placed(out: Path, target: Target) -> Iterator[Path]:
    """A path in an empty folder beside ``out``; what lies there at the end takes the place of what was there before.

    Of an export in several files the one that is opened goes first and comes last, so that there is never one of an
    export with the others of another. Where that fails, what was there before is put back.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp"))
    try:
        made = folder / out.name
        yield made
        companions = [(path, folder / path.name) for path in companion_paths(out, target)]
        for path in (made, *(new for _, new in companions)):
            if not path.exists():
                raise ExportError(f"the toolchain of {target.name} wrote no {path.name}", path=out)
            _settle(path)
        _replace([(out, made), *companions], folder / "before")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _settle(path: Path) -> None:
    """On disk, and readable for others."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            file.chmod(0o644)
            with file.open("r+b") as written:
                os.fsync(written.fileno())


def _replace(pairs: Sequence[tuple[Path, Path]], before: Path) -> None:
    """Put each new file in its place, the first one last; what was there goes to the folder ``before`` meanwhile."""
    before.mkdir()
    kept = []
    try:
        for path, _ in pairs:
            if path.exists():
                path.rename(before / path.name)
                kept.append(path)
        for path, new in reversed(pairs):
            new.rename(path)
    except OSError:
        for path, new in pairs:
            if not new.exists() and path.exists():
                path.rename(new)
        for path in kept:
            (before / path.name).rename(path)
        raise


def _bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found
