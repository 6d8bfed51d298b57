"""The catalogue of shipped models: names become files, and an index that cannot be trusted is refused by its path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sonodistill import models
from sonodistill.errors import WeightsError


def entry(name: str, file: str | None = None, **fields: Any) -> dict[str, Any]:
    file = file or f"{name}.safetensors"
    said = {"name": name, "kind": "segmenter", "architecture": "resnet18", "file": file, "bytes": 1, "sha256": "a" * 64}
    return said | fields


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of models in the place of the bundle's."""
    monkeypatch.setenv(models.FOLDER_VARIABLE, str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def write(home: Path, *entries: dict[str, Any], files: bool = True) -> None:
    (home / models.INDEX).write_text(json.dumps({"schema": 1, "models": entries}), "utf-8")
    for said in entries if files else ():
        (home / said["file"]).write_bytes(b"x")


def test_without_an_index_there_are_no_models_and_a_missing_path_is_told_as_ever(home: Path) -> None:
    assert models.catalogue() == {}
    assert all(models.default(task) is None for task in models.DEFAULTS)
    assert models.encoder_of("resnet18") is None
    with pytest.raises(WeightsError, match="there is no such file") as caught:
        models.resolve("breast-lesion")
    assert "one of" not in str(caught.value.remedy)


def test_a_name_is_its_file_and_a_path_that_exists_is_itself(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(home, entry("breast-lesion"))
    assert models.resolve("breast-lesion", torch=True) == home / "breast-lesion.safetensors"
    monkeypatch.chdir(home)
    Path("breast-lesion").touch()
    assert models.resolve("breast-lesion") == Path("breast-lesion"), "what lies here comes first"
    assert models.path_of("breast-lesion") == Path("breast-lesion")


def test_an_unknown_name_lists_the_names_and_guesses(home: Path) -> None:
    write(home, entry("breast-lesion"), entry("fetal-head"))
    with pytest.raises(WeightsError, match="no shipped model") as caught:
        models.resolve("fetal-heat")
    assert "did you mean fetal-head? " in str(caught.value.remedy)
    assert "breast-lesion, fetal-head" in str(caught.value.remedy)


def test_a_path_that_is_missing_is_left_to_whoever_opens_it_and_a_bare_word_is_not(home: Path) -> None:
    assert models.path_of("brest-lesion") == Path("brest-lesion"), "without models there are no names"
    write(home, entry("breast-lesion"))
    assert models.path_of("runs/model.onnx") == Path("runs/model.onnx")
    assert models.path_of("missing.onnx") == Path("missing.onnx")
    assert models.path_of("breast-lesion") == home / "breast-lesion.safetensors"
    with pytest.raises(WeightsError, match="no shipped model"):
        models.path_of("brest-lesion")


def test_a_model_whose_files_are_not_all_there_is_refused_and_is_no_default(home: Path) -> None:
    write(home, entry("breast-lesion", encoder="resnet18-us.safetensors"))
    with pytest.raises(WeightsError, match="not all there"):
        models.resolve("breast-lesion", torch=True)
    assert models.default(models.SEGMENTATION) is None


def test_without_torch_the_exported_twin_is_taken(home: Path) -> None:
    write(home, entry("breast-lesion"), entry("breast-lesion.onnx", "breast-lesion.onnx"), entry("fetal-head"))
    assert models.resolve("breast-lesion", torch=False) == home / "breast-lesion.onnx"
    assert models.resolve("breast-lesion", torch=True).suffix == ".safetensors"
    with pytest.raises(WeightsError, match="fetal-head needs torch"):
        models.resolve("fetal-head", torch=False)
    assert models.default(models.SEGMENTATION, torch=False) == home / "breast-lesion.onnx"


def test_the_encoder_of_an_architecture_is_the_shipped_one(home: Path) -> None:
    write(home, entry("breast-lesion"), entry("resnet18-us", kind="encoder"))
    assert models.encoder_of("resnet18.a1_in1k") == home / "resnet18-us.safetensors"
    assert models.encoder_of("resnet50") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"schema": 2, "models": []}',
        '{"schema": 1, "models": {"a": 1}}',
        '{"schema": 1, "models": [null]}',
        "[" * 100_000,
        " " * ((1 << 20) + 1),
    ],
)
def test_what_is_no_index_is_refused_with_its_path(home: Path, text: str) -> None:
    (home / models.INDEX).write_text(text, "utf-8")
    with pytest.raises(WeightsError, match="index of the models cannot be read") as caught:
        models.catalogue()
    assert caught.value.path == home / models.INDEX


@pytest.mark.parametrize(
    "fields",
    [
        {"file": "../x.safetensors"},
        {"file": ".hidden"},
        {"file": "a/b.onnx"},
        {"name": "Upper Case"},
        {"kind": "virus"},
        {"sha256": "short"},
        {"bytes": -1},
        {"bytes": True},
        {"encoder": "/etc/passwd"},
        {"labels": "lesion"},
        {"input_size": [256]},
        {"more": [{"file": "../x.bin", "bytes": 1, "sha256": "a" * 64}]},
        {"metrics": {"dice": "high"}},
        {"data": ["busi"]},
    ],
    ids=str,
)
def test_an_entry_that_is_not_what_it_has_to_be_is_refused(home: Path, fields: dict[str, Any]) -> None:
    write(home, {**entry("a"), **fields}, files=False)
    with pytest.raises(WeightsError, match="cannot be read"):
        models.catalogue()


def test_a_name_that_is_there_twice_is_refused_and_further_fields_are_not(home: Path) -> None:
    write(home, entry("a", of_a_later_release=1))
    assert list(models.catalogue()) == ["a"]
    write(home, entry("a"), entry("a"))
    with pytest.raises(WeightsError, match="twice"):
        models.catalogue()


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from sonodistill import models; models.catalogue()"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
