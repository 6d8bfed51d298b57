"""The image encoder (Hiera) out of a SAM 2 checkpoint, of the sam2 package or of transformers, in timm's naming."""

from __future__ import annotations

import json
import re
from pathlib import Path

from sonodistill.errors import WeightsError
from sonodistill.weights import StateDict, load_torch_checkpoint

_SAM2 = "image_encoder.trunk."
_TRANSFORMERS = "vision_encoder.backbone."
_TO_TIMM = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"\.mlp\.(?:layers\.0|proj_in)\.", ".mlp.fc1."),
    (r"\.mlp\.(?:layers\.1|proj_out)\.", ".mlp.fc2."),
)
_FOLDER_KINDS = ("sam2", "sam2_video", "sam2_vision_model", "sam2_hiera_det_model")


def read_sam2(path: Path) -> StateDict:
    """The tensors of the image encoder's trunk.

    Args:
        path: ``sam2*_hiera_*.pt`` ({"model": {"image_encoder.trunk.*", "sam_mask_decoder.*" ...}}), a file of timm's,
            or a folder that transformers saved a SAM 2 model, or its vision part, to.

    Raises:
        WeightsError: a folder of another model, or a file that cannot be read.
    """
    return sam2_state(load_torch_checkpoint(_weights_of_folder(path) if path.is_dir() else path))


def sam2_state(state: StateDict) -> StateDict:
    """The trunk in timm's naming; a state dict that has none comes back as it is, to be compared with the network."""
    for mark in (_SAM2, _TRANSFORMERS, "backbone."):
        # A training may put more before it ("sam2.image_encoder.trunk."), a head of its own beside it.
        part = {key.partition(mark)[2]: value for key, value in state.items() if mark in key}
        if any(key.startswith("blocks.") for key in part):
            state = part
            break
    return {_timm_name(key): value for key, value in state.items()}


def _timm_name(key: str) -> str:
    for pattern, replacement in _TO_TIMM:
        key = re.sub(pattern, replacement, key)
    return key


def _weights_of_folder(folder: Path) -> Path:
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise WeightsError("this folder has no config.json that can be read", path=folder) from error
    if kind not in _FOLDER_KINDS:
        raise WeightsError(f"holds a {kind}, not a SAM 2", path=folder)
    if not (folder / "model.safetensors").is_file():
        raise WeightsError("has no model.safetensors", path=folder, remedy="save it again, as one safetensors file")
    return folder / "model.safetensors"
