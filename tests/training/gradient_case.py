"""One step's averaged gradients, written by rank 0: run under torchrun or alone."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import default_collate
from training_case import make_loop

from sonodistill_training.distributed import world
from sonodistill_training.sampling import EndlessShuffle, StepBatches

if __name__ == "__main__":
    with world("cpu") as place:
        # A student without batch normalisation, whose statistics are each process's own.
        loop = make_loop(Path(sys.argv[1]).parent, student="convnext_atto", mixup="off")
        network = loop.method.network
        wrapped = DistributedDataParallel(network) if place.size > 1 else network
        order = EndlessShuffle(len(loop.dataset), 0)
        batches = StepBatches(order, 8 // place.size, 2, 3, place.rank, place.size)
        batch = default_collate([loop.dataset[position] for position in next(iter(batches))])
        loop.method.step(wrapped, batch, 2)["loss"].backward()
        if place.is_main:
            torch.save({name: p.grad for name, p in network.named_parameters() if p.grad is not None}, sys.argv[1])
