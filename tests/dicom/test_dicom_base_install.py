"""The PACS side needs neither torch nor MONAI, only the extra ``dicom``, and says so where that is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import examples
from service_case import bright_model

WITHOUT = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
sys.argv = ["sonodistill", *sys.argv[2:]]
from sonodistill.cli import main
main()
"""


def sonodistill(missing: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, missing, *arguments]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return bright_model(tmp_path_factory.mktemp("model") / "model.onnx")


def test_results_are_made_without_torch(model, tmp_path):
    done = sonodistill(
        *("torch,monai,timm,transformers", "dicom", "predict", examples.get_path("rgb_color")),
        *("--model", model, "--out", tmp_path, "--runtime", "onnxruntime"),
    )
    assert done.returncode == 0, done.stderr
    made = {path.name for path in tmp_path.iterdir()}
    assert made == {"examples_rgb_color.dcm.seg.dcm", "examples_rgb_color.dcm.sr.dcm", "results.csv"}


def test_without_the_extra_its_name_is_said(model, tmp_path):
    done = sonodistill(
        "highdicom", "dicom", "predict", examples.get_path("rgb_color"), "--model", model, "--out", tmp_path
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "highdicom" in done.stderr and "pip install" in done.stderr


def test_the_help_loads_nothing_heavy():
    done = sonodistill("torch,highdicom,pynetdicom,numpy,onnxruntime", "dicom", "--help")
    assert done.returncode == 0 and "serve" in done.stdout
