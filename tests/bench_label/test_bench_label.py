"""The benchmark of the annotation server: what it measures with, and all of it in little."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sonodistill.annotate.clicks.interactive import Interactive
from sonodistill.annotate.studies.catalogue import FolderCatalogue
from sonodistill.frames import read
from sonodistill.inference.predictor import Predictor
from sonodistill_training.bench.dicom.clips import Loop, disk_loop
from sonodistill_training.bench.label.setup import Setup
from sonodistill_training.bench.label.studies import CINE_FRAMES, write_models, write_studies

HAVE_LABEL = importlib.util.find_spec("monailabel") is not None
QUICK = Setup.quick()
BENCH = [sys.executable, "-m", "sonodistill", "bench", "label"]


@pytest.fixture(scope="module")
def loop() -> Loop:
    return disk_loop(0)


def test_the_pool_has_as_many_frames_as_asked_for_in_groups_of_their_own(loop: Loop, tmp_path: Path) -> None:
    studies = write_studies(tmp_path / "studies", loop, QUICK)
    catalogue = FolderCatalogue(studies, tmp_path / "work")
    try:
        items = catalogue.items()
        assert sum(item.frames for item in items) == QUICK.clips * QUICK.frames + CINE_FRAMES
        assert len({item.group for item in items}) == len(items)
        pool = [frame.image for frame in catalogue.read(items[-1])]
        assert len({frame.tobytes() for frame in pool}) == QUICK.frames
    finally:
        catalogue.close()


def test_the_networks_are_what_the_server_takes_and_the_segmentation_finds_some_of_the_disk(
    loop: Loop, tmp_path: Path
) -> None:
    models = write_models(tmp_path / "models", loop, QUICK)
    studies = write_studies(tmp_path / "studies", loop, QUICK)
    frame = next(read(studies / "cine" / "cine.dcm"))
    predictor = Predictor(models["segmentation"])
    assert predictor.input_size == (QUICK.input_size,) * 2
    found, disk = predictor.predict_one(frame).mask, loop.disks[0]
    assert np.count_nonzero(found & disk) > max(500, 0.8 * np.count_nonzero(found)), "not specks all over the frame"
    assert Predictor(models["embedding"]).kind == "encoder"
    assert all(Interactive(models[name]).input_size == (64, 64) for name in ("interactive", "interactive50"))


@pytest.mark.skipif(HAVE_LABEL, reason="MONAI Label is installed")
def test_without_monai_label_it_says_what_to_install() -> None:
    done = subprocess.run(BENCH, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "sonodistill[label]" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not HAVE_LABEL, reason="monailabel is not installed; `pip install sonodistill[label]`")
def test_everything_is_measured() -> None:
    done = subprocess.run([*BENCH, "--quick", "--json"], capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    keys = ["infer", "predictor", "click", "click50", "next_sample", "next", "label_write"]
    assert all(0 < found[f"{key}_p50_ms"] <= found[f"{key}_p95_ms"] for key in keys)
    assert found["infer_overhead_ms"] == pytest.approx(found["infer_p95_ms"] - found["predictor_p95_ms"])
    assert found["start_seconds"] == max(found["start_new_seconds"], found["start_known_seconds"]) > 0
    assert found["pool_frames"] == QUICK.clips * QUICK.frames + CINE_FRAMES
