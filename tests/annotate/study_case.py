"""Stills of six patients that show a bright ellipse on speckle, their true masks, and tiny models to begin with."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from sonodistill.annotate.model import Status
from sonodistill.annotate.workbench import Settings, Workbench
from sonodistill.networks.classifier import Classifier
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo

ENCODER, SIZE, SIDE = "test_resnet", (64, 64), 64
PATIENTS, STILLS = 6, 4
CLASSES = ("bright", "dark")


def make_study(folder: Path, *, patients: int = PATIENTS, stills: int = STILLS, seed: int = 0) -> Path:
    """A folder for each patient; of a still, the name says whether its ellipse is bright or dark."""
    rng = np.random.default_rng(seed)
    for patient in range(patients):
        home = folder / f"p{patient}"
        home.mkdir(parents=True)
        for still in range(stills):
            image, _ = draw(rng, bright=still % 2 == 0)
            cv2.imwrite(str(home / f"{CLASSES[still % 2]}{still}.png"), image)
    return folder


def draw(rng: np.random.Generator, *, bright: bool = True) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """An image (64, 64) and its mask of 0 and 1."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    centre = [int(value) for value in rng.integers(20, 44, 2)]
    axes = [int(value) for value in rng.integers(8, 15, 2)]
    cv2.ellipse(mask, centre, axes, float(rng.integers(180)), 0, 360, 1, -1)
    level = np.where(mask > 0, 200 if bright else 15, 90) + rng.normal(0, 12, mask.shape)
    return np.clip(level, 0, 255).astype(np.uint8), mask


def truth(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The mask of an image of ``draw``: what differs from the background."""
    smooth = cv2.GaussianBlur(image, (7, 7), 0).astype(int)
    return (np.abs(smooth - 90) > 45).astype(np.uint8)


def accept_all(
    workbench: Workbench, *, only: str = "", noise: np.random.Generator | None = None, annotator: str = "ann"
) -> int:
    """Accept the true mask and class of every still, or masks of noise; how many."""
    count = 0
    for item in workbench.catalogue.items():
        if only not in item.name:
            continue
        for frame in workbench.catalogue.read(item):
            mask = truth(frame.image)
            if noise is not None:
                mask = noise.integers(0, 2, mask.shape).astype(np.uint8)
            name = CLASSES[0] if "bright" in item.name else CLASSES[1]
            workbench.labels.save(
                _id(item.id, frame.index), mask, status=Status.ACCEPTED, annotator=annotator, classification=name
            )
            count += 1
    return count


def _id(item: str, index: int):
    from sonodistill.annotate.ids import FrameId

    return FrameId(item, index)


def models(folder: Path, seed: int = 0) -> dict[str, Path]:
    """A random encoder, and a segmenter, a classifier and an interactive segmenter on it."""
    from sonodistill.networks.click import ClickSegmenter

    torch.manual_seed(seed)
    networks = {
        "embedding": (Encoder(ENCODER), "encoder", ()),
        "segmentation": (Segmenter(ENCODER, classes=1, weights=None), "segmenter", ("lesion",)),
        "classification": (Classifier(ENCODER, classes=2, weights=None), "classifier", CLASSES),
        "interactive": (ClickSegmenter(ENCODER, width=16, weights=None), "interactive", ()),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (network, kind, labels) in networks.items():
        info = WeightsInfo(kind, ENCODER, input_size=SIZE, labels=labels, licence_notice="of the test")
        save_weights(folder / f"{name}.safetensors", network.state_dict(), info)
    return {name: folder / f"{name}.safetensors" for name in networks}


def workbench(studies: Path, work: Path, weights: dict[str, Path], **settings: object) -> Workbench:
    return Workbench(Settings(str(studies), work, classes=CLASSES, models=weights, threads=1, **settings))  # type: ignore[arg-type]
