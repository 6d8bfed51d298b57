"""The quick start from end to end, small, with an interruption in the middle."""

from __future__ import annotations

import json

import pytest
import timm

from sonodistill.errors import SonoDistillError
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.quickstart.results import Options
from sonodistill_training.quickstart.run import QuickStart

SMALL = {"batch_size": 4, "distill_size": 64, "simulated_frames": 40, "segment_size": 64, "epochs": 1, "steps": 12}


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    teacher = tmp_path_factory.mktemp("teacher") / "tiny.safetensors"
    save_weights(
        teacher, timm.create_model("vit_tiny_patch16_224").state_dict(), WeightsInfo("teacher", "vit_tiny_patch16_224")
    )
    return Options(teacher=str(teacher), **SMALL)


@pytest.fixture(scope="module")
def interrupted(options, tmp_path_factory):
    """A quick start that was stopped as the fine-tuning began."""
    folder = tmp_path_factory.mktemp("quickstart")

    def stop_at_fine_tuning(title):
        if "fine-tuning" in title:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        QuickStart(folder, options, stop_at_fine_tuning).run()
    return folder


def test_after_an_interruption_it_goes_on_to_the_report(interrupted, options):
    assert not (interrupted / "report.html").exists()
    student = (interrupted / "distill" / "last.pt").stat().st_mtime_ns
    said = []
    report = QuickStart(interrupted, options, said.append).run()
    assert (interrupted / "distill" / "last.pt").stat().st_mtime_ns == student  # not distilled again
    page = report.read_text()
    assert "REAL" in page.upper() and "SIMULATED" in page.upper() and "Research use only" in page
    assert "33" in page and "30 frames" in page
    assert len(list((interrupted / "masks").glob("*_mask.png"))) == 30
    assert said[-1].startswith("report: file://")
    state = json.loads((interrupted / "state.json").read_text())
    assert 10 <= state["steps"] <= 12 and state["seconds"]["distil"] > 0


def test_other_options_cannot_go_on_from_it(interrupted, options):
    with pytest.raises(SonoDistillError, match="other options"):
        QuickStart(interrupted, Options(teacher=options.teacher), print).run()
