"""The network that a checkpoint holds, whatever its kind; its header has to be true."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sonodistill import models
from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.click import ClickSegmenter
from sonodistill.networks.encoder import Encoder, load_encoder_weights
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import StateDict, WeightsInfo, load_weights, network_part

PREDICTING = ("encoder", "segmenter", "classifier")
"""The kinds that need nothing but an image."""
_HEADS = {"segmenter": "segmentation_head.0.weight", "interactive": "features.weight", "classifier": "head.weight"}


def load_network(
    checkpoint: str | Path, labels: Sequence[str] | None = None, kinds: tuple[str, ...] = PREDICTING
) -> tuple[nn.Module, WeightsInfo]:
    """The network of a weights file, in eval mode on the CPU, and the file's header.

    Args:
        checkpoint: .safetensors of ours, or the name of a shipped model.
        labels: names of the classes in place of the header's.
        kinds: that the caller can use; besides :data:`PREDICTING` there is "interactive".

    Raises:
        WeightsError: no such file, one of another kind, or its tensors are not what its header says.
    """
    path = models.path_of(checkpoint, torch=True)
    if path.is_file() and path.suffix.lower() != ".safetensors":
        raise WeightsError(
            "has no header that says what it holds", path=path, remedy="give the model.safetensors that lies beside it"
        )
    whole, info = load_weights(path, kinds=kinds)
    state = network_part(whole)
    if (len(state) < len(whole)) != bool(info.familiarity):
        has = "names, and its tensors lack," if info.familiarity else "does not name, and its tensors have,"
        raise WeightsError(f"its header {has} a familiarity of frames", path=path, remedy="copy it again")
    if labels is not None:
        info = replace(info, labels=tuple(labels))
    found = _kind(state)
    if found != info.kind:
        raise _untrue(path, info, f"its tensors are those of a {found}")
    try:
        if info.kind == "encoder":
            network: nn.Module = Encoder(info.architecture, None, *info.normalisation)
            load_encoder_weights(network, path)  # type: ignore[arg-type]
        elif info.kind == "interactive":
            mean, std = info.normalisation
            shape = state[_HEADS["interactive"]].shape
            if len(shape) != 4 or shape[0] != shape[1]:
                raise WeightsError(f"its {_HEADS['interactive']} has the shape {tuple(shape)}")
            network = ClickSegmenter(info.architecture, shape[0], mean=mean, std=std)
            network.load_state_dict(state)
        else:
            head = state[_HEADS[info.kind]].shape
            if len(head) != (4 if info.kind == "segmenter" else 2) or not head[0]:
                raise WeightsError(f"its {_HEADS[info.kind]} has the shape {tuple(head)}")
            classes = head[0]
            if info.labels and len(info.labels) != classes:
                raise WeightsError(f"its tensors make {classes} output channels")
            kind: Any = Segmenter if info.kind == "segmenter" else Classifier
            mean, std = info.normalisation
            network = kind(info.architecture, classes=classes, mean=mean, std=std)
            network.load_state_dict(state)
    except SonoDistillError as error:
        raise _untrue(path, info, error.message) from error
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        details = lines[1:] or lines
        raise _untrue(path, info, f"{len(details)} tensors or more do not fit: {details[0][:160]}") from error
    return network.eval(), info


def _kind(state: StateDict) -> str:
    if not any(key.startswith("encoder.") for key in state):
        return "encoder"
    return next((kind for kind, key in _HEADS.items() if key in state), "encoder")


def _untrue(path: Path, info: WeightsInfo, found: str) -> WeightsError:
    labels = f" with the labels {', '.join(info.labels)[:100]}" if info.labels else ""
    return WeightsError(
        f"its header says {info.kind} of {info.architecture}{labels}, but {found}",
        path=path,
        remedy="take the file as the training wrote it; names of classes can be given with --labels",
    )
