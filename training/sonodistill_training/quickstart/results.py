"""What a finished quick start left behind, gathered for the report."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sonodistill import models
from sonodistill.frames import Frame, read
from sonodistill.transforms.masks import common_root, mask_path
from sonodistill_training.corpus.labelled import LabelledFrame, read_labelled
from sonodistill_training.distill.offline import OFFLINE_TEACHER
from sonodistill_training.logs import read_log
from sonodistill_training.quickstart.report import Cine, Curve, Picture, Report, Source, Stage
from sonodistill_training.quickstart.sources import LICENCE

PICTURES = 4
SHIPPED, MASKS_SHIPPED = models.DEFAULTS[models.SEGMENTATION], "masks_shipped"


@dataclass(frozen=True, slots=True)
class Options:
    """What the quick start does; stored with its results, since a different one cannot go on from them.

    Attributes:
        teacher: the offline teacher's name, a timm name, a transformers id or a file.
        student: any timm encoder.
        minutes: how long the distillation may take; fewer steps are made on a slower machine.
        steps: most optimiser steps of the distillation.
        simulated_frames: labelled frames that the segmenter is trained on.
        epochs: of the segmenter.
    """

    teacher: str = OFFLINE_TEACHER
    student: str = "resnet18"
    minutes: float = 2.0
    steps: int = 120
    batch_size: int = 32
    distill_size: int = 196
    simulated_frames: int = 120
    segment_size: int = 192
    epochs: int = 6
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Results:
    """Where a quick start's files lie, and the two figures that are in none of them.

    Attributes:
        folder: of the quick start.
        state: its ``state.json``: seconds a stage, steps of the distillation.
        cine: the real cine that was segmented.
        packed: real frames that were distilled on.
        dice: mean over the simulated test frames that have a lesion.
    """

    folder: Path
    options: Options
    state: dict[str, Any]
    cine: Path
    packed: int
    dice: float

    def report(self) -> Report:
        """What the page shows; figures from simulated frames are named so."""
        options, seconds, packed = self.options, self.state["seconds"], self.packed
        frames = list(read(self.cine))
        root = common_root(self.cine)
        masks = [_read_mask(mask_path(self.folder / "masks", self.cine, frame.index, root)) for frame in frames]
        losses = read_log(self.folder / "distill")
        epochs = read_log(self.folder / "segmenter")
        steps = [float(row["step"]) for row in losses]
        curves = [
            Curve(
                "Distillation loss (mean squared error)", steps, [row["loss"] for row in losses], "per step", log=True
            ),
            Curve("Segmenter: training loss", *_by_epoch(epochs, "loss"), "per epoch"),
            Curve("Segmenter: Dice on simulated validation frames", *_by_epoch(epochs, "val_dice"), "per epoch"),
        ]
        first, last = losses[0]["loss"], losses[-1]["loss"]
        sources = [
            Source("pydicom examples: one cine, three stills", "real", packed, LICENCE, "distilled on, and segmented"),
            Source(
                "B-mode simulator",
                "simulated",
                options.simulated_frames,
                "Apache-2.0",
                "the only frames with masks: the segmenter is trained and measured on them",
            ),
        ]
        summary = [
            ("Student", options.student),
            ("Teacher", options.teacher),
            ("Distillation loss", f"{first:.3f} to {last:.3f} in {self.state['steps']} steps"),
            ("Dice, simulated test lesions", f"{self.dice:.3f}"),
            ("Cine segmented", f"{len(frames)} frames"),
            ("Time in the stages", f"{sum(seconds.values()):.0f} s"),
        ]
        details = {
            "teacher": options.teacher,
            "frames": f"{packed} real frames",
            "distil": f"{self.state['steps']} steps of {options.batch_size} views, {options.distill_size} px",
            "simulate": f"{options.simulated_frames} frames",
            "fine-tune": f"{options.epochs} epochs, {options.segment_size} px",
            "evaluate": "simulated test split",
            "segment": f"{len(frames)} real frames",
        }
        return Report(
            title="SonoDistill quick start",
            summary=summary,
            sources=sources,
            stages=[Stage(name, spent, details.get(name, "")) for name, spent in seconds.items()],
            curves=curves,
            pictures=self._pictures(),
            cine=Cine(
                "Real cine, segmented",
                [frame.image for frame in frames],
                [mask > 0 for mask in masks],
                _times(frames),
                "Real ultrasound from pydicom's examples. The model has only ever seen simulated lesions, so its "
                "contours here show that the chain runs, not that it knows this anatomy.",
            ),
            facts=_facts(frames),
            versions={name: version(name) for name in ("sonodistill", "torch", "monai", "timm", "pydicom", "numpy")}
            | {
                "python": platform.python_version(),
                "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            },
        )

    def _pictures(self) -> list[Picture]:
        """Simulated test frames with what the segmenter says of them, and the shipped one where there is one."""
        pictures = []
        shown = shown_frames(self.folder)
        root = common_root([frame.image for frame in shown])
        for frame in shown:
            image = next(iter(read(frame.image))).image
            found = _read_mask(mask_path(self.folder / "masks_simulated", frame.image, 0, root))
            truth = _read_mask(frame.mask) if frame.mask else np.zeros_like(image)
            title = f"Simulated: {frame.label}"
            pictures.append(Picture(title, image, found > 0, truth > 0, "simulated test frame"))
            shipped = mask_path(self.folder / MASKS_SHIPPED, frame.image, 0, root)
            if shipped.is_file():
                caption = f"the same frame by the shipped {SHIPPED}, which learnt from real frames alone"
                pictures.append(Picture(title, image, _read_mask(shipped) > 0, truth > 0, caption))
        return pictures


def shown_frames(folder: Path) -> list[LabelledFrame]:
    """The simulated test frames that the report shows."""
    return [frame for frame in read_labelled(folder / "simulated") if frame.split == "test"][:PICTURES]


def _read_mask(path: Path) -> Any:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def _by_epoch(rows: list[dict[str, Any]], name: str) -> tuple[list[float], list[float]]:
    return [float(row["epoch"]) for row in rows], [float(row[name]) for row in rows]


def _times(frames: list[Frame]) -> list[float]:
    """Milliseconds; a cine whose file does not say them is played at 10 frames a second, which the facts say."""
    return [frame.index * 100.0 if frame.time_ms is None else frame.time_ms for frame in frames]


def _facts(frames: list[Frame]) -> list[str]:
    calibration, timed = frames[0].calibration, frames[0].time_ms is not None
    spacing = calibration.mm_per_pixel
    size = "unknown" if spacing is None else f"{spacing[0]:.3f} x {spacing[1]:.3f} mm"
    return [
        f"Pixel size of the cine: {size} ({calibration.note or calibration.source}).",
        "Frame times are the file's."
        if timed
        else "The file states no frame time: it is played at 10 frames a second.",
        "The segmenter's figures are from simulated frames and say nothing about patients.",
    ]
