"""A process that writes one network in the formats of the runtimes: ``python -m ...exporter JOB``, see ``worker``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sonodistill_training.bench.deploy.worker import serve


class Exporter:
    """The network, and its files as they are asked for.

    Args:
        job: ``network`` (a name) or ``path`` (of a weights file), ``size`` (pixels), ``folder`` for the files,
            ``calibration`` (an array of frames (N, 1, S, S) float32, .npy).
    """

    def __init__(self, job: dict[str, Any]) -> None:
        import numpy as np
        import torch

        from sonodistill.networks.checkpoint import load_network
        from sonodistill_training.bench.deploy import networks
        from sonodistill_training.export.network import fold_stem

        torch.set_num_threads(1)
        self._job, size = job, job["size"]
        if job["network"]:
            network = networks.build(job["network"], size)
            self._weights = networks.describe(job["network"], network, size)
        else:
            network, info = load_network(job["path"])
            self._weights = replace(info, familiarity={})  # what is timed is the network alone
        self._network = fold_stem(network).requires_grad_(False)
        self._calibration = list(np.load(job["calibration"]))
        self.about: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the format ``target``; the ``path`` of the file."""
        from sonodistill.inference.exported import ExportInfo
        from sonodistill_training.export.targets import find_target

        target = find_target(request["target"])
        size = (self._job["size"],) * 2
        info = ExportInfo(self._weights, target.name, target.precisions[0], size)
        folder = Path(self._job["folder"]) / target.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"model{target.suffix}"
        target.write(self._network, path, info, self._calibration)
        return {"path": str(path)}


if __name__ == "__main__":
    serve(Exporter)
