"""A whole training of a student without batch normalisation: run under torchrun or alone."""

from __future__ import annotations

import sys
from pathlib import Path

from safetensors.torch import save_file
from training_case import make_loop

from sonodistill.networks.encoder import plain_state_dict
from sonodistill_training.distributed import rank

if __name__ == "__main__":
    output, accumulate = Path(sys.argv[1]), 2 // int(sys.argv[2])
    settings = {"student": "convnext_atto", "mixup": "off", "precision": "fp32", "batch_size": 8}
    # Two parts in one process are what two processes see of a batch.
    loop = make_loop(output, max_steps=3, accumulate=accumulate, **settings)
    if rank() == 0 and accumulate == 2:
        output.mkdir(parents=True, exist_ok=True)
        save_file(plain_state_dict(loop.method.network.student), output / "start.safetensors")
    loop.run()
