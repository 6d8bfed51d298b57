"""What several processes compute as one does: one step's averaged gradients, and a whole training.

Run under torchrun for several processes; a test calls its functions for one.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import default_collate
from training_case import make_loop

from sonodistill.networks.encoder import plain_state_dict
from sonodistill_training.distributed import world
from sonodistill_training.sampling import EndlessShuffle, StepBatches

GRADIENTS = "gradients.pt"
START = "start.safetensors"
# A student without batch normalisation, whose statistics are each process's own.
STUDENT = {"student": "convnext_atto", "mixup": "off"}


def write_gradients(folder: Path) -> None:
    """Into ``GRADIENTS``, by name, of the third step of a training."""
    with world("cpu") as place:
        loop = make_loop(folder, **STUDENT)
        network = loop.method.network
        wrapped = DistributedDataParallel(network) if place.size > 1 else network
        order = EndlessShuffle(len(loop.dataset), 0)
        batches = StepBatches(order, 8 // place.size, 2, 3, place.rank, place.size)
        batch = default_collate([loop.dataset[position] for position in next(iter(batches))])
        loop.method.step(wrapped, batch, 2)["loss"].backward()
        if place.is_main:
            torch.save(
                {name: p.grad for name, p in network.named_parameters() if p.grad is not None}, folder / GRADIENTS
            )


def train(folder: Path, parts: int) -> None:
    """A training of three steps; two parts in one process are what two processes see of a batch."""
    settings = {**STUDENT, "precision": "fp32", "batch_size": 8}
    loop = make_loop(folder, max_steps=3, accumulate=parts, **settings)
    if parts > 1:
        save_file(plain_state_dict(loop.method.network.student), folder / START)
    loop.run()


if __name__ == "__main__":
    output = Path(sys.argv[1])
    with world("cpu"):
        write_gradients(output)
        train(output, parts=1)
