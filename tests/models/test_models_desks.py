"""Annotation and Slicer begin with the shipped models."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sonodistill.annotate.clicks.interactive import Interactive
from sonodistill.annotate.server.settings import models_of
from sonodistill.annotate.training.versions import Versions
from sonodistill.annotate.workbench import MODELS, Settings, Workbench
from sonodistill.errors import WeightsError

NONE_GIVEN = dict.fromkeys(MODELS)
SLICER = Path(__file__).resolve().parents[2] / "slicer_extension" / "UltrasoundSegment"


def test_all_four_models_are_the_shipped_ones_and_serve(shipped: Path, tmp_path: Path) -> None:
    found = models_of(NONE_GIVEN, tmp_path)
    assert {name: path.name for name, path in found.items()} == {
        "segmentation": "breast-lesion.safetensors",
        "classification": "breast-class.safetensors",
        "interactive": "clicks.safetensors",
        "embedding": "resnet18-us.safetensors",
    }
    (tmp_path / "studies").mkdir()
    bench = Workbench(Settings(str(tmp_path / "studies"), tmp_path / "work", models=found))
    try:
        assert list(bench.trained()) == list(MODELS)
        assert bench.predictor("segmentation").labels == ("lesion",)
        assert bench.interactive.input_size == (64, 64)
    finally:
        bench.close()


def test_what_is_given_is_taken_by_path_by_name_or_not_at_all(shipped: Path, tmp_path: Path) -> None:
    given = {
        **NONE_GIVEN,
        "segmentation": "breast-lesion",
        "interactive": "none",
        "classification": "runs/a.safetensors",
    }
    found = models_of(given, tmp_path)
    assert found["segmentation"] == shipped / "breast-lesion.safetensors"
    assert found["classification"] == Path("runs/a.safetensors").resolve()
    assert "interactive" not in found
    assert "embedding" not in found, "it is that of the segmentation that was given"
    with pytest.raises(WeightsError, match="no shipped model"):
        models_of({"segmentation": "brest-lesion"}, tmp_path)


def test_other_labels_and_versions_that_are_there_keep_the_shipped_ones_out(shipped: Path, tmp_path: Path) -> None:
    assert "segmentation" not in models_of(NONE_GIVEN, tmp_path, labels=("cyst", "nodule"))
    assert "segmentation" in models_of(NONE_GIVEN, tmp_path, labels=("lesion",))
    assert "classification" not in models_of(NONE_GIVEN, tmp_path, classes=("yes", "no"))
    Versions(tmp_path / "models" / "segmentation").begin_with(shipped / "breast-lesion.safetensors")
    assert "segmentation" not in models_of(NONE_GIVEN, tmp_path)


def test_without_shipped_models_nothing_is_served_that_was_not_given(none_shipped: None, tmp_path: Path) -> None:
    assert models_of(NONE_GIVEN, tmp_path) == {}


def test_clicks_are_read_by_name(shipped: Path) -> None:
    assert Interactive("clicks").input_size == (64, 64)


def test_slicers_local_backend_takes_the_exported_twin(shipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SLICER))
    from UltrasoundSegmentLib.backends.local import LocalBackend, model_file
    from UltrasoundSegmentLib.backends.model import Cancel

    assert model_file() == model_file("breast-lesion") == shipped / "breast-lesion.onnx"
    assert model_file("breast-class") is None, "it has no exported twin"
    assert model_file("runs/none.onnx") is None
    backend = LocalBackend(shipped / "breast-lesion.onnx", threads=1, python=[sys.executable])
    try:
        assert [model.labels for model in backend.models(Cancel()) if model.kind == "segmentation"] == [("lesion",)]
    finally:
        backend.close()


def test_slicer_without_shipped_models_asks_for_a_file(none_shipped: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SLICER))
    from UltrasoundSegmentLib.backends.local import model_file

    assert model_file() is None
    assert model_file("breast-lesion") is None
    monkeypatch.setitem(sys.modules, "sonodistill", None)
    assert model_file() is None
