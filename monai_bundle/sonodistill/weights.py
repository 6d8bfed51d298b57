"""Weights files: safetensors with a header that says what the tensors are, never a pickle that can run code."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sonodistill.errors import WeightsError
from sonodistill.files import atomic_path
from sonodistill.weights_header import KINDS, WeightsInfo, decode, encode

StateDict = dict[str, torch.Tensor]

_HEADER = "sonodistill"
_HEADER_VERSION = "1"  # fields are added without a new version: readers ignore those that they do not know
_NESTINGS = ("state_dict", "model", "teacher")
_PREFIXES = ("module.", "backbone.")


def save_weights(path: str | Path, state_dict: Mapping[str, torch.Tensor], metadata: WeightsInfo) -> None:
    """Write tensors of any dtype and their header atomically; the header also holds a digest of the tensors."""
    # A clone for each tensor: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}
    header = {_HEADER: _HEADER_VERSION, "tensors_sha256": tensors_sha256(tensors), **encode(metadata)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def load_weights(path: str | Path, *, kinds: tuple[str, ...] = KINDS) -> tuple[StateDict, WeightsInfo]:
    """Read a file of :func:`save_weights` onto the CPU and check its digest.

    Args:
        path: the file.
        kinds: the kinds that the caller can use.

    Raises:
        WeightsError: missing, empty, damaged, without SonoDistill's header, or of another kind.
    """
    info = read_info(path)
    if info is None:
        raise WeightsError(
            "this safetensors file has no SonoDistill header, so its architecture and normalisation are unknown",
            path=path,
            remedy="give it as encoder weights of a named architecture, or as a teacher with architecture=<timm name>",
        )
    if info.kind not in kinds:
        raise WeightsError(f"holds a {info.kind}, not a {' or '.join(kinds)}", path=path)
    state = _read_tensors(path)
    if tensors_sha256(state) != read_metadata(path).get("tensors_sha256"):
        raise WeightsError("the tensors do not match the digest in the header", path=path, remedy="copy it again")
    return state, info


def read_info(path: str | Path) -> WeightsInfo | None:
    """The header of a safetensors file without its tensors; None when SonoDistill did not write it."""
    header = read_metadata(path)
    if _HEADER not in header:
        return None
    if header[_HEADER].partition(".")[0] != _HEADER_VERSION:
        raise WeightsError(f"header version {header[_HEADER][:20]} is unknown", path=path, remedy="update sonodistill")
    try:
        return decode(header)
    except WeightsError as error:
        message = f"the header cannot be read: {error.message}"
        raise WeightsError(message, path=path, remedy="write it again") from error


def read_metadata(path: str | Path) -> dict[str, str]:
    """The raw string header of any safetensors file, empty when it has none."""
    _check_is_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def load_torch_checkpoint(path: str | Path) -> StateDict:
    """Read a foreign ``.pth``/``.pt``/``.bin`` or ``.safetensors`` file as a plain state dict on the CPU.

    Pickles are read with ``weights_only=True``: a file that wants to run code is refused. The nestings
    "state_dict", "model" and "teacher" are unwrapped, "module." and "backbone." stripped when every key has them.

    Raises:
        WeightsError: missing, empty, damaged, unsafe, or not a state dict.
    """
    _check_is_file(path)
    if Path(path).suffix.lower() == ".safetensors":
        content: Any = _read_tensors(path)
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise WeightsError(
                f"not a plain checkpoint: reading it would need code from the file to run ({_first_line(error)})",
                path=path,
                remedy="save its state_dict as safetensors on the machine that made it",
            ) from error
        except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise _damaged(path, error) from error
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _NESTINGS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        found = f"a mapping with the keys {list(content)[:5]}" if isinstance(content, Mapping) else type(content)
        raise WeightsError(f"holds no state dict but {found}", path=path, remedy="save model.state_dict()")
    return _strip_prefixes(dict(content))


def tensors_sha256(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        value = state_dict[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _strip_prefixes(state: StateDict) -> StateDict:
    for prefix in _PREFIXES:
        if all(key.startswith(prefix) for key in state):
            return _strip_prefixes({key.removeprefix(prefix): value for key, value in state.items()})
    return state


def _read_tensors(path: str | Path) -> StateDict:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _check_is_file(path: str | Path) -> None:
    path = Path(path)
    if not path.is_file():
        found = "this is a folder" if path.is_dir() else "there is no such file"
        raise WeightsError(found, path=path, remedy="give the path of a weights file")
    if path.stat().st_size == 0:
        raise WeightsError("the file is empty (0 bytes)", path=path, remedy="copy or download it again")


def _damaged(path: str | Path, error: Exception) -> WeightsError:
    return WeightsError(
        f"not a weights file, or a damaged one ({_first_line(error)})", path=path, remedy="copy or download it again"
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
