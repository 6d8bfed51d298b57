"""Versions of a model: what is taken, what is promoted, the way back, and what a crash or a stranger may do to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from study_case import ENCODER, SIZE, models

from sonodistill.annotate.errors import ConflictError, UnknownIdError
from sonodistill.annotate.training.judge import Judgement
from sonodistill.annotate.training.result import keep
from sonodistill.annotate.training.start import Job
from sonodistill.annotate.training.state import TrainSettings
from sonodistill.annotate.training.versions import CURRENT, RECORD, Versions
from sonodistill.errors import WeightsError
from sonodistill.files import sha256
from sonodistill.inference.exported import KEY, ExportInfo, to_text
from sonodistill.inference.predictor import Predictor
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo

WRITER = """
import sys
from sonodistill.annotate.training.versions import Versions
versions = Versions(sys.argv[1])
for _ in range(int(sys.argv[3])):
    print(versions.promote(versions.add(sys.argv[2]).number).number, flush=True)
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "segmentation")


def segmenter(path: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    network = Segmenter(ENCODER, classes=1, weights=None)
    save_weights(path, network.state_dict(), WeightsInfo("segmenter", ENCODER, input_size=SIZE, labels=("lesion",)))
    return path


def test_nothing_is_promoted_in_an_empty_folder(versions: Versions) -> None:
    assert versions.current() is None
    assert versions.list() == []
    with pytest.raises(ConflictError):
        versions.rollback()
    with pytest.raises(UnknownIdError):
        versions.promote(1)


def test_the_weights_of_the_start_become_version_1_once(versions: Versions, weights: dict[str, Path]) -> None:
    first = versions.begin_with(weights["segmentation"])
    again = Versions(versions.folder).begin_with(weights["segmentation"])
    assert (first.number, again.number, len(versions.list())) == (1, 1, 1)
    current = versions.current()
    assert current == first
    assert (current.kind, current.labels) == ("segmenter", ("lesion",))
    assert current.path != weights["segmentation"]
    assert sha256(current.path) == current.sha256 == sha256(weights["segmentation"])


def test_other_weights_at_a_later_start_are_added_but_do_not_replace_what_was_trained(
    versions: Versions, weights: dict[str, Path], tmp_path: Path
) -> None:
    versions.begin_with(weights["segmentation"])
    versions.begin_with(segmenter(tmp_path / "other.safetensors", 5))
    assert versions.current().number == 1
    assert [one.number for one in versions.list()] == [1, 2]


def test_rollback_goes_back_along_the_promotions(versions: Versions, tmp_path: Path) -> None:
    for seed in range(4):
        versions.add(segmenter(tmp_path / "new.safetensors", seed), {"dice": seed / 10}, f"seed {seed}")
    for number in (1, 3, 2):
        versions.promote(number)
    assert [versions.rollback().number, versions.rollback().number] == [3, 1]
    with pytest.raises(ConflictError):
        versions.rollback()
    assert versions.current().number == 1
    assert versions.get(3).metrics == {"dice": 0.2}
    assert versions.get(3).note == "seed 2"


def test_metrics_that_are_not_finite_are_kept_as_none(versions: Versions, weights: dict[str, Path]) -> None:
    added = versions.add(weights["segmentation"], {"dice": float("nan"), "of": [float("inf"), np.float64(0.5)]})
    assert versions.list() == [added]
    assert added.metrics == {"dice": None, "of": [None, 0.5]}


@pytest.mark.parametrize("name", ["classification", "interactive", "embedding"])
def test_weights_of_another_kind_are_refused(versions: Versions, weights: dict[str, Path], name: str) -> None:
    with pytest.raises(WeightsError, match="not a segmenter"):
        versions.begin_with(weights[name])
    assert versions.current() is None
    assert not list(versions.folder.glob("*/*"))


def test_what_is_no_weights_file_of_ours_is_refused(versions: Versions, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name in ("model.pt", "foreign.safetensors", "text.safetensors", "missing.safetensors", "."):
        with pytest.raises(WeightsError):
            versions.add(tmp_path / name)
    assert versions.list() == []


def test_weights_that_were_changed_are_refused_until_one_goes_back(versions: Versions, tmp_path: Path) -> None:
    for seed in range(3):
        versions.promote(versions.add(segmenter(tmp_path / "new.safetensors", seed)).number)
    assert versions.current().number == 3
    for number in (3, 2):
        path = versions.get(number).path
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(bytes(content))
    for reader in (versions, Versions(versions.folder)):
        with pytest.raises(WeightsError, match="changed or lost"):
            reader.current()
    with pytest.raises(WeightsError):
        versions.promote(2)
    assert versions.rollback().number == 1  # 2 was changed as well
    assert versions.current().number == 1


def test_a_damaged_record_leaves_out_its_version_alone(versions: Versions, weights: dict[str, Path]) -> None:
    for _ in range(3):
        versions.add(weights["segmentation"])
    (versions.folder / "00002" / RECORD).write_text('{"number": 2')
    said = json.loads((versions.folder / "00003" / RECORD).read_text())
    (versions.folder / "00003" / RECORD).write_text(json.dumps({**said, "file": "../../../etc/passwd"}))
    assert [one.number for one in versions.list()] == [1]
    assert versions.add(weights["segmentation"]).number == 4
    (versions.folder / CURRENT).write_text("[]")
    with pytest.raises(WeightsError):
        Versions(versions.folder).current()


def test_another_process_sees_a_promotion_at_once(versions: Versions, tmp_path: Path) -> None:
    other = Versions(versions.folder)
    versions.begin_with(segmenter(tmp_path / "a.safetensors", 1))
    assert other.current().number == 1
    versions.promote(versions.add(segmenter(tmp_path / "b.safetensors", 2)).number)
    assert other.current().number == 2
    other.rollback()
    assert versions.current().number == 1


def test_the_encoder_is_taken_out_of_a_segmenter_for_embedding(weights: dict[str, Path], tmp_path: Path) -> None:
    from sonodistill.frames import read

    versions = Versions(tmp_path / "embedding")
    first = versions.begin_with(weights["segmentation"])
    assert versions.begin_with(weights["segmentation"]) == first
    frame = _frame(tmp_path)
    assert Predictor(first.path).predict_one(next(read(frame))).embedding.shape == (96,)
    other = Versions(tmp_path / "other" / "embedding").begin_with(weights["embedding"])
    assert other.sha256 == sha256(weights["embedding"])


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_candidate_replaces_no_version_that_it_was_not_compared_with(
    versions: Versions, tmp_path: Path, monkeypatch, meanwhile: bool
) -> None:
    for seed in (1, 2):
        versions.add(segmenter(tmp_path / f"{seed}.safetensors", seed))
    versions.promote(1)
    (tmp_path / "run").mkdir()
    segmenter(tmp_path / "run" / "model.safetensors", 3)

    def judged(model: str, weights: Path, *_: object, **__: object) -> Judgement:
        if meanwhile and weights.is_relative_to(versions.folder):
            versions.promote(2)  # by somebody, while it is judged
        return Judgement("dice", 0.5, 4, 1)

    monkeypatch.setattr("sonodistill.annotate.training.result.judge", judged)
    bench = SimpleNamespace(
        versions={"segmentation": versions},
        labels=SimpleNamespace(names=("lesion",)),
        settings=SimpleNamespace(threads=1),
    )
    data = SimpleNamespace(folder=tmp_path, summary=dict, by_frames=False)
    start = SimpleNamespace(name="segmentation 1")
    record = keep(Job(bench, "segmentation", TrainSettings(), data, start, tmp_path / "run"), 0.0)  # type: ignore[arg-type]
    assert (record["promoted"], versions.current().number) == ((False, 2) if meanwhile else (True, 3))
    assert ("meanwhile" in record["note"]) is meanwhile


def test_prune_keeps_the_latest_and_whatever_was_promoted(versions: Versions, weights: dict[str, Path]) -> None:
    for _ in range(6):
        versions.add(weights["segmentation"])
    versions.promote(1)
    versions.promote(3)
    assert versions.prune(2) == [2, 4]
    assert [one.number for one in versions.list()] == [1, 3, 5, 6]
    assert versions.add(weights["segmentation"]).number == 7


def test_an_exported_model_is_kept_with_the_file_that_its_tensors_are_in(tmp_path: Path) -> None:
    from sonodistill.telemetry import no_telemetry

    with no_telemetry():
        import openvino
    from sonodistill.frames import read

    torch.manual_seed(0)
    network = Segmenter(ENCODER, classes=1, weights=None).eval()
    model = openvino.convert_model(network, example_input=torch.zeros(1, 1, *SIZE), input=[1, 1, *SIZE])
    header = WeightsInfo("segmenter", ENCODER, input_size=SIZE, labels=("lesion",))
    model.set_rt_info(to_text(ExportInfo(header, "openvino", "fp32", SIZE)), KEY)
    openvino.save_model(model, tmp_path / "given.xml", compress_to_fp16=False)
    versions = Versions(tmp_path / "segmentation")
    added = versions.begin_with(tmp_path / "given.xml")
    assert (added.kind, added.labels) == ("segmenter", ("lesion",))
    frame = next(read(_frame(tmp_path)))
    assert Predictor(versions.current().path, runtime="openvino").predict_one(frame).mask.shape == frame.image.shape
    tensors = added.path.with_suffix(".bin")
    tensors.write_bytes(tensors.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(WeightsError, match="changed"):
        versions.current()


def test_several_processes_add_versions_at_once(versions: Versions, weights: dict[str, Path]) -> None:
    command = [sys.executable, "-c", WRITER, str(versions.folder), str(weights["segmentation"]), "5"]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert sorted(int(number) for numbers in said for number in numbers) == list(range(1, 11))
    assert [one.number for one in versions.list()] == list(range(1, 11))
    assert versions.current() is not None


def test_a_process_that_is_killed_leaves_whole_versions_and_no_lock(
    versions: Versions, weights: dict[str, Path]
) -> None:
    command = [sys.executable, "-c", WRITER, str(versions.folder), str(weights["segmentation"]), "100000"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said = [int(process.stdout.readline()) for _ in range(3)]
        time.sleep(0.013)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        rest = process.communicate(timeout=30)[0]
    said += [int(line) for line in rest.split("\n") if line.strip()]
    assert versions.current().number >= said[-1]
    found = versions.list()
    assert {one.number for one in found} >= set(said)
    assert all(sha256(one.path) == one.sha256 for one in found)
    added = versions.add(weights["segmentation"])
    assert added.number == found[-1].number + 1
    assert not list(versions.folder.glob(".new-*"))


def _frame(folder: Path) -> Path:
    import cv2

    path = folder / "frame.png"
    cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 256, (60, 80), dtype=np.uint8))
    return path
