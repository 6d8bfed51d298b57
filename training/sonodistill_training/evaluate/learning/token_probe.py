"""DINOv2's linear evaluation: linear heads on class tokens, one for each choice of tokens and each learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class Choice:
    """Which tokens a head reads: class tokens of the last ``blocks``, and the mean patch token or not."""

    blocks: int
    mean: bool

    @property
    def title(self) -> str:
        """ "class tokens of the last 4 blocks and mean patch token"."""
        if not self.blocks:
            return "mean of the last map"
        classes = (
            "class token of the last block" if self.blocks == 1 else f"class tokens of the last {self.blocks} blocks"
        )
        return classes + (" and mean patch token" if self.mean else "")


class TokenHeads(nn.Module):
    """Linear layers on plain tokens (no normalisation); weights start as N(0, 0.01), biases at 0, as in DINOv2.

    Args:
        tokens: of each frame: class tokens, the last block's first, then the mean patch token; 1 is the mean alone.
        width: channels of a token.
        classes: of the logits.
        rates: heads for each choice of tokens.

    Attributes:
        choices: of tokens, in the order of the logits: the last block or all, without and with the mean patch token.
    """

    def __init__(self, tokens: int, width: int, classes: int, rates: int) -> None:
        super().__init__()
        blocks = tokens - 1
        numbers = dict.fromkeys((1, blocks)) if blocks else (0,)
        self.choices = tuple(Choice(n, mean) for n in numbers for mean in ((False, True) if blocks else (True,)))
        self.classes, self.rates = classes, rates
        self.heads = nn.ModuleList(
            nn.Linear((choice.blocks + choice.mean) * width, classes) for choice in self.choices for _ in range(rates)
        )
        for head in self.heads:
            nn.init.normal_(head.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(head.bias)  # type: ignore[arg-type]

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """[(B, tokens, width)] to logits (heads, B, classes), all rates of one choice beside each other."""
        tokens = features[0]
        logits = []
        for number, choice in enumerate(self.choices):
            parts = [tokens[:, : choice.blocks].flatten(1)] + ([tokens[:, -1]] if choice.mean else [])
            own: Any = self.heads[number * self.rates : (number + 1) * self.rates]
            weight, bias = torch.cat([head.weight for head in own]), torch.cat([head.bias for head in own])
            found = nn.functional.linear(torch.cat(parts, dim=1), weight, bias)
            logits.append(found.unflatten(1, (self.rates, self.classes)).transpose(0, 1))
        return torch.cat(logits)

    def parameter_groups(self, rates: Sequence[float]) -> list[dict[str, Any]]:
        """An optimiser's groups, one a head."""
        return [
            {"params": list(head.parameters()), "lr": rates[number % self.rates]}
            for number, head in enumerate(self.heads)
        ]

    def parameters_of(self, choice: int) -> int:
        """Of one head of a choice."""
        return sum(parameter.numel() for parameter in self.heads[choice * self.rates].parameters())
