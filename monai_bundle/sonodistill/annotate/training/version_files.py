"""Files of a version of a model: weights, their digest and kind, and the record beside them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sonodistill.errors import WeightsError
from sonodistill.files import sha256, write_text

RECORD, STEM = "version.json", "model"
CHECKPOINT, EXPORTED = ".safetensors", (".onnx", ".xml")
BACK = "roll back, or promote another version"
_MAX_RECORD = 1 << 20


KINDS: dict[str, tuple[str, ...]] = {
    "segmentation": ("segmenter",),
    "classification": ("classifier",),
    "interactive": ("interactive",),
    "embedding": ("encoder",),
}
"""Model -> the kinds of weights that it takes. For embedding the encoder is taken out of whatever holds one."""


@dataclass(frozen=True, slots=True)
class Version:
    """Weights that were added once and never change.

    Attributes:
        number: 1, 2, ...
        path: of the weights.
        sha256: hex, of what was added.
        kind: "segmenter", "classifier", "interactive" or "encoder".
        labels: of the channels or classes; empty for an encoder.
        created: seconds since 1970, UTC.
        metrics: what was measured on it and what it was compared with, JSON values.
        note: for people: where it came from, why it was promoted or not.
    """

    number: int
    path: Path
    sha256: str
    kind: str
    labels: tuple[str, ...] = ()
    created: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)
    note: str = ""


def read_version(home: Path, number: int) -> Version:
    """The version in a folder. Errors: WeightsError."""
    said = read_record(home / RECORD)
    try:
        return Version(
            number=number,
            path=home / file_name(said["file"]),
            sha256=str(said["sha256"]),
            kind=str(said["kind"]),
            labels=tuple(map(str, said["labels"])),
            created=float(said["created"]),
            metrics=dict(said["metrics"]),
            note=str(said["note"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"cannot be read ({type(error).__name__})", path=home / RECORD, remedy=BACK) from error


def write_version(home: Path, version: Version) -> None:
    """The record beside the weights."""
    record = {name: getattr(version, name) for name in Version.__slots__ if name != "path"}
    write_text(home / RECORD, json.dumps({**record, "file": version.path.name}, indent=1, allow_nan=False))


def files_of(path: Path) -> list[Path]:
    """The file, and the one beside it that OpenVINO keeps the tensors in."""
    return [path, path.with_suffix(".bin")] if path.suffix.lower() == ".xml" else [path]


def digest_of(path: Path) -> str:
    """Hex SHA-256 of the file, of two files that of their digests. Errors: WeightsError."""
    try:
        digests = [sha256(file) for file in files_of(path)]
    except OSError as error:
        found = error.strerror or type(error).__name__
        raise WeightsError(f"cannot be read ({found})", path=path, remedy="give the path of a weights file") from error
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def kind_of(path: Path) -> tuple[str, tuple[str, ...]]:
    """Kind and labels by the header of a checkpoint, which reads no tensor, or by loading an exported model."""
    suffix = path.suffix.lower()
    if suffix == CHECKPOINT:
        from sonodistill.weights import read_info

        info = read_info(path)
        if info is None:
            raise WeightsError("this safetensors file has no SonoDistill header", path=path, remedy="give one of ours")
        return info.kind, info.labels
    if suffix in EXPORTED:
        from sonodistill.inference.predictor import Predictor

        model = Predictor(path, precision="auto")
        return model.kind, model.labels
    raise WeightsError("is no checkpoint of ours and no exported model", path=path, remedy="give a .safetensors file")


def copy_weights(path: Path, folder: Path) -> Path:
    """A lasting copy under the name that versions have; of weights whose encoder is another file, the whole."""
    target = folder / f"{STEM}{path.suffix.lower()}"
    if is_parted(path):
        from sonodistill.weights import load_weights, save_weights

        save_weights(target, *load_weights(path))
        return target
    for source, copy in zip(files_of(path), files_of(target), strict=True):
        shutil.copyfile(source, copy)
        with copy.open("r+b") as written:
            os.fsync(written.fileno())
    return target


def is_parted(path: Path) -> bool:
    """Whether a checkpoint's encoder is in a file of its own beside it."""
    if path.suffix.lower() != CHECKPOINT:
        return False
    from sonodistill.weights import read_info

    info = read_info(path)
    return info is not None and bool(info.encoder_file)


def copy_encoder(path: Path, target: Path) -> Path:
    """The encoder of a segmenter, classifier or click segmenter as a file of its own."""
    from sonodistill.networks.encoder import Encoder
    from sonodistill.weights import read_info, save_weights

    info = read_info(path)
    if info is None:
        raise WeightsError("this safetensors file has no SonoDistill header", path=path)
    encoder = Encoder(info.architecture, path)
    of_the_whole = {"labels": (), "metrics": {}, "encoder_file": "", "encoder_sha256": "", "familiarity": {}}
    save_weights(target, encoder.state_dict(), replace(info, kind="encoder", **of_the_whole))  # type: ignore[arg-type]
    return target


def stamp_of(path: Path) -> object:
    """What changes when a file is replaced or written to; None without the file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_record(path: Path) -> dict[str, Any]:
    """A JSON object of ours. Errors: WeightsError."""
    try:
        if path.stat().st_size > _MAX_RECORD:
            raise ValueError("too long")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"cannot be read ({type(error).__name__})", path=path, remedy=BACK) from error
    if not isinstance(found, dict):
        raise WeightsError("is no JSON object", path=path, remedy=BACK)
    return found


def file_name(name: object) -> str:
    """The name itself; ValueError for any that ``copy_weights`` does not give."""
    if name not in {f"{STEM}{suffix}" for suffix in (CHECKPOINT, *EXPORTED)}:
        raise ValueError("no file of ours")
    return str(name)


def plain(value: Any) -> Any:
    """A copy as JSON holds it; what is not finite is None."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def sync(folder: Path) -> None:
    """Make names in a folder last; Windows has no such call."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
