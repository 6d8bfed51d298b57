"""Load a whole segmenter or classifier, decoder and head included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from sonodistill import models
from sonodistill.errors import WeightsError
from sonodistill.networks.encoder import GrayInput, require_same_architecture
from sonodistill.weights import WeightsInfo, load_torch_checkpoint, load_weights, network_part, read_info


def weights_kind(weights: str | Path | None) -> str | None:
    """The kind recorded in a weights file of ours; None for no file, "imagenet", "random" and foreign files."""
    weights = models.weights_of(weights)
    if not isinstance(weights, Path) or weights.suffix.lower() != ".safetensors":
        return None
    info = read_info(weights)
    return info.kind if info else None


def trained_or_shipped(bundle: str) -> str:
    """What ``train.yaml`` left in a bundle, else the segmenter that is shipped; the former's path where neither is.

    A ``model.pt`` or ``model.ts`` in the bundle is its own model too, which MONAI's tools read by themselves.
    """
    home = Path(bundle) / "models"
    own = any((home / f"model{suffix}").is_file() for suffix in (".safetensors", ".pt", ".ts"))
    shipped = None if own else models.default(models.SEGMENTATION, torch=True)
    return str(shipped or home / "model.safetensors")


def encoder_of(weights: str | Path) -> str | None:
    """The timm name of the encoder that weights are of, None where they are none of ours, or do not exist."""
    info = _header(weights)
    return info.architecture if info else None


def size_of(weights: str | Path) -> list[int] | None:
    """[height, width] that weights were trained at, None where they do not say it."""
    info = _header(weights)
    return list(info.input_size) if info and info.input_size else None


def _header(weights: str | Path) -> WeightsInfo | None:
    path = models.path_of(weights, torch=True)
    return read_info(path) if path.suffix.lower() == ".safetensors" and path.is_file() else None


def load_whole_network(network: nn.Module, path: str | Path) -> None:
    """Copy every tensor of a weights file of ours, or of a shipped model, into ``network``, strictly.

    Raises:
        WeightsError: a key is missing, too many or of another shape (another number of classes).
    """
    path = models.path_of(path, torch=True)
    state, info = load_weights(path, kinds=(network.kind,))  # type: ignore[arg-type]
    try:
        network.load_state_dict(network_part(state))
    except RuntimeError as error:
        details = "; ".join(line.strip() for line in str(error).splitlines()[1:4])
        raise WeightsError(
            f"this {info.kind} of {info.architecture} with {len(info.labels)} recorded labels does not fit: {details}",
            path=path,
            remedy="ask for as many classes as it has, or give a file with the encoder alone",
        ) from error


def load_into(network: nn.Module, path: str | Path) -> None:
    """Give a built segmenter or classifier the weights of ``model.safetensors`` (normalisation too) or ``model.pt``.

    A shipped model's name is as good as its path.

    Raises:
        WeightsError: the file is of another kind, encoder or number of classes.
    """
    path = models.path_of(path, torch=True)
    encoder: Any = network.encoder
    info = read_info(path) if path.suffix.lower() == ".safetensors" else None
    if info is None:
        state = load_torch_checkpoint(path)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise WeightsError(
                f"does not fit a {network.kind} on {encoder.name}",
                path=path,
                remedy="name the encoder it was trained with",
            ) from error
        return
    require_same_architecture(path, info.architecture, encoder.name)
    load_whole_network(network, path)
    encoder.input = GrayInput(*info.normalisation).to(next(network.parameters()).device)
