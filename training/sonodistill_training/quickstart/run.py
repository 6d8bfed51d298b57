"""The quick start: real frames -> distilled encoder -> segmenter -> segmented cine -> a report to look at."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sonodistill import models
from sonodistill.errors import SonoDistillError
from sonodistill.files import write_text
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.precision import use_bf16
from sonodistill_training.corpus.pack import build_pack
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.distill.data import CorpusViews
from sonodistill_training.distill.method import Distillation
from sonodistill_training.distill.offline import OFFLINE_TEACHER, fetch_offline_teacher
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.distributed import pick_device
from sonodistill_training.quickstart.report import write_report
from sonodistill_training.quickstart.results import MASKS_SHIPPED, SHIPPED, Options, Results, shown_frames
from sonodistill_training.quickstart.sources import example_files
from sonodistill_training.workflow import run_bundle

STATE = "state.json"


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
        self._stage("segment", "segmenting the real cine", lambda: self._segment(files[0], "masks"))
        tested = [frame.image for frame in shown_frames(self.folder)]
        self._stage("segment", "segmenting simulated test frames", lambda: self._segment(tested, "masks_simulated"))
        if (shipped := models.default(models.SEGMENTATION, torch=True)) is not None:
            self._stage("segment", f"the same by {SHIPPED}", lambda: self._segment(tested, MASKS_SHIPPED, shipped))
        results = Results(self.folder, self.options, self._state, files[0], packed=len(pack), dice=float(dice))
        report = write_report(self.folder / "report.html", results.report())
        self.say(f"report: {report.resolve().as_uri()}")
        return report

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
        """Steps that fit in the time: the first of three timed steps warms up, the quicker of the others counts."""
        self.say("timing a step")
        options = self.options
        teacher = load_teacher(options.teacher, input_size=options.distill_size)
        method = Distillation(teacher, Encoder(options.student), input_size=options.distill_size)
        device = pick_device()
        bf16 = use_bf16("auto", device)
        method.prepare(device, bf16)
        views = CorpusViews(Corpus(self.folder / "corpus"), options.distill_size)
        positions = [(i, i % len(views)) for i in range(options.batch_size)]
        batch = {name: values.to(device) for name, values in views.__getitems__(positions).items()}
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                loss = method.step(method.network, batch, 0)["loss"]
            loss.backward()
            seconds.append(time.perf_counter() - began)
        return max(10, min(options.steps, math.floor(options.minutes * 60 / min(seconds[1:]))))

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

    def _segment(self, sources: Path | list[Path], masks: str, shipped: Path | None = None) -> None:
        size = self.options.segment_size
        own = {"encoder": self.options.student, "input_size": [size, size]}
        run_bundle(
            "inference.yaml",
            run_id="run",
            dataset_dir=sources,
            output_dir=self.folder / masks,
            weights=shipped or self.folder / "segmenter" / "model.safetensors",
            **({} if shipped else own),
        )

    def _load_state(self) -> None:
        path = self.folder / STATE
        if path.is_file():
            state = json.loads(path.read_text(encoding="utf-8"))
            if state["options"] != self._state["options"]:
                raise SonoDistillError(
                    "holds a quick start with other options",
                    path=self.folder,
                    remedy="use the same options to go on, or another --out folder",
                )
            self._state = state

    def _save_state(self) -> None:
        write_text(self.folder / STATE, json.dumps(self._state, indent=1))
