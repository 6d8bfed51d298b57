"""The choice of a runtime is measured once for a model, a setting and a machine, and survives whatever the cache is."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sonodistill.errors import WeightsError
from sonodistill.files import cache_folder
from sonodistill.inference.runtimes import open_runtime


def notes() -> list[Path]:
    return sorted((cache_folder() / "runtimes").glob("*.json"))


def choose(models, **more):
    return open_runtime(models / "model.onnx", threads=1, **more)


def test_the_fastest_runtime_is_measured_and_remembered(models, images, logits):
    chosen = choose(models)
    (note,) = notes()
    found = json.loads(note.read_text())
    assert set(found["median_ms"]) == {"onnxruntime", "openvino"}
    assert chosen.name == found["runtime"] == min(found["median_ms"], key=found["median_ms"].get)
    np.testing.assert_allclose(chosen(images), logits, atol=2e-4)


def test_what_is_remembered_is_followed_and_not_measured_anew(models):
    choose(models)
    (note,) = notes()
    found = json.loads(note.read_text())
    slower = next(name for name in found["median_ms"] if name != found["runtime"])
    note.write_text(json.dumps({**found, "runtime": slower}))
    written = note.stat().st_mtime_ns
    assert choose(models).name == slower and note.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"runtime": "torch"}', '{"question": "another", "runtime": "openvino"}', "[" * 50_000]
)
def test_a_damaged_note_is_measured_anew(models, damage):
    choose(models)
    (note,) = notes()
    note.write_text(damage)
    choose(models)
    assert json.loads(note.read_text())["runtime"] in ("onnxruntime", "openvino")


def test_another_batch_precision_or_file_is_another_question(models):
    choose(models)
    choose(models, batch=2)
    choose(models, precision="auto")
    open_runtime(models / "plain.onnx", threads=1)
    assert len(notes()) == 4


def test_a_runtime_that_cannot_do_what_is_asked_is_left_out(models):
    assert choose(models, precision="bf16").name == "openvino"


def test_one_runtime_is_not_measured(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert choose(models).name == "onnxruntime"
    assert open_runtime(models / "model.pt2").name == "torch"  # compiling takes a minute: only by name
    assert notes() == []


def test_a_file_that_none_can_read_says_why(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(WeightsError, match=r"model\.onnx"):
        open_runtime(tmp_path / "model.onnx")
    assert notes() == []


def test_a_cache_that_cannot_be_written_does_no_harm(models, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SONODISTILL_CACHE", str(tmp_path / "file"))
    assert choose(models).name in ("onnxruntime", "openvino")


def test_several_at_once_do_no_harm(models):
    with ThreadPoolExecutor(3) as pool:
        chosen = list(pool.map(lambda _: choose(models).name, range(3)))
    (note,) = notes()
    assert json.loads(note.read_text())["runtime"] in chosen
    assert [path.name for path in note.parent.iterdir()] == [note.name]  # no temporary file is left


def test_the_cache_is_where_the_user_or_the_platform_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SONODISTILL_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("SONODISTILL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, folder in (("linux", tmp_path), ("win32", tmp_path / "local")):
        monkeypatch.setattr(sys, "platform", platform)
        assert cache_folder() == folder / "sonodistill"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder().parts[-3:] == ("Library", "Caches", "sonodistill")


def test_a_user_without_a_home_is_served_and_nothing_is_remembered(models, monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    for name in ("SONODISTILL_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None
    assert choose(models).name in ("onnxruntime", "openvino")
