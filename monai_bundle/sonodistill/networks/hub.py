"""timm models with pretrained weights from the hub; a hub that does not answer is said within seconds."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from torch import nn

from sonodistill.errors import BundleConfigError, HubUnreachableError

_PROBE_SECONDS = 5.0
_WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


def require_timm_name(name: str) -> None:
    """Raise BundleConfigError, with the nearest names, when timm has no such architecture."""
    base = name.split(".")[0]
    if timm.is_model(base):
        return
    near = difflib.get_close_matches(base, timm.list_models(), n=3)
    raise BundleConfigError(
        f"timm {timm.__version__} has no model {name!r}",
        remedy=f"did you mean {', '.join(near)}?" if near else "see timm.list_models()",
    )


def create_pretrained(name: str, *, remedy: str, **kwargs: Any) -> nn.Module:
    """``timm.create_model(name, pretrained=True, **kwargs)`` from the hub or the hub's local cache.

    Args:
        name: timm name, with or without a pretrained tag.
        remedy: what the user can do when the hub cannot be reached.

    Raises:
        HubUnreachableError: no copy in the cache, and the hub does not answer or refuses (a gated model).
        BundleConfigError: timm has no such model, or none with pretrained weights.
    """
    require_timm_name(name)
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise BundleConfigError(str(error), remedy="see timm.list_pretrained()") from error
    if config is None or not (config.hf_hub_id or config.url):
        raise BundleConfigError(f"timm has no pretrained weights for {name!r}", remedy="start from random weights")
    if not config.hf_hub_id:
        with hub_errors(name, remedy):
            return timm.create_model(name, pretrained=True, **kwargs)
    with hub_errors(name, remedy):
        file = _hub_file(config.hf_hub_id, config.hf_hub_filename)
    return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(file)}, **kwargs)


def hub_problem() -> str | None:
    """Why the hub does not answer one request within five seconds (offline mode too), or None when it does."""
    try:
        session = huggingface_hub.utils.get_session()
        session.head(huggingface_hub.constants.ENDPOINT, timeout=_PROBE_SECONDS)
    except Exception as error:  # noqa: BLE001 (the hub client's HTTP library, and its errors, changed between versions)
        return (str(error).splitlines() or [type(error).__name__])[0]
    return None


@contextlib.contextmanager
def hub_errors(name: str, remedy: str) -> Iterator[None]:
    """Turn whatever a hub client raises (all of it is an OSError) into HubUnreachableError with the innermost cause."""
    try:
        yield
    except OSError as error:
        cause: BaseException = error
        while inner := cause.__cause__ or cause.__context__:
            cause = inner
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        message = f"the weights of {name} cannot be had from the hub: {reason}"
        raise HubUnreachableError(message, remedy=remedy) from error


def _hub_file(repository: str, filename: str | None) -> Path:
    problem = hub_problem()
    candidates = (filename,) if filename else _WEIGHT_FILES
    for candidate in candidates:
        try:
            return Path(huggingface_hub.hf_hub_download(repository, candidate, local_files_only=problem is not None))
        except LocalEntryNotFoundError:
            continue
        except EntryNotFoundError:
            problem = problem or f"{repository} has none of {', '.join(candidates)}"
    reason = problem or "the connection broke"
    raise ConnectionError(f"{huggingface_hub.constants.ENDPOINT} does not answer ({reason}) and no copy is cached")
