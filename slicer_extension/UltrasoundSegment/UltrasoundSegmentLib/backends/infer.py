"""MONAI Label's ``/infer``: what is sent, and what comes back, ours or a stock server's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import multipart, png, volume_files
from UltrasoundSegmentLib.backends.client import LARGE, Answer, Client
from UltrasoundSegmentLib.backends.model import BackendError, Cancel, Model

_KINDS = {
    "segmentation": "segmentation",
    "classification": "classification",
    "deepgrow": "interactive",
    "deepedit": "interactive",
    "annotation": "interactive",
}


@dataclass(frozen=True)
class Said:
    """Attributes: params, what the model says; image, the file it answers, b"" for none."""

    params: dict[str, Any]
    image: bytes


def models_of(info: Any) -> list[Model]:
    """The models of the answer of ``GET /info/``; others than masks, clicks and classes are left out."""
    found = info.get("models") if isinstance(info, dict) else None
    if not isinstance(found, dict):
        raise BackendError("The server does not tell its models: is the address that of a MONAI Label server?")
    models = []
    for name, about in found.items():
        kind = _KINDS.get(str(about.get("type", ""))) if isinstance(about, dict) else None
        if kind is not None and len(str(name)) <= 200:
            models.append(Model(str(name), kind, _labels(about.get("labels"))))
    return models


def _labels(given: Any) -> tuple[str, ...]:
    """Names by number: {"liver": 1} of a server, or ["liver"]; where numbers are left out, they are named so."""
    if isinstance(given, list):
        return tuple(str(one)[:200] for one in given[:255])
    if not isinstance(given, dict):
        return ()
    numbers = {at: str(name)[:200] for name, at in given.items() if type(at) is int and 0 < at <= 255}
    return tuple(numbers.get(at, f"label {at}") for at in range(1, max(numbers, default=0) + 1))


def infer(
    client: Client,
    model: str,
    params: Mapping[str, Any],
    cancel: Cancel,
    *,
    image: str = "",
    session: str = "",
    file: tuple[str, bytes] | None = None,
    label: tuple[str, bytes] | None = None,
) -> Said:
    """Run a model on an image of the server, a session, or a file that is sent."""
    form: dict[str, Any] = {"params": (None, json.dumps(dict(params)))}
    if file is not None:
        form["file"] = file
    if label is not None:
        form["label"] = label
    query = {"output": "all"}
    query |= {name: value for name, value in (("image", image), ("session_id", session)) if value}
    path = f"/infer/{quote(model, safe='')}"
    return said(client.request("POST", path, cancel, query=query, files=form, most=LARGE))


def said(answer: Answer) -> Said:
    """A multipart answer of parameters and a file, or JSON without a file, or a file alone. Errors: BackendError."""
    kind = answer.type.partition(";")[0].strip().lower()
    if kind == "application/json":
        return Said(_object(answer.content), b"")
    if not kind.startswith("multipart/"):
        return Said({}, answer.content)
    parts = multipart.parse(answer.content, answer.type)
    params = _object(parts["params"].content) if "params" in parts else {}
    files = [part for name, part in parts.items() if name != "params"]
    return Said(params, files[0].content if files else b"")


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content or b"{}")
    except (ValueError, RecursionError):
        raise BackendError("The server's answer cannot be read: ask again.") from None
    return found if isinstance(found, dict) else {}


def mask_of(image: bytes, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W) label numbers of the answer to a still: PNG, NRRD or NIfTI. Errors: BackendError."""
    if not image:
        raise BackendError("The model answered no mask: choose one that segments.")
    if image.startswith(b"\x89PNG"):
        return png.decode(image, shape)
    voxels = volume_files.read(image).voxels
    if voxels.shape != (1, *shape):
        raise BackendError(f"The server's mask has {voxels.shape} voxels, the frame {shape}: choose another model.")
    return numbers(voxels)[0]


def numbers(voxels: NDArray) -> NDArray[np.uint8]:
    """Label numbers as uint8. Errors: BackendError where they are none."""
    if voxels.dtype != np.uint8:
        if not (np.isfinite(voxels).all() and (voxels >= 0).all() and (voxels <= 255).all()):
            raise BackendError("The server's answer holds other values than label numbers: choose another model.")
        if voxels.dtype.kind == "f" and (voxels != np.rint(voxels)).any():
            raise BackendError("The server's answer is no mask but a map of numbers: choose another model.")
    return voxels.astype(np.uint8)
