"""What the header of a weights file says, as an object, as plain JSON values, and as the strings that are stored."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sonodistill.errors import WeightsError

KINDS = ("encoder", "segmenter", "classifier", "interactive", "teacher")
MAX_CHARACTERS = 1 << 16
"""Of one entry: far more than a recipe needs, and too little to keep a reader busy."""
_MAX_DEPTH = 8
_MAX_NAME = 128
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_COUNT = 1 << 63


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """What a weights file holds and where it comes from.

    Attributes:
        kind: "encoder", "segmenter", "classifier", "interactive" or "teacher".
        architecture: timm name of the encoder ("resnet50").
        normalisation: (mean, std) of the gray input in [0, 1], each of one or three values.
        input_size: (height, width) in pixels the network was trained at, or None when it does not matter.
        labels: class names in channel order, background excluded; empty for an encoder.
        teacher: name of the teacher it was distilled from, empty when there was none.
        corpus_hash: hash of the manifest of the training corpus, empty when unknown.
        licence_notice: what has to go along with the weights ("Built with DINOv3 ...").
        origin: where the tensors were taken from when SonoDistill did not train them.
        version: version of SonoDistill that wrote the file.
        recipe: how it was trained (student, projector, objective, learning rate, seed ...), plain JSON values.
        corpus_licences: number of training frames by the licence of their data set; "unknown" where none is stated.
        corpus_restrictions: number of training frames by what their licence withholds ("non-commercial" ...).
        metrics: what was measured on it, by name. A measurement that failed is NaN, and null in the file.
        code_version: git commit of the code, "-dirty" when it was changed since; empty outside a checkout.
        encoder_file: name of the file beside this one that holds the tensors of its encoder, empty where they are here.
        encoder_sha256: digest of that file's tensors.
        familiarity: what the warning score of its tensors ``familiarity.*`` was fitted to (data, frames, quantile,
            version); empty for a file without, see :mod:`sonodistill.inference.familiarity`.
        cost: of the training that wrote it: seconds by the clock, and of them on each hardware; empty when unknown.

    Raises:
        WeightsError: a field is not what it has to be, such as an unknown kind or a recipe that is no plain JSON.
    """

    kind: str
    architecture: str
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] = ((0.449,), (0.226,))
    input_size: tuple[int, int] | None = None
    labels: tuple[str, ...] = ()
    teacher: str = ""
    corpus_hash: str = ""
    licence_notice: str = ""
    origin: str = ""
    version: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    corpus_licences: dict[str, int] = field(default_factory=dict)
    corpus_restrictions: dict[str, int] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    code_version: str = ""
    encoder_file: str = ""
    encoder_sha256: str = ""
    familiarity: dict[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What is kept are copies, so that a recipe that is changed later does not change the record.
        for name, check in _CHECKS.items():
            try:
                object.__setattr__(self, name, check(getattr(self, name)))
            except (ValueError, TypeError, OverflowError) as error:
                raise WeightsError(f"{name}: {str(error)[:200]}") from error


def to_json(info: WeightsInfo) -> dict[str, Any]:
    """Every field as a plain JSON value. JSON has no NaN: a metric that is not finite is None."""
    metrics = {name: value if math.isfinite(value) else None for name, value in info.metrics.items()}
    return {**asdict(info), "metrics": metrics}


def encode(info: WeightsInfo) -> dict[str, str]:
    """The entries of a safetensors header, which holds nothing but strings.

    Raises:
        WeightsError: an entry is longer than a reader accepts.
    """
    entries = {key: value if isinstance(value, str) else json.dumps(value) for key, value in to_json(info).items()}
    for name, text in entries.items():
        if len(text) > MAX_CHARACTERS:
            raise WeightsError(f"{name} is {len(text)} characters long", remedy=f"at most {MAX_CHARACTERS} are stored")
    return entries


def decode(entries: Mapping[str, str]) -> WeightsInfo:
    """The inverse of :func:`encode`. Files of earlier releases lack the later fields; unknown entries are ignored.

    Raises:
        WeightsError: an entry is missing, too long, no JSON, or not of its type.
    """
    missing = sorted(_FIRST - entries.keys())
    if missing:
        raise WeightsError(f"there is no {', '.join(missing)}")
    return WeightsInfo(**{name: _entry(name, entries[name]) for name in _CHECKS if name in entries})


def _entry(name: str, text: str) -> Any:
    if len(text) > MAX_CHARACTERS:
        raise WeightsError(f"{name} is {len(text)} characters long; at most {MAX_CHARACTERS} are read")
    if _CHECKS[name] in (_text, _kind, _name, _beside, _digest):
        return text
    try:
        return _plain(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{name}: {str(error)[:200]}") from error


def _plain(value: Any, depth: int = 0) -> Any:
    """A copy of JSON values; ValueError for any other, for NaN and infinity, and for what is nested too deeply."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, (Mapping, list, tuple)) and depth == _MAX_DEPTH:
        raise ValueError(f"nested deeper than {_MAX_DEPTH}")
    if isinstance(value, (list, tuple)):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        return {_text(key): _plain(item, depth + 1) for key, item in value.items()}
    raise ValueError(f"{_short(value)} is no plain JSON value")


def _recipe(value: Any) -> dict[str, Any]:
    return _plain(_mapping(value))


def _counts(value: Any) -> dict[str, int]:
    return {_text(name): _whole(count, least=0) for name, count in _mapping(value).items()}


def _metrics(value: Any) -> dict[str, float]:
    return {_text(name): math.nan if one is None else float(one) for name, one in _mapping(value).items()}


def _normalisation(value: Any) -> tuple[tuple[float, ...], ...]:
    mean, std = (tuple(float(number) for number in numbers) for numbers in value)
    if not {len(mean), len(std)} <= {1, 3} or not all(map(math.isfinite, mean + std)) or min(std) <= 0:
        raise ValueError(f"{_short(value)} is no (mean, std) of one value or three")
    return mean, std


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    height, width = value
    return _whole(height, least=1), _whole(width, least=1)


def _labels(value: Any) -> tuple[str, ...]:
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"{_short(value)} is no list of names")
    return tuple(map(_text, value))


def _kind(value: Any) -> str:
    if value not in KINDS:
        raise ValueError(f"{_short(value)} is not one of {', '.join(KINDS)}")
    return value


def _name(value: Any) -> str:
    if not _text(value):
        raise ValueError("cannot be empty")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_short(value)} is no text")
    return value


def _beside(value: Any) -> str:
    """The name of a file in the same folder, or "": never a path that leads out of it, on any system."""
    if _text(value) and (not _FILE_NAME.fullmatch(value) or len(value) > _MAX_NAME):
        raise ValueError(f"{_short(value)} is no plain file name")
    return value


def _digest(value: Any) -> str:
    if _text(value) and not _SHA256.fullmatch(value):
        raise ValueError(f"{_short(value)} is no SHA-256")
    return value


def _whole(value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < _MAX_COUNT:
        raise ValueError(f"{_short(value)} is no whole number from {least}")
    return value


def _mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{_short(value)} is no mapping of names")
    return value


def _short(value: Any) -> str:
    return repr(value)[:80]


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "kind": _kind,
    "architecture": _name,
    "normalisation": _normalisation,
    "input_size": _size,
    "labels": _labels,
    **dict.fromkeys(("teacher", "corpus_hash", "licence_notice", "origin", "version"), _text),
    "recipe": _recipe,
    "corpus_licences": _counts,
    "corpus_restrictions": _counts,
    "metrics": _metrics,
    "code_version": _text,
    "familiarity": _recipe,
    "encoder_file": _beside,
    "encoder_sha256": _digest,
    "cost": _recipe,
}
_FIRST = frozenset(list(_CHECKS)[:10])
"""The fields of the first files; later ones have defaults."""
