"""Real trainings of a tiny network on accepted frames: better, worse, stopped and gone on with."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from study_case import CLASSES, accept_all, draw, make_study, models, truth, workbench

from sonodistill.annotate.errors import ConflictError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Status
from sonodistill.annotate.training.judge import dice, judge, middle_of_error
from sonodistill.annotate.training.process import start_soon
from sonodistill.annotate.training.run import run_training
from sonodistill.annotate.training.state import (
    InvalidSettingError,
    TrainSettings,
    UnknownModelError,
    due,
    only_training,
    read_progress,
    running_model,
    write_progress,
)
from sonodistill.annotate.workbench import SEGMENTATION, Workbench
from sonodistill.weights import load_weights, read_info

QUICK = TrainSettings(max_epochs=6, batch_size=8, learning_rate=3e-3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, weights: dict[str, Path]) -> Iterator[tuple[Workbench, dict]]:
    """A workbench whose segmentation was trained once, and the record of it; "before" is the Dice of version 1."""
    folder = tmp_path_factory.mktemp("trained")
    bench = workbench(make_study(folder / "studies"), folder / "work", weights)
    accept_all(bench)
    before = dice_of(bench)
    record = run_training(bench, SEGMENTATION, QUICK)
    yield bench, {**record, "before": before}
    bench.close()


@pytest.fixture
def bench(tmp_path: Path, weights: dict[str, Path]) -> Iterator[Workbench]:
    """As before any training, every frame accepted."""
    opened = workbench(make_study(tmp_path / "studies", stills=2), tmp_path / "work", weights)
    accept_all(opened)
    yield opened
    opened.close()


def dice_of(bench: Workbench) -> float:
    """Mean Dice over all frames, as a client sees it."""
    found = []
    for item in bench.catalogue.items():
        for frame in bench.catalogue.read(item):
            mask = bench.predictor(SEGMENTATION).predict_one(frame).mask
            found.append(dice(mask, truth(frame.image) > 0))
    return float(np.mean(found))


def stop_after(work: Path, epochs: int) -> None:
    """SIGTERM to this process once so many epochs are done."""

    def watch() -> None:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            if read_progress(work, SEGMENTATION).get("epoch", -1) >= epochs:
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.01)

    threading.Thread(target=watch, daemon=True).start()


def test_training_makes_it_better_and_the_predictor_has_it_at_once(trained: tuple[Workbench, dict]) -> None:
    bench, record = trained
    assert (record["version"], record["promoted"]) == (2, True)
    assert record["before"] < 0.4
    assert dice_of(bench) > 0.8
    assert bench.predictor(SEGMENTATION).path == bench.versions[SEGMENTATION].get(2).path


def test_the_record_has_both_numbers_on_the_same_held_out_frames(trained: tuple[Workbench, dict]) -> None:
    bench, record = trained
    metrics = bench.versions[SEGMENTATION].get(2).metrics
    assert metrics == record["metrics"]
    folder = bench.settings.work / "training" / SEGMENTATION / "set"
    for key, number in (("dice", 2), ("dice_of_current", 1)):
        found = judge(SEGMENTATION, bench.versions[SEGMENTATION].get(number).path, folder, ["lesion"], threads=1)
        assert found.value == pytest.approx(metrics[key], abs=1e-6)
        assert found.count == metrics["held_out"] == metrics["data"]["validation"] > 0
    assert metrics["settings"]["max_epochs"] == QUICK.max_epochs
    assert metrics["data"]["train"] + metrics["data"]["validation"] == 24


def test_progress_ends_as_done(trained: tuple[Workbench, dict]) -> None:
    bench, record = trained
    said = read_progress(bench.settings.work, SEGMENTATION)
    assert (said["state"], said["version"], said["promoted"]) == ("done", 2, True)
    assert said["message"] == record["note"]
    assert read_progress(bench.settings.work, "interactive")["state"] == "idle"


def test_the_version_says_where_it_comes_from(trained: tuple[Workbench, dict]) -> None:
    info = read_info(trained[0].versions[SEGMENTATION].get(2).path)
    assert (info.kind, info.labels, info.licence_notice) == ("segmenter", ("lesion",), "of the test")


def test_a_training_on_noise_is_kept_but_not_promoted(trained: tuple[Workbench, dict]) -> None:
    bench, _ = trained
    good = dice_of(bench)
    held = {
        line.split(",")[0].removeprefix("images/").removesuffix(".png")
        for line in (bench.settings.work / "training" / SEGMENTATION / "set" / "index.csv").read_text().split()
        if line.endswith("validation")
    }
    noise = np.random.default_rng(0)
    for item in bench.catalogue.items():
        frame = FrameId(item.id, 0)
        if str(frame) not in held:
            mask = noise.integers(0, 2, (64, 64)).astype(np.uint8)
            bench.labels.save(frame, mask, status=Status.ACCEPTED, annotator="vandal")
    record = run_training(bench, SEGMENTATION, TrainSettings(max_epochs=1, batch_size=4, learning_rate=3e-2))
    assert not record["promoted"]
    assert "worse" in record["note"]
    assert record["metrics"]["dice"] < record["metrics"]["dice_of_current"]
    assert bench.versions[SEGMENTATION].current().number == 2
    assert [one.number for one in bench.versions[SEGMENTATION].list()] == [1, 2, 3]
    assert dice_of(bench) == good


def test_rollback_gives_the_old_answers_back(trained: tuple[Workbench, dict]) -> None:
    bench, record = trained
    assert bench.versions[SEGMENTATION].rollback().number == 1
    assert dice_of(bench) == pytest.approx(record["before"])
    bench.versions[SEGMENTATION].promote(2)
    assert dice_of(bench) > 0.8


@pytest.mark.parametrize(("model", "metric"), [("classification", "accuracy"), ("interactive", "dice_3_clicks")])
def test_the_other_models_learn_through_their_configs(bench: Workbench, model: str, metric: str) -> None:
    record = run_training(bench, model, TrainSettings(max_epochs=8, batch_size=4, learning_rate=3e-3))
    assert record["metrics"][metric] >= record["metrics"][f"{metric}_of_current"]
    assert record["promoted"]
    version = bench.versions[model].current()
    assert version.number == 2
    if model == "classification":
        assert version.labels == CLASSES
        assert record["metrics"][metric] > 0.9
    else:
        item = bench.catalogue.items()[0]
        assert bench.interactive.path == version.path
        assert bench.interactive.embed(FrameId(item.id, 0), next(bench.catalogue.read(item)).image) is False


def test_a_training_that_was_stopped_goes_on_to_the_same_weights(
    bench: Workbench, tmp_path: Path, weights: dict[str, Path]
) -> None:
    settings = TrainSettings(max_epochs=4, batch_size=16, learning_rate=3e-3)
    work = bench.settings.work
    stop_after(work, 2)
    with pytest.raises(SystemExit):
        run_training(bench, SEGMENTATION, settings)
    said = read_progress(work, SEGMENTATION)
    assert (said["state"], said["of"]) == ("cancelled", 4)
    assert 2 <= said["epoch"] < 4
    assert len(bench.versions[SEGMENTATION].list()) == 1
    assert first_epoch_of(work, lambda: run_training(bench, SEGMENTATION, settings)) >= 2
    other = workbench(Path(bench.settings.studies), tmp_path / "other", weights)
    accept_all(other)
    run_training(other, SEGMENTATION, settings)
    state, same = (load_weights(one.versions[SEGMENTATION].get(2).path)[0] for one in (bench, other))
    assert state.keys() == same.keys()
    assert all(torch.equal(state[name], same[name]) for name in state)
    other.close()


def test_with_other_labels_it_begins_anew(bench: Workbench) -> None:
    settings = TrainSettings(max_epochs=2, batch_size=16, learning_rate=3e-3)
    stop_after(bench.settings.work, 1)
    with pytest.raises(SystemExit):
        run_training(bench, SEGMENTATION, settings)
    frame = FrameId(bench.catalogue.items()[0].id, 0)
    bench.labels.save(frame, np.zeros((64, 64), np.uint8), status=Status.ACCEPTED, annotator="ann")
    assert first_epoch_of(bench.settings.work, lambda: run_training(bench, SEGMENTATION, settings)) == 0


def first_epoch_of(work: Path, train: Callable[[], object]) -> int:
    """The epoch that a training begins with."""
    log, seen = work / "training" / SEGMENTATION / "progress.json", []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            said = read_progress(work, SEGMENTATION)
            if said.get("phase") == "training" and "epoch" in said:
                seen.append(said["epoch"])
            time.sleep(0.005)

    assert log.is_file()
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        train()
    finally:
        done.set()
        thread.join(10)
    return min(seen)


@pytest.mark.slow
def test_labels_are_told_apart(tmp_path: Path, weights: dict[str, Path]) -> None:
    studies = make_study(tmp_path / "studies", patients=4, stills=2)
    bench = workbench(studies, tmp_path / "work", weights, labels=("light", "shade"))
    for item in bench.catalogue.items():
        mask = truth(next(bench.catalogue.read(item)).image) * (1 if "bright" in item.name else 2)
        bench.labels.save(FrameId(item.id, 0), mask.astype(np.uint8), status=Status.ACCEPTED, annotator="ann")
    record = run_training(bench, SEGMENTATION, TrainSettings(max_epochs=10, batch_size=4, learning_rate=5e-3))
    assert record["metrics"]["start"] == "embedding 1", "the version of one label has no channel for the other"
    assert record["promoted"]
    assert bench.versions[SEGMENTATION].current().labels == ("light", "shade")
    right = []
    for item in bench.catalogue.items():
        frame = next(bench.catalogue.read(item))
        light, shade = bench.predictor(SEGMENTATION).predict_one(frame).masks[:, truth(frame.image) > 0].sum(1)
        right.append(light > shade if "bright" in item.name else shade > light)
    assert np.mean(right) > 0.8
    bench.close()


@pytest.mark.slow
def test_one_patient_alone_replaces_no_version(tmp_path: Path, weights: dict[str, Path]) -> None:
    bench = workbench(make_study(tmp_path / "studies", patients=1, stills=6), tmp_path / "work", weights)
    accept_all(bench)
    record = run_training(bench, SEGMENTATION, TrainSettings(max_epochs=1, batch_size=4, learning_rate=3e-3))
    assert not record["promoted"]
    assert "one group" in record["note"]
    assert record["metrics"]["data"]["by_frames"]
    assert bench.versions[SEGMENTATION].current().number == 1
    bench.close()


@pytest.mark.slow
def test_the_first_version_grows_on_the_encoder_of_embedding(tmp_path: Path, weights: dict[str, Path]) -> None:
    only = {"embedding": weights["embedding"]}
    bench = workbench(make_study(tmp_path / "studies", patients=2, stills=2), tmp_path / "work", only)
    accept_all(bench)
    settings = TrainSettings(max_epochs=1, batch_size=4, freeze_encoder=True)
    record = run_training(bench, SEGMENTATION, settings)
    assert record["promoted"]
    assert record["metrics"]["start"] == "embedding 1"
    assert bench.versions[SEGMENTATION].current().number == 1
    state = load_weights(bench.versions[SEGMENTATION].current().path)[0]
    begun = load_weights(weights["embedding"])[0]
    assert all(torch.equal(state[f"encoder.{name}"], value) for name, value in begun.items()), "it was to be frozen"
    bench.close()


def test_nothing_to_start_from_or_to_learn_is_said(tmp_path: Path, weights: dict[str, Path]) -> None:
    bench = workbench(make_study(tmp_path / "studies", patients=2, stills=2), tmp_path / "work", {})
    with pytest.raises(ConflictError, match="0 accepted"):
        run_training(bench, SEGMENTATION)
    assert read_progress(bench.settings.work, SEGMENTATION)["state"] == "failed"
    accept_all(bench)
    with pytest.raises(ConflictError, match="no weights to start"):
        run_training(bench, SEGMENTATION)
    assert "weights" in read_progress(bench.settings.work, SEGMENTATION)["message"]
    for model in ("embedding", "../segmentation", ""):
        with pytest.raises(UnknownModelError):
            run_training(bench, model)
    bench.close()


def test_there_is_one_training_at_once(bench: Workbench) -> None:
    with only_training(bench.settings.work), pytest.raises(ConflictError, match="runs already"):
        run_training(bench, SEGMENTATION)


@pytest.mark.parametrize(
    "given",
    [
        {"max_epochs": 0},
        {"max_epochs": 1001},
        {"max_epochs": 2.5},
        {"max_epochs": True},
        {"batch_size": "many"},
        {"batch_size": 257},
        {"learning_rate": 0},
        {"learning_rate": float("nan")},
        {"learning_rate": "1"},
        {"freeze_encoder": 1},
        {"dataset_dir": "/"},
        {"train#trainer#max_epochs": 3},
    ],
)
def test_settings_out_of_their_bounds_and_others_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(InvalidSettingError):
        TrainSettings.of(SEGMENTATION, given)


def test_settings_of_stock_clients_are_read_and_their_others_left_alone() -> None:
    given = {"max_epochs": "12", "batch_size": 4.0, "freeze_encoder": "true", "device": "cuda", "run_id": "__import__"}
    assert TrainSettings.of("interactive", given, strict=False) == TrainSettings(12, 4, 3e-4, True)


def test_a_training_is_due_after_so_many_newly_accepted_frames(tmp_path: Path, weights: dict[str, Path]) -> None:
    bench = workbench(make_study(tmp_path / "studies", stills=1), tmp_path / "work", weights, train_after=4)
    frames = [FrameId(item.id, 0) for item in bench.catalogue.items()]
    mask = np.ones((64, 64), np.uint8)
    for frame in frames:
        bench.labels.save(frame, mask, status=Status.EDITED, annotator="ann")
    for frame in [*frames[:3], frames[0]]:
        bench.labels.mark(frame, Status.ACCEPTED, "ann")
    assert not due(bench), "three frames"
    bench.labels.mark(frames[3], Status.ACCEPTED, "ann")
    assert due(bench)
    assert not due(bench, "classification")
    run_training(bench, SEGMENTATION, TrainSettings(max_epochs=1))
    assert not due(bench)
    bench.close()


def test_nobody_waits_for_the_look_whether_a_training_is_due(monkeypatch) -> None:
    go, begun, done = threading.Event(), threading.Event(), threading.Event()

    def looking(*_: object) -> bool:
        begun.set()
        go.wait(10)
        done.set()
        return False

    monkeypatch.setattr("sonodistill.annotate.training.process.due", looking)
    start_soon(SimpleNamespace())  # type: ignore[arg-type]
    assert begun.wait(10) and not done.is_set()
    go.set()
    for thread in threading.enumerate():
        if thread.name == "train-if-due":
            thread.join(10)


def test_dice_of_two_empty_masks_is_one() -> None:
    none, some = np.zeros((4, 4), bool), np.eye(4, dtype=bool)
    assert dice(none, none) == 1
    assert dice(none, some) == 0
    assert dice(some, some) == 1


def test_the_oracle_clicks_in_the_middle_of_the_largest_error() -> None:
    truth_, found = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    truth_[10:31, 10:31] = True
    assert middle_of_error(found, truth_) == ((20.0, 20.0), True)
    found[:] = True
    found[35:] = False
    (x, y), missing = middle_of_error(found, truth_)
    assert not missing
    assert not truth_[int(y), int(x)]
    assert middle_of_error(truth_, truth_) is None
    image, mask = draw(np.random.default_rng(0))
    assert dice(truth(image) > 0, mask > 0) > 0.9


def test_a_killed_training_is_not_told_as_running_while_another_model_is_trained(tmp_path):
    write_progress(tmp_path, SEGMENTATION, state="running", phase="training", pid=1)  # and it was killed
    assert read_progress(tmp_path, SEGMENTATION)["state"] == "interrupted"
    with only_training(tmp_path):
        write_progress(tmp_path, "interactive", state="running", phase="training", pid=2)
        assert read_progress(tmp_path, SEGMENTATION)["state"] == "interrupted"
        assert read_progress(tmp_path, "interactive")["state"] == "running"
        assert running_model(tmp_path) == "interactive"
