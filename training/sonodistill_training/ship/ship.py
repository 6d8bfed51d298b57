"""A trained network into the folder of models: in half precision, checked, and with its entry in the index."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sonodistill.errors import WeightsError
from sonodistill.inference.predictor import Predictor
from sonodistill.models import Model, catalogue
from sonodistill.networks.checkpoint import PREDICTING, load_network
from sonodistill.networks.click import prompt_maps
from sonodistill.networks.encoder import Encoder, plain_state_dict
from sonodistill.weights import (
    NO_PART,
    StateDict,
    WeightsInfo,
    load_weights,
    read_info,
    read_metadata,
    save_head,
    save_weights,
    tensors_sha256,
)
from sonodistill.weights_header import encode
from sonodistill_training.export.frames import default_frames, evenly
from sonodistill_training.ship.index import part_of, require_sizes, with_model, write_index
from sonodistill_training.ship.terms import terms_of

SUFFIX = ".safetensors"
_TARGETS = {".onnx": "onnx", ".xml": "openvino-int8"}
_KINDS = (*PREDICTING, "interactive")
_SIZE = (256, 256)
_FRAMES = 4
_MOST = 0.01
"""How much an output may change by the cast, as a share of its norm; half precision keeps 11 bits, 0.0005."""


@dataclass(frozen=True, slots=True)
class Said:
    """What whoever ships a model says of it.

    Attributes:
        name: in the catalogue.
        title: in a few words.
        data, licences: see ``terms.terms_of``.
        metrics: measured on it, by name; added to those of its header.
    """

    name: str
    title: str = ""
    data: tuple[str, ...] = ()
    licences: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shipped:
    """What was made.

    Attributes:
        model: as the index has it.
        change: of its output by half precision, as a share of its norm; 0 for an exported one.
        dropped: exported twins of what was there under its name, which are gone.
    """

    model: Model
    change: float
    dropped: tuple[str, ...] = ()


def ship(checkpoint: str | Path, folder: str | Path, said: Said, encoder: str | Path | None = None) -> Shipped:
    """Put a network into a folder of models, under a name, and into its index; all of it or nothing.

    Args:
        checkpoint: encoder, segmenter, classifier or click segmenter of ours. Or an exported twin of a model that is
            in the folder, NAME.onnx or NAME.*.xml, whose terms it shares.
        folder: of the models.
        said: name, title, data.
        encoder: name or file of an encoder in the folder, which is the network's, bit for bit in half precision.

    Raises:
        WeightsError: no such file, one that half precision changes, or an encoder that is not the network's.
        LicenceError, DatasetError: see ``terms.terms_of``.
        SizeError: a file or the folder would be too large.
    """
    source, folder = Path(checkpoint), Path(folder)
    if source.suffix.lower() in _TARGETS:
        return _ship_exported(source, folder, said)
    network, info = load_network(source, kinds=_KINDS)
    state = _halved(network, load_weights(source)[0], source)
    shared = _encoder(encoder, folder) if encoder is not None else None
    terms = terms_of(info, said.data, said.licences, (shared or _of_corpus(info, folder)))
    name = f"{said.name}{SUFFIX}"
    _require_free(folder, said.name, name, state)
    more = {key: text for key, text in read_metadata(source).items() if key not in encode(info)}
    with _beside(folder) as aside:
        made = aside / name
        if shared is None:
            save_weights(made, state, info, more)
        else:
            shutil.copyfile(shared.path, aside / shared.part.file)
            try:
                save_head(made, state, info, aside / shared.part.file, more)
            except WeightsError as error:
                raise WeightsError(error.message, path=source, remedy=error.remedy) from error
        change = _change(network, load_network(made, kinds=_KINDS)[0], info)
        if not change <= _MOST:
            raise WeightsError(
                f"in half precision its output changes by {change:.1%} of its norm; at most {_MOST:.0%} are allowed",
                path=source,
                remedy="train it with weight decay or without very large weights",
            )
        model = Model(
            name=said.name,
            folder=folder,
            part=part_of(made),
            kind=info.kind,
            architecture=info.architecture,
            title=said.title or f"{info.kind} on {info.architecture}",
            labels=info.labels,
            input_size=info.input_size,
            encoder=shared.part.file if shared else "",
            data=terms.data,
            licences=terms.licences,
            licence_notice=info.licence_notice,
            metrics={**info.metrics, **said.metrics},
        )
        dropped = _finish(folder, model, aside)
    return Shipped(model, change, dropped)


def _ship_exported(source: Path, folder: Path, said: Said) -> Shipped:
    """An exported model has the terms of the one that it was made from, whose very file it names."""
    suffix = source.suffix.lower()
    models = catalogue(folder)
    base = next((one for one in models.values() if said.name.startswith(f"{one.name}.")), None)
    if base is None or not said.name.endswith(suffix):
        raise WeightsError(
            f"{said.name} is no name for an exported model",
            path=source,
            remedy=f"take the name of the shipped model that it was made from, and {suffix}: NAME{suffix}",
        )
    runtime = Predictor(source).runtime
    if runtime.info is None or runtime.info.weights_sha256 != base.part.sha256:
        raise WeightsError(
            f"it was not exported from the shipped {base.name}",
            path=source,
            remedy=f"export that file: sonodistill export {base.path} --to {_TARGETS[suffix]}",
        )
    with _beside(folder) as aside:
        made = aside / said.name
        pairs = [(source, made)]
        if suffix == ".xml":
            pairs.append((source.with_suffix(".bin"), made.with_suffix(".bin")))
        for old, new in pairs:
            shutil.copyfile(old, new)
        Predictor(made)  # under its new name, OpenVINO's pair of files too
        model = Model(
            name=said.name,
            folder=folder,
            part=part_of(made),
            kind=base.kind,
            architecture=base.architecture,
            title=said.title or f"{base.title}, {runtime.info.precision} for {runtime.info.target.partition('-')[0]}",
            labels=base.labels,
            input_size=runtime.info.input_size,
            more=tuple(part_of(new) for _, new in pairs[1:]),
            data=base.data,
            licences=base.licences,
            licence_notice=base.licence_notice,
            metrics=dict(said.metrics),
        )
        _finish(folder, model, aside)
    return Shipped(model, 0.0)


def _finish(folder: Path, model: Model, aside: Path) -> tuple[str, ...]:
    """Move the files of a model from ``aside`` into the folder and name it in the index, if there is room for it.

    Returns:
        The names of exported twins that are taken out, because they were made from another file than this.
    """
    models, stale = with_model(folder, model)
    require_sizes(models)
    for part in reversed(model.parts):
        made = aside / part.file
        made.chmod(0o644)
        with made.open("r+b") as written:
            os.fsync(written.fileno())
        made.replace(folder / part.file)
    write_index(folder, models)
    for part in (part for twin in stale for part in twin.parts):
        (folder / part.file).unlink(missing_ok=True)
    return tuple(twin.name for twin in stale)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".ship-"))
    try:
        yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _halved(network: nn.Module, state: StateDict, path: Path) -> StateDict:
    """The network's tensors, and those that only describe it as they are; counters stay whole numbers."""
    own = plain_state_dict(network) if isinstance(network, Encoder) else network.state_dict()
    halved = {key: value.half() if value.is_floating_point() else value for key, value in own.items()}
    lost = [key for key, value in halved.items() if not torch.isfinite(value).all()]
    if lost:
        raise WeightsError(
            f"{len(lost)} tensors are not finite in half precision ({lost[0]} ...)", path=path, remedy="train it again"
        )
    return {**halved, **{key: value for key, value in state.items() if key.startswith(NO_PART)}}


def _encoder(given: str | Path, folder: Path) -> Model:
    models = [model for model in catalogue(folder).values() if model.kind == "encoder"]
    for model in models:
        if str(given) == model.name or Path(given).resolve() == model.path.resolve():
            return model
    known = ", ".join(model.name for model in models) or "none"
    raise WeightsError(f"is no encoder of {folder}", path=given, remedy=f"ship it first; those that are there: {known}")


def _of_corpus(info: WeightsInfo, folder: Path) -> Model | None:
    """The shipped encoder of the same corpus, which a network began with that is stored whole."""
    for model in catalogue(folder).values():
        if model.kind == "encoder" and info.corpus_hash and model.here:
            header = read_info(model.path)
            if header is not None and header.corpus_hash == info.corpus_hash:
                return model
    return None


def _require_free(folder: Path, name: str, file: str, state: StateDict) -> None:
    """An encoder is not replaced by another one under models that were made with it."""
    using = [model.name for model in catalogue(folder).values() if model.encoder == file and model.name != name]
    if using and tensors_sha256(state) != tensors_sha256(load_weights(folder / file)[0]):
        raise WeightsError(
            f"{', '.join(using)} are made with the encoder that is there under this name",
            path=folder / file,
            remedy="take another name, or take those models out of the folder and its index first",
        )


@torch.inference_mode()
def _change(before: nn.Module, after: nn.Module, info: WeightsInfo) -> float:
    """The largest change of an output on real frames, as a share of its norm."""
    size = info.input_size or _SIZE
    frames = default_frames(size).check
    worst = 0.0
    for place in evenly(len(frames), _FRAMES):
        image = torch.from_numpy(frames[place])[None]
        inputs: Sequence[Any] = (image,)
        if info.kind == "interactive":
            clicked = prompt_maps(size, positive=[((size[1] - 1) / 2, (size[0] - 1) / 2)])
            inputs = (image, torch.from_numpy(clicked)[None])
        wanted, found = before(*inputs), after(*inputs)
        change = float((found - wanted).norm() / wanted.norm().clamp(min=1e-12))
        worst = max(worst, change) if change == change else float("inf")
    return worst
