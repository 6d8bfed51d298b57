"""How an encoder is named on the command line: a row, a row with a file, or an architecture of one's own."""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import timm

from sonodistill import models
from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.files import sha256
from sonodistill.networks.hub import require_timm_name
from sonodistill_training.distill.offline import OFFLINE_TEACHER, offline_teacher_path
from sonodistill_training.evaluate.encoders.rows import Row, find_row, rows

_NAME = re.compile(r"[A-Za-z0-9][\w.+ -]*")
_HUB = "hub"
_SYNTAX = (
    "write ROW, ROW=FILE, or for an encoder of your own NAME:ARCHITECTURE (random), NAME:ARCHITECTURE=FILE, "
    "NAME:ARCHITECTURE=hub, or NAME=FILE for a file that says what it holds"
)


@dataclass(frozen=True, slots=True)
class EncoderSpec:
    """An encoder and its weights.

    Attributes:
        name: of the row, or one's own.
        row: None for an encoder of one's own.
        architecture: timm name, or a transformers id; None where the file says it.
        file: of the weights, a file or a folder of transformers; None for the hub's or random ones.
        hub: whether the weights are the hub's.
    """

    name: str
    row: Row | None
    architecture: str | None
    file: Path | None
    hub: bool = False

    @property
    def is_random(self) -> bool:
        """Whether the weights are drawn from a seed."""
        return self.file is None and not self.hub

    def key(self) -> str:
        """What the weights are, for a cache: the same text for the same content, wherever the file lies.

        "random:<architecture>" (the seed is not in it), "hub:<architecture>", or "sha256:<digest>:<architecture>" with
        the digest of the file, or of a folder's settings and tensors; the architecture is empty where the file says it.
        """
        architecture = self.architecture or ""
        if self.file is None:
            return f"{_HUB if self.hub else 'random'}:{architecture}"
        digest = _folder_sha256(self.file) if self.file.is_dir() else sha256(self.file)
        return f"sha256:{digest}:{architecture}"


def parse_encoder(spec: str) -> EncoderSpec:
    """An encoder by its text.

    Args:
        spec: one of
            "R50-Rand", "DINOv3 ViT-B/16" or "DINOv3", a row by its name or alias (see
            :func:`~sonodistill_training.evaluate.encoders.rows.rows`);
            "USFM=USFM_latest.pth", a row with the file (or the folder of transformers) of its weights;
            "LightlyTrain:resnet50=exported_last.pt", a row whose architecture has to be given;
            "My-R34:resnet34", random weights; "My-R34:resnet34=weights.safetensors", with those of a file;
            "My-ViT:vit_small_patch16_224.augreg_in21k=hub", with timm's from the hub ("owner/name": transformers');
            "Mine=student.safetensors", a file that says what it holds;
            "resnet18-us", a shipped model, or "R18-Distill-US=resnet18-us", a row with its weights.
            The file "dinov2_vits14" is the offline teacher of ``sonodistill weights fetch``.

    Raises:
        BundleConfigError: none of these, a row or an architecture that does not exist, or one that takes no file.
        WeightsError: there is no such file, or the row needs one.
    """
    left, equals, weights = spec.partition("=")
    name, colon, given = left.partition(":")
    row = find_row(name)
    if (row is None and not _NAME.fullmatch(name)) or (equals and not weights) or (colon and not given):
        raise BundleConfigError(f"{spec!r} does not name an encoder", remedy=_SYNTAX)
    if row is None and not given and not weights and name in models.catalogue():
        return EncoderSpec(name, None, None, models.resolve(name, torch=True))
    if row is None:
        return _own(name, given, weights)
    name = row.name
    if given and row.architecture:
        raise BundleConfigError(
            f"the row {name} is of {row.architecture}, not of {given}",
            remedy="give an encoder of your own another name",
        )
    if row.weights == "random" and weights:
        raise BundleConfigError(f"{name} has random weights and takes no file", remedy="leave the file out")
    if row.needs_file and weights in ("", _HUB):
        raise WeightsError(f"{name} needs a file of weights", remedy=f"write {row.alias}=FILE, with {row.source}")
    if not row.architecture and not given:
        raise BundleConfigError(f"{name} needs an architecture", remedy=f"write {row.alias}:resnet50=FILE")
    if given:
        require_timm_name(given)
    hub = row.weights == _HUB and weights in ("", _HUB)
    return EncoderSpec(name, row, row.architecture or given, None if hub else _file(weights), hub)


def _own(name: str, architecture: str, weights: str) -> EncoderSpec:
    if not architecture and weights in ("", _HUB):
        choices = [alias for row in rows().values() for alias in (row.name, row.alias)]
        if timm.is_model(name.split(".")[0]):
            remedy = f"write NAME:{name} for random weights, NAME:{name}=hub or NAME:{name}=FILE"
        else:
            near = dict.fromkeys(difflib.get_close_matches(name, choices, n=3, cutoff=0.4))
            remedy = (f"did you mean {', '.join(near)}? Otherwise " if near else "") + _SYNTAX
        raise BundleConfigError(f"there is no row {name!r}", remedy=remedy)
    hub = weights == _HUB
    if architecture and not ("/" in architecture and hub):
        require_timm_name(architecture)
    return EncoderSpec(name, None, architecture or None, None if hub else _file(weights), hub)


def _file(text: str) -> Path | None:
    if not text:
        return None
    path = offline_teacher_path() if text == OFFLINE_TEACHER else models.path_of(text, torch=True)
    if not path.exists():
        remedy = "give the path of its weights"
        if text == OFFLINE_TEACHER:
            remedy = f"sonodistill weights fetch {OFFLINE_TEACHER}"
        raise WeightsError("there is no such file or folder", path=path, remedy=remedy)
    return path


def _folder_sha256(folder: Path) -> str:
    """Over what makes the network of a transformers folder: its settings and its tensors."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in (".safetensors", ".bin") or file.name in ("config.json", "preprocessor_config.json"):
            digest.update(f"{file.name} {sha256(file)}\n".encode())
    return digest.hexdigest()
