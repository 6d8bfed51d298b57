"""What a training cost: seconds by the clock and the hardware, over all the runs that it was interrupted into."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from sonodistill_training.distributed import size
from sonodistill_training.hardware import processor


class Cost:
    """The seconds from the start of the trainer to its end, validation included, on each hardware.

    It is a part of the checkpoint, so that every whole epoch counts once. What a killed run spent on an epoch that it
    did not finish, and what reading the frames took before the first, is not counted.

    Args:
        device: that the network is on.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.hardware = hardware(torch.device(device))
        self._spent: dict[str, float] = {}
        self._since: float | None = None

    def start(self) -> None:
        """The clock runs from now on."""
        self._since = time.monotonic()

    def lap(self) -> None:
        """Add what has passed since the last lap."""
        if self._since is not None:
            now = time.monotonic()
            self._spent[self.hardware] = self._spent.get(self.hardware, 0.0) + now - self._since
            self._since = now

    def record(self) -> dict[str, Any]:
        """The entry ``cost`` of a weights file: seconds so far, and of them on each hardware."""
        self.lap()
        on = {name: round(seconds, 1) for name, seconds in self._spent.items()}
        return {"seconds": round(sum(self._spent.values()), 1), "hardware": on}

    def state_dict(self) -> dict[str, float]:
        """Seconds by hardware, up to now."""
        self.lap()
        return dict(self._spent)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from the seconds of the runs before."""
        self._spent = {str(name): float(seconds) for name, seconds in state.items()}


def hardware(device: torch.device) -> str:
    """In words: "2 threads of an Intel(R) Xeon(R) Processor", "2 x NVIDIA H100 80GB HBM3"."""
    processes = size()
    if device.type == "cuda":
        return f"{processes} x {torch.cuda.get_device_name(device)}"
    if device.type != "cpu":
        return f"{processes} x {device.type}"
    threads = processes * torch.get_num_threads()
    return f"{threads} thread{'s' if threads > 1 else ''} of {processor()}"
