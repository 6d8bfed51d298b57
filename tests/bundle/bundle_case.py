"""Where the bundle is, and a labelled folder small enough to train on in seconds."""

from __future__ import annotations

from pathlib import Path

from sonodistill_training.corpus.simulator import write_simulated

BUNDLE = Path(__file__).resolve().parents[2] / "monai_bundle"
CONFIGS = BUNDLE / "configs"
SMALL = {"encoder": "resnet18", "input_size": [64, 64], "max_epochs": 2, "batch_size": 8, "device": "cpu"}


def labelled_folder(folder: Path) -> Path:
    """Forty simulated frames with masks."""
    write_simulated(folder, 40, seed=1, size=(64, 64))
    return folder


def config(*names: str) -> list[str] | str:
    """Full paths of configs of the bundle."""
    paths = [str(CONFIGS / name) for name in names]
    return paths if len(paths) > 1 else paths[0]
