"""Projection head of DINO and iBOT: an MLP to a narrow unit vector, and its cosines with the prototypes."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError


class ProjectionHead(nn.Module):
    """(..., dim) to (..., prototypes) cosines (DINO, appendix C: "projection head").

    The last layer is weight-normalised with its gain fixed at 1, so that only the direction of a prototype is learnt.

    Args:
        dim: of a token.
        prototypes: K.
        hidden: width of the MLP.
        bottleneck: width before the last layer.
        layers: of the MLP, one or more.

    Attributes:
        prototypes: (K, bottleneck) weight, of any length.

    Raises:
        BundleConfigError: a size below 1.
    """

    def __init__(
        self, dim: int, prototypes: int = 65536, hidden: int = 2048, bottleneck: int = 256, layers: int = 3
    ) -> None:
        super().__init__()
        if min(dim, prototypes, hidden, bottleneck, layers) < 1:
            raise BundleConfigError(
                f"a head of {layers} layers of {hidden} to {bottleneck} and {prototypes} prototypes",
                remedy="give 1 or more of each",
            )
        widths = [dim, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for number, (inside, outside) in enumerate(pairwise(widths)):
            linear = nn.Linear(inside, outside)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            modules += [linear] if number == layers - 1 else [linear, nn.GELU()]
        self.mlp = nn.Sequential(*modules)
        self.prototypes = nn.Linear(bottleneck, prototypes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., prototypes), each in [-1, 1]."""
        return self.cosines(self.units(x))

    def units(self, x: Tensor) -> Tensor:
        """(..., dim) to (..., bottleneck) vectors of length 1."""
        return functional.normalize(self.mlp(x), dim=-1, eps=1e-6)

    def cosines(self, units: Tensor) -> Tensor:
        """(..., bottleneck) to (..., prototypes)."""
        return functional.linear(units, functional.normalize(self.prototypes.weight, dim=-1))
