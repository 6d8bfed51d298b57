"""What is to be evaluated: every combination that was asked for, as cells, in an order that computes features once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonodistill.errors import BundleConfigError
from sonodistill.networks.pyramid import HIERARCHICAL, family, input_multiple
from sonodistill_training.evaluate.data import LabelledSet, read_set
from sonodistill_training.evaluate.divide import Division, divide
from sonodistill_training.evaluate.encoders.load import load_encoder
from sonodistill_training.evaluate.encoders.spec import EncoderSpec, parse_encoder
from sonodistill_training.evaluate.learning.recipes import recipe
from sonodistill_training.evaluate.results import PROTOCOLS, Cell, Task

TASKS = ("segmentation", "classification")
_OF_TASK = {
    "segmentation": ("linear", "frozen_encoder_unet", "finetune"),
    "classification": ("knn", "linear", "finetune"),
}
_PROBE_SIZE = 224  # a multiple of every usual patch: 14, 16 and 32 pixels
# Maps that a decoder needs are computed before what follows from them.
_TURN = ("frozen_encoder_unet", "linear", "knn", "finetune")


@dataclass(frozen=True, slots=True)
class Request:
    """One combination, for all its runs.

    Attributes:
        encoder: name of one of the encoders.
        task, data, protocol: as in a :class:`Cell`.
        head: as in a cell; None for the protocol's usual one.
        recipe: "paper", "vit" or "paper_b".
        fraction, shots: of labelled frames; a number of shots is in the place of a fraction.
    """

    encoder: str
    task: Task
    data: str
    protocol: str
    head: str | None = None
    recipe: str = "paper"
    fraction: float = 1.0
    shots: int = 0


@dataclass(frozen=True)
class Settings:
    """What holds for all cells.

    Attributes:
        seeds: runs of each combination, with the seeds 0, 1, ...; where only a part of the frames is labelled, each
            run draws another part.
        split, split_seed: as for :func:`divide`.
        precision: "bf16" or "fp32", what the device computes in.
        changes: settings of the recipes to change ("epochs", "epoch_steps", "batch_size", "learning_rate",
            "input_size", "augment").
    """

    seeds: int = 5
    split: str = "auto"
    split_seed: int = 0
    precision: str = "fp32"
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Planned:
    """A cell with its encoder and frames."""

    cell: Cell
    spec: EncoderSpec
    data: LabelledSet
    division: Division

    @property
    def frozen_key(self) -> tuple[Any, ...]:
        """What the features of a frozen encoder follow from."""
        seed = self.cell.seed if self.spec.is_random else None
        size = self.data.input_size  # the hash of the data is the same for every size
        return self.spec.name, self.cell.weights, self.cell.data, self.data.sha256, size, self.cell.precision, seed


def requests(
    encoders: Iterable[str],
    sources: Iterable[str],
    tasks: Sequence[str],
    protocols: Sequence[str],
    *,
    heads: Sequence[str] = (),
    recipes: Sequence[str] = ("paper",),
    fractions: Sequence[float] = (1.0,),
    shots: Sequence[int] = (),
) -> list[Request]:
    """Every combination that makes sense: no neighbours of masks, no decoder for classes.

    Raises:
        BundleConfigError: a word that is no task or protocol, or nothing left to do.
    """
    _require("task", tasks, TASKS)
    _require("protocol", protocols, PROTOCOLS)
    amounts = [(fraction, 0) for fraction in fractions] + [(1.0, number) for number in shots]
    made = [
        Request(encoder, task, source, protocol, head, of, fraction, number)  # type: ignore[arg-type]
        for source in sources
        for task in tasks
        for protocol in protocols
        if protocol in _OF_TASK[task]
        for encoder in encoders
        for head in _heads(heads, task, protocol)
        for of in recipes
        for fraction, number in amounts
    ]
    if not made:
        raise BundleConfigError(
            "nothing to evaluate", remedy=f"protocols are {', '.join(f'{t}: {p}' for t, p in _OF_TASK.items())}"
        )
    return made


def plan(
    wanted: Iterable[Request],
    encoders: Mapping[str, EncoderSpec],
    folders: Mapping[str, str | Path],
    settings: Settings,
    cache: str | Path,
) -> list[Planned]:
    """The cells of the requests, those that share features beside each other.

    Args:
        wanted: requests; their encoders and data are named in the next two.
        encoders: by the name that the requests use.
        folders: of the data sets.
        cache: folder for frames that were read.

    Raises:
        SonoDistillError: an encoder, a data set or a split that cannot be had.
    """
    if settings.seeds < 1:
        raise BundleConfigError(f"{settings.seeds} seeds", remedy="give 1 or more")
    sets: dict[tuple[str, int], LabelledSet] = {}
    kinds: dict[str, tuple[str, int]] = {}
    keys = {name: spec.key() for name, spec in encoders.items()}
    planned: list[Planned] = []
    for request in wanted:
        spec = encoders[request.encoder]
        if spec.name not in kinds:
            kinds[spec.name] = _kind(spec)
        kind, multiple = kinds[spec.name]
        made = recipe(request.recipe, request.task, request.shots, **settings.changes)
        size = max(1, made.input_size // multiple) * multiple
        # Only a transformer's blocks have the order that paper B's layer decay goes by.
        decay = {"layer_decay": 1.0} if request.recipe == "paper_b" and kind == HIERARCHICAL else {}
        made = replace(made, input_size=size, **decay)
        if (request.data, size) not in sets:
            sets[request.data, size] = read_set(request.data, folders[request.data], size, cache)
        data = sets[request.data, size]
        division = divide(data, request.task, settings.split, settings.split_seed)
        partial = request.shots > 0 or request.fraction < 1
        runs = 1 if request.protocol == "knn" and not partial and not spec.is_random else settings.seeds
        for run in range(runs):
            cell = Cell(
                encoder=spec.name,
                weights=keys[request.encoder],
                task=request.task,
                data=request.data,
                data_sha256=division.sha256,
                protocol=request.protocol,
                head=request.head or _usual_head(request.task, request.protocol, kind, request.recipe),
                recipe=made,
                precision=settings.precision,
                fraction=1.0 if request.shots else request.fraction,
                shots=request.shots,
                draw=run if partial else 0,
                seed=run,
            )
            planned.append(Planned(cell, spec, data, division))
    unique = {item.cell.key: item for item in planned}
    first = {item.frozen_key: place for place, item in reversed(list(enumerate(planned)))}
    return sorted(unique.values(), key=lambda item: (first[item.frozen_key], _TURN.index(item.cell.protocol)))


def parse_sources(texts: Iterable[str]) -> dict[str, Path]:
    """``NAME=FOLDER`` texts by name.

    Raises:
        BundleConfigError: no name, or one twice.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder or name in found or not name.replace("_", "").replace("-", "").isalnum():
            raise BundleConfigError(f"{text!r} names no data set", remedy="write NAME=FOLDER, each name once")
        found[name] = Path(folder)
    return found


def parse_encoders(texts: Iterable[str]) -> dict[str, EncoderSpec]:
    """Encoders by name.

    Raises:
        BundleConfigError, WeightsError: as :func:`parse_encoder` raises them, or two of one name.
    """
    found: dict[str, EncoderSpec] = {}
    for text in texts:
        spec = parse_encoder(text)
        if spec.name in found:
            raise BundleConfigError(f"two encoders are called {spec.name}", remedy="write NAME:ARCHITECTURE=FILE")
        found[spec.name] = spec
    return found


def _kind(spec: EncoderSpec) -> tuple[str, int]:
    """The family of an encoder's pyramid, and what its input has to be a multiple of."""
    encoder = load_encoder(spec, input_size=_PROBE_SIZE)
    return family(encoder), input_multiple(encoder)


def _usual_head(task: str, protocol: str, kind: str, recipe_name: str) -> str:
    if protocol in ("knn", "linear") or task == "classification":
        return "knn" if protocol == "knn" else "linear"
    if kind == HIERARCHICAL:
        return "unet"
    return "upernet" if recipe_name == "paper_b" else "light"


def _heads(heads: Sequence[str], task: str, protocol: str) -> Sequence[str | None]:
    return heads if heads and task == "segmentation" and protocol in ("frozen_encoder_unet", "finetune") else (None,)


def _require(what: str, words: Sequence[str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known:
            raise BundleConfigError(f"no {what} is called {word}", remedy=f"choose from {', '.join(known)}")
