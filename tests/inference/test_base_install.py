"""An exported model is predicted where there is no torch."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom import examples

CHECKOUT = Path(__file__).resolve().parents[2]

WITHOUT = """
import sys
sys.modules["torch"] = None
sys.modules["monai"] = None
from sonodistill.frames import read
from sonodistill.inference.predictor import Predictor
predictor = Predictor(sys.argv[1], runtime=sys.argv[2])
print(predictor.runtime.name, sum(bool(prediction.mask.any()) for prediction in predictor(read(sys.argv[3]))))
"""


@pytest.mark.parametrize(
    ("file", "runtime", "chosen"),
    [
        ("model.onnx", "onnxruntime", "onnxruntime"),
        ("model.onnx", "openvino", "openvino"),
        ("model.xml", "auto", "openvino"),
    ],
)
def test_predicting_needs_no_torch(models, file, runtime, chosen):
    command = [sys.executable, "-c", WITHOUT, models / file, runtime, examples.get_path("rgb_color")]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.split() == [chosen, "1"], done.stderr


@pytest.fixture(scope="module")
def base_install(tmp_path_factory) -> Path:
    """The Python of an environment with the checkout, without extras, and OpenVINO; from the package index."""
    folder = tmp_path_factory.mktemp("base")
    source = folder / "checkout"  # a copy: building leaves files beside what it builds
    for name in ("monai_bundle", "training"):
        shutil.copytree(
            CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "output", "models")
        )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", source], check=True, timeout=500)
    return python


def predict(python, model, out, cwd):
    command = [python, "-m", "sonodistill", "predict", model, examples.get_path("ybr_color"), "--out", out]
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=200, check=False)
    return done, list(csv.DictReader((out / "index.csv").open())) if (out / "index.csv").exists() else []


@pytest.mark.slow
def test_the_base_install_predicts_without_torch_in_the_environment(models, base_install, tmp_path):
    absent = subprocess.run([base_install, "-c", "import torch"], capture_output=True, check=False)
    assert absent.returncode != 0
    done, by_onnxruntime = predict(base_install, models / "model.onnx", tmp_path / "onnx", tmp_path)
    assert done.returncode == 0 and "by onnxruntime" in done.stderr, done.stderr
    done, nothing = predict(base_install, models / "model.xml", tmp_path / "xml", tmp_path)
    assert done.returncode == 2 and "pip install openvino" in done.stderr and nothing == []
    done, nothing = predict(base_install, models / "model.ts", tmp_path / "ts", tmp_path)
    assert done.returncode == 2 and "sonodistill[torch]" in done.stderr and nothing == []
    subprocess.run([base_install, "-m", "pip", "install", "--quiet", "openvino"], check=True, timeout=500)
    done, by_openvino = predict(base_install, models / "model.xml", tmp_path / "xml", tmp_path)
    assert done.returncode == 0 and "by openvino" in done.stderr, done.stderr
    areas = [[int(row["area_pixels"]) for row in rows] for rows in (by_onnxruntime, by_openvino)]
    assert len(areas[0]) == 30 and all(abs(a - b) <= 5 for a, b in zip(*areas, strict=True))
