"""Weights files: safetensors with a header that says what the tensors are, never a pickle that can run code."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import replace
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
_DIGEST = "tensors_sha256"
_ENCODER = "encoder.model."  # of an encoder's tensors in a network
NO_PART = "familiarity."
"""What such tensors describe is the file: they are no part of the network that an encoder becomes a part of."""


def save_weights(
    path: str | Path,
    state_dict: Mapping[str, torch.Tensor],
    metadata: WeightsInfo,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write tensors of any dtype and their header atomically; the header also holds a digest of the tensors.

    Args:
        path: the file.
        state_dict: the tensors.
        metadata: the header.
        more: further entries of the header, kept as they are where ``metadata`` has none of that name.
    """
    # A clone for each tensor: safetensors refuses tensors that share memory or are not contiguous.
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}
    header = {**(more or {}), _HEADER: _HEADER_VERSION, _DIGEST: tensors_sha256(tensors), **encode(metadata)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def save_head(
    path: str | Path,
    state_dict: Mapping[str, torch.Tensor],
    metadata: WeightsInfo,
    encoder: str | Path,
    more: Mapping[str, str] | None = None,
) -> None:
    """Write a whole network without its encoder, which is the one of a file in the same folder.

    :func:`load_weights` joins them again, so that networks on one encoder store it once.

    Args:
        path: the file.
        state_dict: the whole network's.
        metadata: its header; that the encoder lies in ``encoder`` is added.
        encoder: an encoder of ours beside ``path``.
        more: as for :func:`save_weights`.

    Raises:
        WeightsError: the two lie in different folders, or the network's encoder is not the file's, bit for bit.
    """
    encoder = Path(encoder)
    if encoder.resolve().parent != Path(path).resolve().parent:
        raise WeightsError("has to lie beside the files that name it", path=encoder, remedy="copy it there")
    held, _ = load_weights(encoder, kinds=("encoder",))
    shared = _as_part(held)
    own = {key: value for key, value in state_dict.items() if key.startswith(_ENCODER)}
    different = sorted(key for key in own.keys() | shared.keys() if not _same(own.get(key), shared.get(key)))
    if different:
        raise WeightsError(
            f"{len(different)} of {len(own)} tensors of the network's encoder are not those of {encoder.name} "
            f"({', '.join(different[:2])} ...)",
            path=path,
            remedy="store it whole, or train it on this very file with --freeze_encoder true",
        )
    info = replace(metadata, encoder_file=encoder.name, encoder_sha256=tensors_sha256(held))
    save_weights(path, {key: value for key, value in state_dict.items() if key not in own}, info, more)


def load_weights(path: str | Path, *, kinds: tuple[str, ...] = KINDS) -> tuple[StateDict, WeightsInfo]:
    """Read a file of :func:`save_weights` or :func:`save_head` onto the CPU and check its digest.

    Args:
        path: the file.
        kinds: the kinds that the caller can use.

    Returns:
        The whole network's tensors, those of an encoder in a file of its own among them, and the header of that whole.

    Raises:
        WeightsError: missing, empty, damaged, without SonoDistill's header, or of another kind; or the file that it
            names for its encoder is missing or another.
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
    if tensors_sha256(state) != read_metadata(path).get(_DIGEST):
        raise WeightsError("the tensors do not match the digest in the header", path=path, remedy="copy it again")
    if not info.encoder_file:
        return state, info
    return {**state, **_encoder_beside(Path(path), info, state)}, replace(info, encoder_file="", encoder_sha256="")


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
        parted = read_metadata(path).get("encoder_file")
        content: Any = load_weights(path)[0] if parted else _read_tensors(path)
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


def network_part(state: StateDict) -> StateDict:
    """The network's own tensors, without those that describe the file."""
    return {key: value for key, value in state.items() if not key.startswith(NO_PART)}


def tensors_sha256(state_dict: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        value = state_dict[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _encoder_beside(path: Path, info: WeightsInfo, state: StateDict) -> StateDict:
    """The tensors that a head file leaves to the file of its encoder, named as parts of the network."""
    home = path.resolve().parent
    file = home / info.encoder_file
    if not file.exists():
        raise WeightsError(
            f"its encoder is in {info.encoder_file}, which is not beside it",
            path=path,
            remedy=f"copy {info.encoder_file} into the same folder, too",
        )
    if file.resolve().parent != home:
        raise WeightsError(f"its encoder {info.encoder_file} is a link out of the folder", path=path, remedy="copy it")
    held = read_info(file)
    if held is None or held.kind != "encoder" or held.encoder_file or held.architecture != info.architecture:
        found = "no weights file of ours" if held is None else f"{held.kind} of {held.architecture}"
        raise WeightsError(
            f"holds a {info.kind} on {info.architecture}, but {info.encoder_file} beside it is {found}",
            path=path,
            remedy="copy both files again",
        )
    encoder, _ = load_weights(file)
    if tensors_sha256(encoder) != info.encoder_sha256:
        raise WeightsError(
            f"{info.encoder_file} beside it holds another encoder than the one it was made with",
            path=path,
            remedy="copy both files again, from the same place",
        )
    part = _as_part(encoder)
    if both := sorted(part.keys() & state.keys()):
        found = f"{len(both)} tensors are here and in {info.encoder_file} ({both[0]} ...)"
        raise WeightsError(found, path=path, remedy="write it again")
    return part


def _as_part(encoder: StateDict) -> StateDict:
    """An encoder's tensors as a network names them that it is a part of."""
    return {f"{_ENCODER}{key}": value for key, value in encoder.items() if not key.startswith(NO_PART)}


def _same(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and one.dtype == other.dtype and torch.equal(one.cpu(), other.cpu())


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
