"""The quick start: real frames -> distilled encoder -> segmenter -> segmented cine -> a report to look at."""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from sonodistill.files import write_text
from sonodistill.frames import Frame, read
from sonodistill.transforms.masks import mask_path
from sonodistill_training.corpus.labelled import read_labelled
from sonodistill_training.corpus.pack import build_pack
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.distill.data import PackViews
from sonodistill_training.distill.method import Distillation
from sonodistill_training.distill.offline import OFFLINE_TEACHER, fetch_offline_teacher
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.loop import bf16_is_fast, pick_device
from sonodistill_training.quickstart.report import Cine, Curve, Picture, Report, Source, Stage, write_report
from sonodistill_training.quickstart.sources import LICENCE, example_files
from sonodistill_training.workflow import run_bundle

logger = logging.getLogger(__name__)

STATE = "state.json"


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


class QuickStart:
    """Runs the stages in order; each goes on from what an interrupted run left in ``folder``."""

    def __init__(self, folder: str | Path, options: Options, say: Callable[[str], None]) -> None:
        self.folder = Path(folder)
        self.options = options
        self.say = say
        self._state: dict[str, Any] = {"options": asdict(options), "seconds": {}}

    def run(self) -> Path:
        """Everything; returns the report's path."""
        self._load_state()
        files = example_files()
        self._stage("teacher", "fetching the teacher", self._fetch_teacher)
        pack, _ = self._stage("frames", "reading real ultrasound", lambda: build_pack(files, self.folder / "corpus"))
        self._stage("distil", f"distilling {self.options.student}", self._distil)
        self._stage("simulate", "simulating labelled frames", self._simulate)
        self._stage("fine-tune", "fine-tuning a segmenter", self._fine_tune)
        dice = self._stage("evaluate", "measuring it on simulated test frames", self._evaluate)
        self._stage("segment", "segmenting the real cine", lambda: self._segment(files[0]))
        report = write_report(self.folder / "report.html", self._report(files, len(pack), float(dice)))
        self.say(f"report: {report.resolve().as_uri()}")
        return report

    # stages --------------------------------------------------------------------------------------------------------

    def _stage(self, name: str, title: str, work: Callable[[], Any]) -> Any:
        self.say(title)
        began = time.perf_counter()
        try:
            return work()
        finally:
            # A stage that was interrupted has cost what it has cost.
            seconds = self._state["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.perf_counter() - began, 2)
            self._save_state()

    def _fetch_teacher(self) -> None:
        if self.options.teacher == OFFLINE_TEACHER:
            fetch_offline_teacher()

    def _distil(self) -> None:
        options = self.options
        if "steps" not in self._state:
            self._state["steps"] = self._affordable_steps()
            self._save_state()
        run_bundle(
            "distill.yaml",
            dataset_dir=self.folder / "corpus",
            output_dir=self.folder / "distill",
            teacher_name=options.teacher,
            student_name=options.student,
            input_size=options.distill_size,
            batch_size=options.batch_size,
            max_steps=self._state["steps"],
            learning_rate=1e-3,
            clip=3.0,
            checkpoint_steps=10,
            seed=options.seed,
        )

    def _affordable_steps(self) -> int:
        """Steps that fit in the time, from one timed step after a first one to warm up."""
        options = self.options
        from sonodistill.networks.encoder import Encoder
        from sonodistill_training.corpus.pack import FramePack

        teacher = load_teacher(options.teacher, input_size=options.distill_size)
        method = Distillation(teacher, Encoder(options.student))
        device = pick_device()
        method.to(device)
        views = PackViews(FramePack(self.folder / "corpus"), options.distill_size)
        samples = [views[(i, i % len(views))] for i in range(options.batch_size)]
        batch = {name: torch.stack([sample[name] for sample in samples]).to(device) for name in samples[0]}
        seconds = 0.0
        for _ in range(2):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16_is_fast(device)):
                loss = method.step(method.network, batch, 0)["loss"]
            loss.backward()
            seconds = time.perf_counter() - began
        return max(10, min(options.steps, math.floor(options.minutes * 60 / seconds)))

    def _simulate(self) -> None:
        write_simulated(self.folder / "simulated", self.options.simulated_frames, seed=self.options.seed)

    def _segmenter_settings(self) -> dict[str, Any]:
        size = self.options.segment_size
        return {
            "dataset_dir": self.folder / "simulated",
            "ckpt_dir": self.folder / "segmenter",
            "encoder": self.options.student,
            "input_size": [size, size],
            "seed": self.options.seed,
        }

    def _fine_tune(self) -> None:
        run_bundle(
            "train.yaml",
            output_dir=self.folder / "segmenter",
            encoder_weights=self.folder / "distill" / "student.safetensors",
            max_epochs=self.options.epochs,
            batch_size=8,
            learning_rate=5e-4,
            **self._segmenter_settings(),
        )

    def _evaluate(self) -> float:
        workflow = run_bundle(
            ["train.yaml", "evaluate.yaml"], output_dir=self.folder / "evaluate", **self._segmenter_settings()
        )
        return workflow.parser.get_parsed_content("validate#evaluator").state.metrics["val_dice"]

    def _segment(self, cine: Path) -> None:
        size = self.options.segment_size
        run_bundle(
            "inference.yaml",
            run_id="run",
            dataset_dir=cine,
            output_dir=self.folder / "masks",
            weights=self.folder / "segmenter" / "model.safetensors",
            encoder=self.options.student,
            input_size=[size, size],
        )

    # the report ----------------------------------------------------------------------------------------------------

    def _report(self, files: list[Path], packed: int, dice: float) -> Report:
        options, seconds = self.options, self._state["seconds"]
        frames = list(read(files[0]))
        masks = [_read_mask(mask_path(self.folder / "masks", files[0], frame.index, files[0])) for frame in frames]
        losses = _rows(self.folder / "distill" / "log.jsonl")
        epochs = _rows(self.folder / "segmenter" / "log.jsonl")
        steps = [float(row["step"]) for row in losses]
        curves = [
            Curve("Distillation loss (mean squared error)", steps, [row["loss"] for row in losses], "per step"),
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
            ("Distillation loss", f"{first:.3f} to {last:.3f} in {self._state['steps']} steps"),
            ("Dice, simulated test lesions", f"{dice:.3f}"),
            ("Cine segmented", f"{len(frames)} frames"),
            ("Total time", f"{sum(seconds.values()):.0f} s"),
        ]
        details = {
            "teacher": options.teacher,
            "frames": f"{packed} real frames",
            "distil": f"{self._state['steps']} steps of {options.batch_size} views, {options.distill_size} px",
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
        """Four simulated test frames with what the segmenter says of them."""
        test = [frame for frame in read_labelled(self.folder / "simulated") if frame.split == "test"][:4]
        size = self.options.segment_size
        run_bundle(
            "inference.yaml",
            run_id="run",
            dataset_dir=[frame.image for frame in test],
            output_dir=self.folder / "masks_simulated",
            weights=self.folder / "segmenter" / "model.safetensors",
            encoder=self.options.student,
            input_size=[size, size],
        )
        pictures = []
        for frame in test:
            image = next(iter(read(frame.image))).image
            found = _read_mask(mask_path(self.folder / "masks_simulated", frame.image, 0, frame.image))
            truth = _read_mask(frame.mask) if frame.mask else np.zeros_like(image)
            pictures.append(Picture(f"Simulated: {frame.label}", image, found > 0, truth > 0, "simulated test frame"))
        return pictures

    # state ---------------------------------------------------------------------------------------------------------

    def _load_state(self) -> None:
        path = self.folder / STATE
        if path.is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["options"] != self._state["options"]:
                from sonodistill.errors import SonoDistillError

                raise SonoDistillError(
                    "holds a quick start with other options",
                    path=self.folder,
                    remedy="use the same options to go on, or another --out folder",
                )
            self._state = state

    def _save_state(self) -> None:
        write_text(self.folder / STATE, json.dumps(self._state, indent=1))


def _read_mask(path: Path) -> Any:
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
