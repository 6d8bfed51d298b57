"""Parameters of stock requests: what a client may set, and what it may not."""

from __future__ import annotations

import re
from typing import Any

from lib.server.errors import Refused

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_. -]{0,63}")
_DEVICE = re.compile(r"cpu|cuda(:\d{1,2})?")
_EXTENSIONS = (".nrrd", ".nii", ".nii.gz", ".seg.nrrd", ".png", ".json")
_DTYPES = ("uint8", "uint16", "int16", "float32")
# What the server sets itself. A request that names one of them would choose a file or a program.
_RESERVED = {
    *("model", "image", "images", "session", "file", "path", "image_path", "label_path", "image_id"),
    *("bundle_path", "model_filename", "model_dir", "model_path", "pretrained_path", "output_dir", "result_dir"),
    *("dataset", "datastore", "network", "config", "conf", "tracking_uri", "run_id", "train_ds", "val_ds"),
    *("server_mode", "cache_dir", "save_label_path"),
}
# Stock clients send these of themselves; they mean nothing here.
_IGNORED = {"logging", "gpus", "multi_gpu", "local_rank", "description", "strategy"}
_IDENTITY = ("annotator", "client_id", "user")


def checked(params: dict[str, Any], annotator: str = "") -> dict[str, Any]:
    """The parameters, with ``annotator`` as who sends them.

    What a client says of itself is replaced, and what names nothing (null) is left out. Errors: Refused with 422.
    """
    taken: dict[str, Any] = {}
    for name, value in params.items():
        if name in _IDENTITY or name in _IGNORED or value is None:
            continue
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise Refused(422, "InvalidParameter", f"{name[:60]!r} cannot be set by a request", "leave it out")
        if isinstance(value, str) and any(one in value for one in "/\\\0"):
            raise Refused(422, "InvalidParameter", f"{name} holds a path", "a request names no files")
        taken[name] = value
    _require(taken, "device", lambda value: isinstance(value, str) and bool(_DEVICE.fullmatch(value)), "cpu, cuda")
    _require(taken, "result_extension", lambda value: value in _EXTENSIONS, ", ".join(_EXTENSIONS))
    _require(taken, "result_dtype", lambda value: value in _DTYPES, ", ".join(_DTYPES))
    _require(taken, "max_epochs", lambda value: type(value) is int and 1 <= value <= 10_000, "1 to 10000")
    if annotator:
        taken.update(dict.fromkeys(_IDENTITY, annotator))
    return taken


def _require(params: dict[str, Any], name: str, good: Any, allowed: str) -> None:
    if name in params and not good(params[name]):
        raise Refused(422, "InvalidParameter", f"{name} cannot be {str(params[name])[:40]!r}", f"one of {allowed}")
