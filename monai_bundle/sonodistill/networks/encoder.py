"""Encoders: any timm backbone as a feature pyramid over gray images."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.models import weights_of
from sonodistill.networks.hub import create_pretrained, require_timm_name
from sonodistill.weights import StateDict, WeightsInfo, load_torch_checkpoint, load_weights, read_info

logger = logging.getLogger(__name__)

# The mean of ImageNet's three channel statistics: what a gray image has instead of a colour.
GRAY_MEAN, GRAY_STD = 0.449, 0.226
NETWORK_KINDS = ("encoder", "segmenter", "classifier", "interactive")
_HUB_REMEDY = "give weights=<path of a file>, weights=None for random weights, or go online once"


class GrayInput(nn.Module):
    """Normalise a gray image and replicate it to the three channels that a pretrained stem expects.

    Args:
        mean: of the input in [0, 1], one value or three.
        std: likewise.

    Attributes:
        normalisation: (mean, std), each a tuple of one value or three, as a weights file records them.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, mean: float | Sequence[float] = GRAY_MEAN, std: float | Sequence[float] = GRAY_STD) -> None:
        super().__init__()
        self.normalisation = (_one_or_three("mean", mean), _one_or_three("std", std))
        for name, values in zip(("mean", "std"), self.normalisation, strict=True):
            # Not persistent: the header of the weights file records them, and a timm state dict has no such keys.
            self.register_buffer(name, torch.tensor(values).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in [0, 1] to (B, 3, H, W)."""
        return ((x - self.mean) / self.std).expand(-1, 3, -1, -1)


class Encoder(nn.Module):
    """A timm backbone without its classifier.

    Its parameters are named like those of segmentation_models_pytorch's ``tu-<name>`` encoder ("model.conv1.weight").

    Args:
        name: timm name ("resnet50", "convnext_tiny", "mobilenetv4_conv_small"), one whose last map has stride 32.
        weights: None or "random"; "imagenet" for timm's pretrained weights from the hub; or a file or the name of a
            shipped model: any of ours (the encoder is taken out of a segmenter or classifier), or a timm or
            torchvision state dict.
        mean: of the input in [0, 1], one value or three; by default the weights file's, else 0.449.
        std: likewise, else 0.226.
        drop_path_rate: stochastic depth while training.

    Attributes:
        name: as given.
        channels: of each map of :meth:`pyramid`.
        reductions: stride of each map, (2, 4, 8, 16, 32) or (4, 8, 16, 32).
        num_features: channels of the last map.
        input_multiple: height and width have to be multiples of this.

    Raises:
        BundleConfigError: no such model, or one that is no pyramid down to stride 32 (a plain ViT).
        WeightsError: the file is not of this architecture.
        HubUnreachableError: "imagenet" and no hub.
    """

    input_multiple = 32

    def __init__(
        self,
        name: str = "resnet50",
        weights: str | Path | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        require_timm_name(name)
        weights = weights_of(weights)
        options: dict[str, Any] = {"drop_path_rate": drop_path_rate} if drop_path_rate else {}
        try:
            if weights == "imagenet":
                self.model = create_pretrained(name, remedy=_HUB_REMEDY, features_only=True, **options)
            else:
                self.model = timm.create_model(name, pretrained=False, features_only=True, **options)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise BundleConfigError(f"timm cannot give {name} as a feature pyramid ({error})") from error
        self.name = name
        feature_info: Any = self.model.feature_info
        self.channels: tuple[int, ...] = tuple(feature_info.channels())
        self.reductions: tuple[int, ...] = tuple(feature_info.reduction())
        self.num_features = self.channels[-1]
        if self.reductions not in ((2, 4, 8, 16, 32), (4, 8, 16, 32)):
            raise BundleConfigError(
                f"{name} has maps of strides {self.reductions}, not 2 or 4 to 32",
                remedy="take a convolutional or hierarchical encoder: resnet50, convnext_tiny, mobilenetv4_conv_small",
            )
        self._channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")
        info = load_encoder_weights(self, weights) if isinstance(weights, Path) else None
        recorded_mean, recorded_std = info.normalisation if info else (GRAY_MEAN, GRAY_STD)
        self.input = GrayInput(recorded_mean if mean is None else mean, recorded_std if std is None else std)

    def pyramid(self, x: torch.Tensor) -> list[torch.Tensor]:
        """(B, 1, H, W) in [0, 1] to the maps (B, C_i, H / r_i, W / r_i) of :attr:`channels`, :attr:`reductions`."""
        maps = self.model(self.input(x))
        return [m.permute(0, 3, 1, 2).contiguous() for m in maps] if self._channels_last else maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 1, H, W) in [0, 1] to the last map (B, num_features, H / 32, W / 32)."""
        return self.pyramid(x)[-1]

    def from_maps(self, x: torch.Tensor, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """:meth:`forward` of an image whose maps are computed already."""
        del x
        return maps[-1]


def plain_state_dict(encoder: Encoder) -> StateDict:
    """The encoder's tensors as timm names those of ``create_model(..., features_only=True)``.

    A safetensors file of them loads strictly without this package: ``timm.create_model(name, features_only=True,
    checkpoint_path=FILE)``, and ``load_state_dict`` of the ``encoder.model`` of an ``smp.Unet("tu-<name>")``.
    """
    return encoder.model.state_dict()


def load_encoder_weights(encoder: Encoder, path: str | Path) -> WeightsInfo | None:
    """Copy the weights of a file into ``encoder``; every key of the encoder has to be there with its shape.

    A classifier or decoder that is in the file as well is left out. A file of a deeper network of the same family
    (ResNet-34 for ResNet-18) holds every key too, and is refused for the blocks it has beyond.

    Returns:
        The file's header, None for a foreign file.

    Raises:
        WeightsError: another architecture, or not a weights file.
    """
    path = Path(path)
    info = read_info(path) if path.suffix.lower() == ".safetensors" else None
    if info is None:
        state, found = load_torch_checkpoint(path), "a state dict that does not name its architecture"
    else:
        state, _ = load_weights(path, kinds=NETWORK_KINDS)
        found = info.architecture
        require_same_architecture(path, found, encoder.name)
    own = encoder.model.state_dict()
    plain = {_timm_key(key): key for key in own}
    state = _encoder_part(state, plain)
    optional = {key for key in plain if key.endswith("num_batches_tracked")}
    missing = sorted(plain.keys() - state.keys() - optional)
    reshaped = sorted(key for key in plain.keys() & state.keys() if state[key].shape != own[plain[key]].shape)
    stages = {_stage(key) for key in plain}
    beyond = sorted(key for key in state.keys() - plain.keys() if _stage(key) in stages)
    if missing or reshaped or beyond:
        problems = [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{' ...' if len(keys) > 3 else ''})"
            for what, keys in (("missing", missing), ("of another shape", reshaped), ("too many", beyond))
            if keys
        ]
        raise WeightsError(
            f"the encoder asked for is {encoder.name}, the file holds {found}: {'; '.join(problems)}",
            path=path,
            remedy="name the encoder that the file was made with",
        )
    encoder.model.load_state_dict({plain[key]: state[key] for key in plain if key in state}, strict=False)
    logger.info("%s: loaded %d tensors into %s", path.name, len(plain), encoder.name)
    return info


def require_same_architecture(path: str | Path, found: str, asked: str) -> None:
    """Raise WeightsError when two timm names differ before their pretrained tag."""
    if found.split(".")[0] != asked.split(".")[0]:
        raise WeightsError(
            f"holds weights of {found}, but {asked} was asked for",
            path=path,
            remedy=f"ask for {found}, or another file",
        )


def _one_or_three(name: str, value: float | Sequence[float]) -> tuple[float, ...]:
    values = (float(value),) if isinstance(value, (int, float)) else tuple(float(v) for v in value)
    if len(values) not in (1, 3):
        raise BundleConfigError(f"{name} has {len(values)} values; one or three are needed")
    return values


def _encoder_part(state: StateDict, wanted: Collection[str]) -> StateDict:
    """The tensors of the encoder by :func:`_timm_key`, of whichever prefix gives most of the ``wanted`` ones.

    A segmenter puts "encoder.model." before them, a student of the first release "model."; an exported student and
    timm put none, except that some names of timm's own start with "model." as well.
    """
    parts = (
        {_timm_key(key.removeprefix(prefix)): value for key, value in state.items() if key.startswith(prefix)}
        for prefix in ("encoder.model.", "encoder.", "model.", "")
    )
    return max(parts, key=lambda part: len(part.keys() & set(wanted)))


def _timm_key(key: str) -> str:
    """timm's features-only wrappers rename "stages.0.x" to "stages_0.x" or "x" to "model.x"; this undoes both."""
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", key.removeprefix("model."))


def _stage(key: str) -> str:
    return key.split(".")[0]
