"""What is measured: a network of a name, or a trained one of a weights file, with the files it was exported to."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sonodistill_training.bench.deploy.process import Child, ChildError
from sonodistill_training.bench.deploy.variants import Variant

_EXPORT_SECONDS = 600.0


@dataclass
class Subject:
    """A network and its exported files.

    Attributes:
        name: in the table.
        network: its name for :func:`~sonodistill_training.bench.deploy.networks.build`; "" of a trained one.
        checkpoint: weights file of a trained one.
        size: pixels of a side of its input.
        files: by target.
        reasons: why a target has no file.
    """

    name: str
    network: str
    checkpoint: Path | None
    size: int
    files: dict[str, Path] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def export(self, variants: Sequence[Variant], folder: Path, calibration: Path) -> None:
        """Write the files that the variants need, in a process of its own; what cannot be written gets a reason.

        Args:
            folder: for the files.
            calibration: (N, 1, S, S) float32 frames, .npy.
        """
        targets = list(dict.fromkeys(variant.target for variant in variants if variant.target))
        job = {
            "network": self.network,
            "path": str(self.checkpoint or ""),
            "size": self.size,
            "folder": str(folder),
            "calibration": str(calibration),
        }
        while targets:
            with Child("exporter", job) as child:
                targets = self._export(child, targets)

    def remove_files(self) -> None:
        """Remove what it was exported to."""
        for target, path in self.files.items():
            shutil.rmtree(path.parent, ignore_errors=True)
            self.reasons[target] = "its file was removed"
        self.files.clear()

    def job(self, variant: Variant, threads: int, device: str) -> dict[str, Any]:
        """What a worker needs to load it.

        Raises:
            ChildError: there is no file of the variant's format.
        """
        if variant.target and variant.target not in self.files:
            raise ChildError(self.reasons.get(variant.target, f"not exported to {variant.target}"))
        path = self.files[variant.target] if variant.target else self.checkpoint
        return {
            "variant": variant.name,
            "eager": variant.is_eager,
            "runtime": variant.runtime,
            "precision": variant.asked_precision,
            "path": str(path or ""),
            "network": self.network,
            "size": self.size,
            "threads": threads,
            "device": device,
        }

    def _export(self, child: Child, targets: list[str]) -> list[str]:
        """Those that are left when the process has ended at one of them."""
        try:
            child.ready()
        except ChildError as error:
            self.reasons |= dict.fromkeys(targets, error.message)
            return []
        for place, target in enumerate(targets):
            try:
                answer = child.ask({"target": target}, _EXPORT_SECONDS)
                self.files[target] = Path(answer["path"])
            except ChildError as error:
                self.reasons[target] = error.message
                if not child.is_alive():
                    return targets[place + 1 :]
        return []
