"""TorchScript: a traced network with MONAI's metadata, for MONAI Deploy, MONAI Label, libtorch and Triton."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import save_net_with_metadata
from torch import nn

from sonodistill.inference.exported import FILE, ExportInfo, to_text
from sonodistill_training.export.targets.capture import unsupported
from sonodistill_training.export.targets.cast import in_precision
from sonodistill_training.export.targets.quiet import quiet


def write(network: nn.Module, path: Path, info: ExportInfo, calibration: Sequence[Any] | None = None) -> None:
    """Write ``network`` in ``info.precision``, whose input and output stay float32."""
    del calibration
    example = torch.rand((2, 1, *info.input_size), generator=torch.Generator().manual_seed(0))
    with quiet(), torch.no_grad():  # warnings that sizes become constants, as they shall
        try:
            traced = torch.jit.trace(in_precision(network, info.precision), example, check_trace=False)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as error:
            raise unsupported(info.target, error) from error
    _save(traced, path, info)


def stamp(path: Path, info: ExportInfo) -> None:
    """Let the file say ``info`` of itself."""
    with quiet():
        network = torch.jit.load(path)
    _save(network, path, info)


def _save(network: Any, path: Path, info: ExportInfo) -> None:
    with quiet():  # that TorchScript is deprecated: what reads it is not ours to change
        save_net_with_metadata(network, str(path), meta_values=_monai_metadata(info), more_extra_files=_files(info))


def _files(info: ExportInfo) -> dict[str, bytes]:
    files = {FILE: to_text(info)}
    if info.weights.kind in _TRANSFORMS:
        files["inference.json"] = json.dumps(_monai_inference(info))
    return {name: text.encode() for name, text in files.items()}


def _monai_metadata(info: ExportInfo) -> dict[str, Any]:
    """``metadata.json`` of MONAI's bundle format, as far as one file knows it."""
    weights = info.weights
    height, width = info.input_size
    names = (["background"] if weights.kind == "segmenter" else []) + list(weights.labels)
    channels = {str(index): name for index, name in enumerate(names)}
    image: dict[str, Any] = {"type": "image", "format": "ultrasound", "modality": "US", "num_channels": 1}
    image |= {"spatial_shape": [height, width], "dtype": "float32", "value_range": [0, 1], "is_patch_data": False}
    output: dict[str, Any] = {"type": _OUTPUTS[weights.kind], "format": "logits", "dtype": "float32", "value_range": []}
    output |= {"num_channels": max(1, len(weights.labels)), "channel_def": channels}
    return {
        "version": weights.version or info.tools.get("sonodistill", ""),
        "name": f"{weights.architecture} {weights.kind}",
        "copyright": weights.licence_notice,
        "network_data_format": {
            "inputs": {"image": {**image, "channel_def": {"0": "image"}}},
            "outputs": {"pred": output},
        },
    }


def _monai_inference(info: ExportInfo) -> dict[str, Any]:
    """``inference.json`` of MONAI Deploy's bundle operator, which reads it out of the archive.

    That operator hands over the pixels of a DICOM series, (W, H, 1) of 0 to 255, and takes back an image of label
    numbers or, of a classifier, the number of the class. MONAI's own transforms only: it need not know SonoDistill.
    """
    height, width = info.input_size
    image = [
        {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x.squeeze(-1)[None].transpose(1, 2).float()"},
        {"_target_": "Lambdad", "keys": "image", "func": "@remember"},
        {"_target_": "Lambdad", "keys": "image", "func": f"$lambda x: @resize(x, {height}, {width}).round() / 255"},
    ]
    return {
        "imports": ["$import torch"],
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "inferer": {"_target_": "SimpleInferer"},
        "remember": "$lambda x: (x.meta.update(source_size=tuple(x.shape[1:])), x)[1]",
        "area": _AREA,
        "resize": _RESIZE,
        "preprocessing": {"_target_": "Compose", "transforms": image},
        "postprocessing": {"_target_": "Compose", "transforms": _TRANSFORMS[info.weights.kind]},
    }


# geometry.to_input in torch: (m, n) float32, the share of each of n pixels in each of m larger ones
_AREA = (
    "$lambda n, m: (lambda edge, j: (torch.minimum(edge[1:, None], j + 1) - torch.maximum(edge[:-1, None], j))"
    ".clamp(0) * m / n)(torch.arange(m + 1, dtype=torch.float64) * n / m, torch.arange(n)).float()"
)
_RESIZE = (
    "$lambda x, h, w: torch.einsum('ij,cjk,lk->cil', @area(x.shape[1], h).to(x.device), x, "
    "@area(x.shape[2], w).to(x.device)) if h <= x.shape[1] and w <= x.shape[2] "
    "else torch.nn.functional.interpolate(x[None], (h, w), mode='bilinear')[0]"
)
_RESTORE = (
    "$lambda data: {**data, 'pred': torch.nn.functional.interpolate("
    "data['pred'][None], data['image'].meta['source_size'], mode='bilinear')[0]}"
)
_TRANSFORMS: dict[str, list[dict[str, Any]]] = {
    "segmenter": [
        {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
        {"_target_": "Lambda", "func": _RESTORE},
        {"_target_": "Lambdad", "keys": "pred", "func": "$lambda p: ((p.argmax(0) + 1) * (p.amax(0) > 0.5))[None]"},
    ],
    "classifier": [{"_target_": "AsDiscreted", "keys": "pred", "argmax": True}],
}
_OUTPUTS = {"segmenter": "image", "classifier": "probabilities", "encoder": "image"}
