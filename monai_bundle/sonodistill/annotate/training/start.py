"""What a training starts from: the current version of the model, or the encoder of another."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonodistill.annotate.errors import ConflictError
from sonodistill.annotate.training.labelled import TrainingSet
from sonodistill.annotate.training.state import TrainSettings
from sonodistill.annotate.training.version_files import CHECKPOINT, copy_encoder
from sonodistill.annotate.training.versions import Version
from sonodistill.annotate.workbench import CLASSIFICATION, EMBEDDING, INTERACTIVE, SEGMENTATION, Workbench
from sonodistill.errors import WeightsError


@dataclass(frozen=True, slots=True)
class Start:
    """What a training starts from.

    Attributes:
        weights: the network itself, or a file whose encoder is taken.
        name: for the record, "segmentation 3".
        sha256: of the version.
        architecture: of the encoder.
        overrides: of the config: the input size and width of a network that is trained further.
    """

    weights: Path
    name: str
    sha256: str
    architecture: str
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A training that was asked for.

    Attributes:
        workbench: whose labels and versions are used.
        model: that is trained.
        settings: of the training.
        data: that it is trained and judged on.
        start: the weights it starts from.
        run: folder of its checkpoints.
    """

    workbench: Workbench
    model: str
    settings: TrainSettings
    data: TrainingSet
    start: Start
    run: Path


def find_start(workbench: Workbench, model: str, data: TrainingSet, folder: Path) -> Start:
    """The model's current version, else the encoder of embedding, else that of whichever model has one."""
    own = workbench.versions[model].current()
    if own is not None and own.path.suffix == CHECKPOINT and _goes_on(own, model, data, workbench.labels.names):
        return _started(own, model, own.path, further=True)
    for name in dict.fromkeys((EMBEDDING, model, SEGMENTATION, CLASSIFICATION, INTERACTIVE)):
        version = workbench.versions[name].current()
        if version is None or version.path.suffix != CHECKPOINT:
            continue
        if name == EMBEDDING:
            return _started(version, name, version.path)
        return _started(version, name, copy_encoder(version.path, folder / "encoder.safetensors"))
    raise ConflictError(
        f"there are no weights to start {model} from",
        remedy=f"start the server with --embedding FILE or --{model} FILE (.safetensors)",
    )


def _goes_on(own: Version, model: str, data: TrainingSet, names: tuple[str, ...]) -> bool:
    """Whether the outputs of the current version are those that are to be trained."""
    if model == SEGMENTATION:
        return own.labels == names or len(own.labels) == len(names) == 1
    return model == INTERACTIVE or own.labels == data.classes


def _started(version: Version, name: str, weights: Path, *, further: bool = False) -> Start:
    from safetensors import safe_open

    from sonodistill.weights import read_info

    info = read_info(version.path)
    if info is None:
        raise WeightsError("this safetensors file has no SonoDistill header", path=version.path)
    overrides: dict[str, Any] = {}
    if further and info.input_size is not None:
        overrides["input_size"] = list(info.input_size)
    if further and info.kind == "interactive":
        with safe_open(version.path, framework="np") as file:
            overrides["width"] = int(file.get_slice("features.weight").get_shape()[0])
    return Start(weights, f"{name} {version.number}", version.sha256, info.architecture, overrides)
