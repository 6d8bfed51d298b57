"""The peer that a distillation is timed beside: lightly-train in an environment of its own, run as a user runs it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from sonodistill.errors import BundleConfigError
from sonodistill.weights import load_weights
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.distill.offline import OFFLINE_TEACHER, offline_teacher_path

if TYPE_CHECKING:
    from sonodistill_training.bench.distill import Setup

_WARM_UP = 2  # steps that are not timed
_SECONDS = 1800  # after which a run is given up
_IMAGES = 1024


class Peer:
    """lightly-train (AGPL) as a program: nothing of it is imported here, and it sends no telemetry from here.

    Args:
        python: of the environment that it is installed in.
        folder: for its images and the teacher's weights.
        corpus: whose frames it gets, as JPEG files, which is what it reads.
    """

    def __init__(self, python: Path, folder: Path, corpus: Corpus, setup: Setup) -> None:
        self._program = python.parent / "lightly-train"
        if not self._program.is_file():
            raise BundleConfigError(
                "there is no lightly-train beside this Python",
                path=python,
                remedy="python -m venv peer; peer/bin/pip install lightly-train; then --peer peer/bin/python",
            )
        if setup.teacher != OFFLINE_TEACHER:
            raise BundleConfigError(f"the peer is compared with the teacher {OFFLINE_TEACHER} alone")
        self._setup = setup
        self._images = folder / "images"
        self._cache = folder / "cache"
        self.version = self._version(python)
        self._write(corpus)

    def images_per_second(self, out: Path, compute_alone: bool) -> float:
        """Of one run: from data on disk to weights, or of its steps alone, with nothing loaded beside them."""
        setup = self._setup
        command = [
            *(str(self._program), "pretrain", f"out={out}-{int(compute_alone)}", f"data={self._images}"),
            *(f"model=timm/{setup.student}", "method=distillationv2", "method_args.teacher=dinov2/vits14-noreg"),
            *(f"batch_size={setup.batch_size}", "epochs=1", f"trainer_args.max_steps={setup.steps + _WARM_UP}"),
            *("trainer_args.log_every_n_steps=1", "precision=bf16-mixed", "optim=adamw", f"seed={setup.seed}"),
            f"transform_args.image_size=[{setup.input_size},{setup.input_size}]",
            f"accelerator={'gpu' if torch.cuda.is_available() else 'cpu'}",
            f"num_workers={0 if compute_alone else torch.get_num_threads()}",
        ]
        environment = {
            **os.environ,
            "LIGHTLY_TRAIN_EVENTS_DISABLED": "1",
            "LIGHTLY_TRAIN_CACHE_DIR": str(self._cache),
            "HF_HUB_OFFLINE": "1",
        }
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=_SECONDS)
        if ran.returncode:
            raise BundleConfigError(f"the peer failed: {(ran.stderr or ran.stdout).strip().splitlines()[-1]}")
        steps = _steps(Path(f"{out}-{int(compute_alone)}") / "metrics.jsonl")
        seconds = [step["batch"] + (0.0 if compute_alone else step["data"]) for step in steps[_WARM_UP:]]
        return setup.batch_size / statistics.median(seconds)

    def _write(self, corpus: Corpus) -> None:
        self._images.mkdir(parents=True)
        for number in range(min(len(corpus), _IMAGES)):
            Image.fromarray(corpus[number]).save(self._images / f"{number:05d}.jpg", quality=95)
        state = load_weights(offline_teacher_path())[0]
        state["mask_token"] = torch.zeros(1, state["cls_token"].shape[-1])  # it wants every key of the original file
        (self._cache / "models").mkdir(parents=True)
        torch.save(state, self._cache / "models" / "dinov2_vits14_pretrain.pth")

    @staticmethod
    def _version(python: Path) -> str:
        code = "from importlib.metadata import version; print(version('lightly-train'), 'on torch', version('torch'))"
        said = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        return f"lightly-train {said}"


def _steps(log: Path) -> list[dict[str, Any]]:
    """Seconds of computing and of waiting for data of each step."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [
        {"batch": row["profiling/batch_time"], "data": row.get("profiling/data_time", 0.0)}
        for row in rows
        if "profiling/batch_time" in row
    ]
