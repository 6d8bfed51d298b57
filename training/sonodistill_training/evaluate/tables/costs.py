"""Parameters and multiply-accumulates of the two networks of paper A's Table 5, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sonodistill_training.evaluate.tables.published import TEACHER, US

SIZES = (224, 256)
_NETWORKS = {TEACHER: ("vit_base_patch16_dinov3", "light", 1), US: ("resnet50", "unet", None)}
"""timm's name, the head, and how many of the last maps it is given (None: all)."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a network for segmentation costs.

    Attributes:
        encoder_millions, millions: parameters (10^6) of the encoder, and with its head.
        gmacs: multiply-accumulates (10^9) of its convolutions and linear layers, by pixels of a side of the input.
    """

    encoder_millions: float
    millions: float
    gmacs: dict[int, float]


@cache
def cost_of(row: str) -> Cost | None:
    """The cost of paper A's teacher or student with its head; None for another row.

    The products between tokens in a transformer's attention are not counted, as by most counters (about 4 % of a
    ViT-B/16's).
    """
    if row not in _NETWORKS:
        return None
    import timm
    import torch
    from torch import nn

    from sonodistill.networks.build import HEADS

    name, head_name, last = _NETWORKS[row]
    with torch.device("meta"):  # shapes without memory or arithmetic
        encoder = timm.create_model(name, num_classes=0, **({"dynamic_img_size": True} if last else {})).eval()
        info = encoder.feature_info
        maps = [(level["num_chs"], level["reduction"]) for level in info][-last if last else 0 :]
        head = HEADS[head_name].make([channels for channels, _ in maps], [stride for _, stride in maps], 1).eval()

    def macs(size: int) -> float:
        counted: list[int] = []

        def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
            # Every element of the output is a sum over one row of the weights.
            counted.append(output.numel() * layer.weight[0].numel())  # type: ignore[index]

        layers = [m for part in (encoder, head) for m in part.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        hooks = [layer.register_forward_hook(count) for layer in layers]
        with torch.no_grad():
            image = torch.empty(1, 3, size, size, device="meta")
            head(encoder.forward_intermediates(image, indices=last, intermediates_only=True), (size, size))
        for hook in hooks:
            hook.remove()
        return sum(counted) / 1e9

    parameters = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (encoder, head)]
    return Cost(parameters[0], sum(parameters), {size: macs(size) for size in SIZES})
