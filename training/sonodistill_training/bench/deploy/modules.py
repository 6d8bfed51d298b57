"""Modules of torch as they are, for a worker: eager, channels-last, bf16 and compiled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sonodistill.errors import BundleConfigError
from sonodistill_training.bench.deploy import networks
from sonodistill_training.bench.deploy.resources import pin
from sonodistill_training.bench.deploy.variants import COMPILED, EAGER


def load_module(job: dict[str, Any]) -> tuple[Callable[[Any], Any], dict[str, Any]]:
    """The call, and what is to be known of it, of a :class:`~sonodistill_training.bench.deploy.worker.Worker`'s job.

    Raises:
        BundleConfigError: a GPU is asked for and there is none.
        WeightsError: the weights file is not what it has to be.
    """
    if job["device"] == "cuda" and not torch.cuda.is_available():
        raise BundleConfigError("there is no CUDA device", remedy="--device cpu")
    network = _network(job).to(job["device"]).requires_grad_(False)
    pin(job["threads"])  # the slow imports came before
    torch.set_num_threads(job["threads"])
    variant = job["variant"]
    if variant not in (EAGER, COMPILED):
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bf16 = job["precision"] == "bf16"
    compute: Any = torch.compile(network) if variant == COMPILED else network

    def call(images: Any) -> Any:
        with torch.inference_mode(), _autocast(job["device"], bf16):
            tensor = torch.from_numpy(images).to(job["device"])
            return compute(tensor).float().cpu().numpy()

    return call, {"computed_in": job["precision"], "torch": torch.__version__}


def _network(job: dict[str, Any]) -> nn.Module:
    if job["network"]:
        return networks.build(job["network"], job["size"])
    from sonodistill.networks.checkpoint import load_network

    return load_network(job["path"])[0]


def _autocast(device: str, bf16: bool) -> contextlib.AbstractContextManager[Any]:
    return torch.autocast(device, torch.bfloat16) if bf16 else contextlib.nullcontext()
