"""All that changes while training: the network, its average, the optimiser, and the network that DDP wraps."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sonodistill_training.distributed import World
from sonodistill_training.settings import Settings, decay_groups


class State:
    """All that changes while training.

    Args:
        groups: of parameters, where a method has its own; by default those of :func:`decay_groups`.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: Settings,
        place: World,
        bf16: bool,
        groups: list[dict[str, Any]] | None = None,
    ) -> None:
        self.network, self.place, self.bf16 = network, place, bf16
        groups = decay_groups(network, settings.weight_decay) if groups is None else groups
        self.optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)
        self.average = ModelEmaV3(network, decay=settings.ema, use_warmup=True) if settings.ema else None
        self.wrapped = network
        if place.size > 1:
            self.wrapped = DistributedDataParallel(
                network, device_ids=[place.device.index] if place.device.type == "cuda" else None
            )

    @property
    def best(self) -> nn.Module:
        """The average where there is one."""
        return self.network if self.average is None else self.average.module

    def synchronised(self, last: bool) -> AbstractContextManager[None]:
        """Processes add their gradients up once a step, with its last part."""
        if last or not isinstance(self.wrapped, DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    def contents(self) -> dict[str, Any]:
        """For a checkpoint."""
        contents = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        return contents if self.average is None else contents | {"average": self.average.module.state_dict()}

    def restore(self, contents: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self.network.load_state_dict(contents["network"])
        self.optimizer.load_state_dict(contents["optimizer"])
        if self.average is not None:
            self.average.module.load_state_dict(contents["average"])
