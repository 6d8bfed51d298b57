"""The models that come with the bundle, by name. Nothing here needs torch."""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sonodistill import home
from sonodistill.errors import WeightsError
from sonodistill.weights_header import KINDS

INDEX = "index.json"
SCHEMA = 1
"""Of the index; a later one is refused. Entries may get further fields without a new schema."""
FOLDER_VARIABLE = "SONODISTILL_MODELS"

SEGMENTATION, CLASSIFICATION, INTERACTIVE, EMBEDDING = "segmentation", "classification", "interactive", "embedding"
DEFAULTS = {
    SEGMENTATION: "breast-lesion",
    CLASSIFICATION: "breast-class",
    INTERACTIVE: "clicks",
    EMBEDDING: "resnet18-us",
}
"""What is done -> the model that does it where none is named."""
RANDOM, IMAGENET = "random", "imagenet"
"""What may stand in the place of an encoder's weights."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_INDEX = 1 << 20
_TWINS = ((".onnx", "onnxruntime"), (".xml", "openvino"))
_REMEDY = "copy the folder of models again, or leave it out"


@dataclass(frozen=True, slots=True)
class Part:
    """A file: its name in the folder of models, its size in bytes, and the hex SHA-256 of its bytes."""

    file: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Model:
    """A model of the catalogue.

    Attributes:
        name: what it is called on the command line.
        folder: where its files lie.
        part: its file.
        kind: "encoder", "segmenter", "classifier" or "interactive".
        architecture: timm name of the encoder.
        title: in a few words, for people.
        labels: of its channels or classes.
        input_size: (height, width) in pixels, or None.
        encoder: file that holds its encoder, "" where its own does.
        more: further files that belong to it, such as OpenVINO's ``.bin``.
        data: data set of the training -> its licence; keys are those of ``sonodistill datasets``.
        licences: of all data it was trained on.
        licence_notice: what has to go along with it.
        metrics: what was measured on it, by name.
    """

    name: str
    folder: Path
    part: Part
    kind: str
    architecture: str
    title: str = ""
    labels: tuple[str, ...] = ()
    input_size: tuple[int, int] | None = None
    encoder: str = ""
    more: tuple[Part, ...] = ()
    data: Mapping[str, str] = field(default_factory=dict)
    licences: tuple[str, ...] = ()
    licence_notice: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """Of its file."""
        return self.folder / self.part.file

    @property
    def parts(self) -> tuple[Part, ...]:
        """Its own files, without that of a shared encoder."""
        return (self.part, *self.more)

    @property
    def here(self) -> bool:
        """Whether every file that it needs is there."""
        names = [part.file for part in self.parts] + ([self.encoder] if self.encoder else [])
        return all((self.folder / name).is_file() for name in names)


def folder() -> Path:
    """Where the models lie: $SONODISTILL_MODELS, else ``models`` of the bundle of this installation."""
    given = os.environ.get(FOLDER_VARIABLE)
    return Path(given) if given else home.bundle() / "models"


def catalogue(where: str | Path | None = None) -> dict[str, Model]:
    """The models of a folder by name, in the order of its index; empty where it has no index.

    Args:
        where: the folder, by default :func:`folder`.

    Raises:
        WeightsError: the index cannot be read.
    """
    home = folder() if where is None else Path(where)
    path = home / INDEX
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > _MAX_INDEX:
            raise ValueError(f"it is longer than {_MAX_INDEX} bytes")
        said = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(said, dict) or said.get("schema") != SCHEMA:
            found = said.get("schema") if isinstance(said, dict) else None
            raise ValueError(f"its schema is {found!r:.20}, not {SCHEMA}")
        models = [_model(home, entry) for entry in said["models"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found = f"the index of the models cannot be read ({type(error).__name__}: {str(error)[:160]})"
        raise WeightsError(found, path=path, remedy=_REMEDY) from error
    by_name = {model.name: model for model in models}
    if len(by_name) != len(models):
        raise WeightsError("the index of the models has a name twice", path=path, remedy=_REMEDY)
    return by_name


def resolve(name_or_path: str | Path, torch: bool | None = None) -> Path:
    """The file of a model.

    Args:
        name_or_path: a path that exists, which is returned as it is, or a name of the catalogue.
        torch: whether the file may need torch; None: where torch is installed. Without it a checkpoint's exported twin
            is taken, ``NAME.onnx`` or ``NAME.*.xml``.

    Raises:
        WeightsError: neither a path nor a name; or a model whose files are not all there.
    """
    path = Path(name_or_path)
    if path.exists():
        return path
    models = catalogue()
    model = models.get(str(name_or_path))
    if model is None:
        raise _unknown(str(name_or_path), models)
    if model.path.suffix == ".safetensors" and not (_installed("torch") if torch is None else torch):
        model = _twin(model, models)
    if not model.here:
        raise WeightsError(
            f"the files of the model {model.name} are not all there",
            path=model.path,
            remedy="copy the folder of models again",
        )
    return model.path


def path_of(name_or_path: str | Path, torch: bool | None = None) -> Path:
    """As :func:`resolve`, but a path that does not exist is returned as it is: whoever opens it says what is wrong.

    Raises:
        WeightsError: a bare word that is no name, where there are models; or a model whose files are not all there.
    """
    text, models = str(name_or_path), catalogue()
    if text in models or (models and NAME.fullmatch(text) and "." not in text):
        return resolve(text, torch)
    return Path(name_or_path)


def weights_of(setting: str | Path | None) -> str | Path | None:
    """What an encoder begins with: None for random weights (None or "random"), "imagenet", or a file.

    Raises:
        WeightsError: see :func:`path_of`.
    """
    if setting in (None, RANDOM):
        return None
    return IMAGENET if setting == IMAGENET else path_of(str(setting), torch=True)


def default(task: str, torch: bool | None = None) -> Path | None:
    """The file of the model that does a task of :data:`DEFAULTS`; None where it is not shipped or cannot be run here.

    Raises:
        WeightsError: the index cannot be read.
    """
    model = catalogue().get(DEFAULTS[task])
    if model is None or not model.here:
        return None
    try:
        return resolve(model.name, torch)
    except WeightsError:  # there is no torch, and no twin
        return None


def encoder_of(architecture: str) -> Path | None:
    """The file of the shipped encoder of an architecture, named as timm does; None where there is none."""
    wanted = architecture.split(".")[0]
    for model in catalogue().values():
        if model.kind == "encoder" and model.architecture.split(".")[0] == wanted and model.here:
            return model.path if model.path.suffix == ".safetensors" else None
    return None


def _twin(model: Model, models: Mapping[str, Model]) -> Model:
    """The exported form of a checkpoint that a runtime which is installed reads."""
    for suffix, package in _TWINS:
        for other in models.values():
            if other.name.startswith(f"{model.name}.") and other.path.suffix == suffix and _installed(package):
                return other
    raise WeightsError(
        f"the model {model.name} needs torch, and no exported twin of it is shipped that runs here",
        path=model.path,
        remedy="pip install 'sonodistill[torch]', or give an exported model",
    )


def _unknown(text: str, models: Mapping[str, Model]) -> WeightsError:
    if not models:
        return WeightsError("there is no such file", path=text, remedy="give the path of a weights file")
    near = difflib.get_close_matches(text, models, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return WeightsError(
        "there is no such file, and no shipped model of this name",
        path=text,
        remedy=f"{hint}Give the path of a weights file, or one of {', '.join(models)}",
    )


def _installed(package: str) -> bool:
    return find_spec(package) is not None


def _model(home: Path, said: Any) -> Model:
    """ValueError, KeyError or TypeError for an entry that is not what it has to be; unknown fields are ignored."""
    size = said.get("input_size")
    if said["kind"] not in KINDS:
        raise ValueError(f"{said['kind']!r:.40} is not one of {', '.join(KINDS)}")
    encoder = said.get("encoder", "")
    return Model(
        name=_matching(NAME, said["name"]),
        folder=home,
        part=_part(said),
        kind=said["kind"],
        architecture=_text(said["architecture"]),
        title=_text(said.get("title", "")),
        labels=tuple(_texts(said.get("labels", []))),
        input_size=None if size is None else (_whole(size[0]), _whole(size[1])),
        encoder=_matching(_FILE, encoder) if encoder else "",
        more=tuple(_part(one) for one in said.get("more", [])),
        data={_text(key): _text(licence) for key, licence in said.get("data", {}).items()},
        licences=tuple(_texts(said.get("licences", []))),
        licence_notice=_text(said.get("licence_notice", "")),
        metrics={_text(key): math.nan if one is None else float(one) for key, one in said.get("metrics", {}).items()},
    )


def _part(said: Any) -> Part:
    return Part(_matching(_FILE, said["file"]), _whole(said["bytes"]), _matching(_SHA256, said["sha256"]))


def _texts(values: Any) -> Iterator[str]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.40} is no list")
    return map(_text, values)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is no text")
    return value


def _matching(pattern: re.Pattern[str], value: Any) -> str:
    if not pattern.fullmatch(_text(value)):
        raise ValueError(f"{value!r:.60} is no name of this kind")
    return value


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r:.40} is no whole number from 1")
    return value
