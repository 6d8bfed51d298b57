"""Teacher backbones from timm, from transformers and from local files, all with one output: a list of maps."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import sys
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import nn
from transformers import AutoConfig, AutoModel, BaseImageProcessor, PreTrainedModel

from sonodistill.errors import BundleConfigError, HubUnreachableError, WeightsError
from sonodistill.networks.encoder import require_same_architecture
from sonodistill.networks.hub import create_pretrained, hub_errors, hub_problem, require_timm_name
from sonodistill.weights import StateDict, load_torch_checkpoint, load_weights, read_info, read_metadata

logger = logging.getLogger(__name__)

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HUB_REMEDY = (
    "give the path of a local copy (a file with architecture=<timm name>, or a transformers folder), "
    "or take the offline teacher: sonodistill weights fetch dinov2_vits14, then teacher dinov2_vits14; "
    "a gated model (DINOv3) needs its licence accepted on the hub and `hf auth login`"
)
_NOT_BACKBONE = ("head.", "fc.", "classifier.", "mask_token")
_DINOV3_NOTICE = (
    "Built with DINOv3. The teacher's weights are under the DINOv3 License "
    "(https://ai.meta.com/resources/models-and-libraries/dinov3-license/); "
    "if you pass on this student, pass on a copy of that licence with it."
)
_DINOV2_NOTICE = "Distilled from DINOv2 (Meta AI), Apache License 2.0."


class Backbone(nn.Module):
    """(B, 3, H, W), normalised, to the maps (B, d, h, w) of the last blocks, the earliest first.

    Attributes:
        dims: channels of each map.
        patch_size: stride of the last map in pixels.
        mean: of the input in [0, 1], three values.
        std: likewise.
        licence_notice: what the licence of the weights asks for.
    """

    dims: tuple[int, ...]
    patch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    licence_notice: str


class TimmBackbone(Backbone):
    """Any timm model with ``forward_intermediates``: a ViT, or a hierarchical network with stages for blocks."""

    def __init__(self, model: Any, blocks: int, licence_notice: str) -> None:
        super().__init__()
        stages = model.feature_info
        _check_blocks(blocks, len(stages))
        self.model = model
        self.blocks = blocks
        self.dims = tuple(stage["num_chs"] for stage in stages[-blocks:])
        self.patch_size = stages[-1]["reduction"]
        self.mean = tuple(model.pretrained_cfg["mean"])
        self.std = tuple(model.pretrained_cfg["std"])
        self.licence_notice = licence_notice

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        # norm=True: the final norm on every block taken, without which the target's scale drifts from block to block.
        return self.model.forward_intermediates(
            x, indices=self.blocks, norm=True, output_fmt="NCHW", intermediates_only=True
        )


class TransformersBackbone(Backbone):
    """A DINOv2 or DINOv3 ViT of transformers."""

    def __init__(self, model: PreTrainedModel, blocks: int, normalisation: tuple, licence_notice: str) -> None:
        super().__init__()
        config = model.config
        _check_blocks(blocks, config.num_hidden_layers)
        self.model = model
        self.norm = model.norm if hasattr(model, "norm") else model.layernorm
        self.blocks = blocks
        self.dims = (config.hidden_size,) * blocks
        self.patch_size = config.patch_size
        self.prefix_tokens = 1 + getattr(config, "num_register_tokens", 0)
        self.mean, self.std = normalisation
        self.licence_notice = licence_notice

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        height, width = x.shape[-2] // self.patch_size, x.shape[-1] // self.patch_size
        output = self.model(pixel_values=x, output_hidden_states=True)
        # hidden_states come before the final norm, except that some versions tie the last one to last_hidden_state.
        tokens = [self.norm(hidden) for hidden in output.hidden_states[-self.blocks : -1]] + [output.last_hidden_state]
        return [t[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, (height, width)).contiguous() for t in tokens]


def timm_backbone(name: str, *, blocks: int, input_size: int, random: bool = False) -> TimmBackbone:
    """A timm model with the hub's weights, or random ones.

    Raises:
        HubUnreachableError: neither cached nor to be had from the hub.
        BundleConfigError: timm has no such model.
    """
    require_timm_name(name)
    size = _size_options(name, input_size)
    if random:
        model = timm.create_model(name, pretrained=False, num_classes=0, **size)
    else:
        model = create_pretrained(name, remedy=HUB_REMEDY, num_classes=0, **size)
    return TimmBackbone(model, blocks, licence_notice(name, timm_licence(name)))


def backbone_from_file(
    path: Path, architecture: str | None, *, blocks: int, input_size: int, random: bool = False
) -> TimmBackbone:
    """A timm model with the weights of a local file in timm's or facebookresearch's naming.

    A position embedding is resampled to the grid of ``input_size``, and a mask token dropped.

    Raises:
        WeightsError: no such file, an architecture that nobody named, or weights that are not of it.
    """
    if not path.is_file():
        raise WeightsError("there is no such file", path=path, remedy="give the path of a teacher's weights")
    info = read_info(path) if path.suffix.lower() == ".safetensors" else None
    recorded = info.architecture if info else _foreign_architecture(path)
    name = architecture or recorded
    if name is None:
        raise WeightsError(
            "the file does not say which architecture it holds",
            path=path,
            remedy="add architecture=<timm name>, such as vit_base_patch16_dinov3",
        )
    if recorded is not None:
        require_same_architecture(path, recorded, name)
    backbone = timm_backbone(name, blocks=blocks, input_size=input_size, random=True)
    if info is not None and info.licence_notice:
        backbone.licence_notice = info.licence_notice
    if random:
        return backbone
    state = load_weights(path, kinds=("teacher",))[0] if info else load_torch_checkpoint(path)
    _load_strictly(backbone.model, state, path, name, recorded)
    return backbone


def transformers_backbone(
    spec: str | Path, *, blocks: int, input_size: int, random: bool = False
) -> TransformersBackbone:
    """A DINOv2 or DINOv3 ViT from a transformers folder, or by id from the hub or its cache.

    Raises:
        HubUnreachableError: neither cached nor to be had from the hub.
        WeightsError: the folder holds another kind of model.
    """
    local = isinstance(spec, Path)
    problem = None if local else hub_problem()
    local_only = local or problem is not None
    with contextlib.nullcontext() if local else hub_errors(str(spec), HUB_REMEDY):
        try:
            config = AutoConfig.from_pretrained(spec, local_files_only=local_only)
            if config.model_type not in ("dinov2", "dinov2_with_registers", "dinov3_vit"):
                raise WeightsError(
                    f"{spec} is a {config.model_type}; DINOv2 and DINOv3 ViTs are read through transformers",
                    remedy="take its timm name (convnext_tiny.dinov3_lvd1689m)",
                )
            if random:
                model = AutoModel.from_config(config)
            else:
                model, loading = AutoModel.from_pretrained(
                    spec, local_files_only=local_only, dtype=torch.float32, output_loading_info=True
                )
                # transformers would go on with random values in their place
                if missing := sorted(set(loading["missing_keys"]) - {"embeddings.mask_token"}):
                    raise WeightsError(f"{spec} lacks {len(missing)} tensors: {', '.join(missing[:3])}")
        except (OSError, ValueError) as error:
            if problem is not None:
                raise HubUnreachableError(
                    f"the weights of {spec} are not cached and the hub does not answer: {problem}", remedy=HUB_REMEDY
                ) from error
            if local:
                raise WeightsError(str(error).splitlines()[0], path=spec, remedy="save it again") from error
            raise
    _resample_position_embedding(model, input_size)
    return TransformersBackbone(
        model, blocks, _processor_normalisation(spec, local_only), licence_notice(config.model_type)
    )


def licence_notice(name: str, licence: str | None = None) -> str:
    """What goes along with a student of the teacher ``name``; ``licence`` is what timm records for its weights."""
    plain = name.lower().replace("_", "").replace("-", "")
    if "dinov3" in plain or licence == "dinov3-license":
        return _DINOV3_NOTICE
    if "dinov2" in plain:
        return _DINOV2_NOTICE
    return f"Distilled from {name}, whose weights timm records as {licence}." if licence else ""


def timm_licence(name: str) -> str | None:
    """The licence timm records for the weights of a model, if any."""
    config = timm.get_pretrained_cfg(name)
    return config.license if config else None


def _size_options(name: str, input_size: int) -> dict[str, Any]:
    """Arguments for models with an input size: an absolute position embedding is laid out for it, others adapt."""
    with torch.device("meta"):
        parameters = inspect.signature(type(timm.create_model(name)).__init__).parameters
    options: dict[str, Any] = {"img_size": input_size} if "img_size" in parameters else {}
    if "dynamic_img_size" in parameters:
        options["dynamic_img_size"] = True
    return options


def _foreign_architecture(path: Path) -> str | None:
    """The timm name at the start of an "architecture" entry in a foreign safetensors header."""
    if path.suffix.lower() != ".safetensors":
        return None
    words = read_metadata(path).get("architecture", "").replace(",", " ").split()
    return next((word for word in words if timm.is_model(word.split(".")[0])), None)


def _load_strictly(model: nn.Module, state: StateDict, path: Path, name: str, recorded: str | None) -> None:
    state = {key: value.float() if value.is_floating_point() else value for key, value in state.items()}
    found = recorded or f"a state dict that starts with {', '.join(sorted(state)[:3])}"
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    problem = None
    if convert is not None:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # timm prints there for each bias that it leaves out
                state = convert(state, model)
        except (KeyError, RuntimeError, ValueError, AttributeError, IndexError, AssertionError) as error:
            problem = f"its names cannot be converted ({error!r})"
    own = model.state_dict()
    # The classifier of an ImageNet file, and the token of masked training, have no part in the target.
    state = {
        k: v for k, v in state.items() if k in own or not k.startswith(("head.", "fc.", "classifier.", "mask_token"))
    }
    missing = sorted(own.keys() - state.keys())
    unknown = sorted(state.keys() - own.keys())
    reshaped = sorted(k for k in own.keys() & state.keys() if own[k].shape != state[k].shape)
    if problem is None and (missing or unknown or reshaped):
        problem = "; ".join(
            f"{len(keys)} {what}: {', '.join(keys[:3])}"
            for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", reshaped))
            if keys
        )
    if problem is not None:
        raise WeightsError(
            f"{name} was asked for, the file holds {found}: {problem}",
            path=path,
            remedy="give architecture=<the timm name the weights belong to>",
        )
    model.load_state_dict(state)


def _resample_position_embedding(model: Any, input_size: int) -> None:
    """Lay DINOv2's absolute embedding out for ``input_size`` as timm does, so that both backends have one target."""
    embedding = getattr(model.embeddings, "position_embeddings", None)
    if embedding is None:
        return
    side = input_size // model.config.patch_size
    if embedding.shape[1] != side * side + 1:
        resampled = resample_abs_pos_embed(embedding.data, new_size=[side, side], num_prefix_tokens=1)
        model.embeddings.position_embeddings = nn.Parameter(resampled)


def _processor_normalisation(spec: str | Path, local_only: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    try:
        settings, _ = BaseImageProcessor.get_image_processor_dict(spec, local_files_only=local_only)
        return tuple(settings["image_mean"]), tuple(settings["image_std"])
    except (OSError, KeyError):
        logger.warning("%s has no preprocessor_config.json: taking ImageNet's mean and std", spec)
        return IMAGENET_MEAN, IMAGENET_STD


def _check_blocks(blocks: int, available: int) -> None:
    if not 1 <= blocks <= available:
        raise BundleConfigError(f"blocks={blocks}, but the teacher has {available}", remedy=f"take 1 to {available}")
