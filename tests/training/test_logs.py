"""Logs of a training read back: JSON lines, CSV, TensorBoard, MLflow; after kills, on full disks, with new columns."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sonodistill.errors import SonoDistillError
from sonodistill_training.logs import Writers, check_logs

CASE = Path(__file__).with_name("logs_case.py")


def row(step, **more):
    return {"step": step, "epoch": step / 10, "loss": 1 / step, "images_per_second": 33.5, "data_wait": 0.03} | more


def log(folder, steps, names=("jsonl", "csv"), start_step=0, **more):
    with Writers(folder, names, start_step=start_step, settings={"batch_size": 7}) as writers:
        for step in steps:
            writers.write(row(step, **more))


def json_rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def table(folder):
    with (folder / "log.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len({len(cells) for cells in rows}) == 1, "every row has as many cells as the header"
    return [dict(zip(rows[0], cells, strict=True)) for cells in rows[1:]]


def scalars(folder, tag="loss"):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = event_accumulator.EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


def killed_after(folder, step, names):
    """Log in a process of its own that is killed right after this step."""
    ended = subprocess.run([sys.executable, str(CASE), str(folder), str(step), *names], check=False)
    assert ended.returncode == -signal.SIGKILL


def test_rows_are_read_back_as_written(tmp_path):
    log(tmp_path, range(1, 4))
    assert json_rows(tmp_path) == [row(step) for step in range(1, 4)]
    assert [{name: float(text) for name, text in cells.items()} for cells in table(tmp_path)] == json_rows(tmp_path)


def test_json_lines_are_written_even_when_not_asked_for(tmp_path):
    log(tmp_path, [1], names=[])
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_monitor_that_reports_later_gets_a_column_that_is_empty_before(tmp_path):
    with Writers(tmp_path, ["csv"], start_step=0, settings={}) as writers:
        writers.write(row(1))
        writers.write(row(2, knn=0.7, **{"a,b": 3}))
        writers.write(row(3))
    assert [cells["knn"] for cells in table(tmp_path)] == ["", "0.7", ""]
    assert [cells["a,b"] for cells in table(tmp_path)] == ["", "3", ""]


def test_what_is_not_finite_is_null_in_json_empty_in_csv_and_left_out_of_tensorboard(tmp_path):
    log(tmp_path, [1], names=["csv", "tensorboard"], knn=math.nan, rank=math.inf)
    line = (tmp_path / "log.jsonl").read_text()
    parsed = json.loads(line, parse_constant=pytest.fail)
    assert parsed["knn"] is None and parsed["rank"] is None
    assert table(tmp_path)[0]["knn"] == table(tmp_path)[0]["rank"] == ""
    assert scalars(tmp_path) == [(1, 1.0)]
    with pytest.raises(KeyError):
        scalars(tmp_path, "knn")


def test_going_on_after_a_kill_no_log_has_a_step_twice(tmp_path):
    killed_after(tmp_path, 7, ["csv", "tensorboard"])
    for name in ("log.jsonl", "log.csv"):
        with (tmp_path / name).open("a") as file:
            file.write('{"step": 8, "lo' if name.endswith("jsonl") else "8,0.8,0.1")
    assert [step for step, _ in scalars(tmp_path)] == [1, 2, 3, 4, 5, 6, 7]  # a kill loses nothing
    log(tmp_path, range(6, 10), names=["csv", "tensorboard"], start_step=5, knn=0.7)
    steps = list(range(1, 10))
    assert [written["step"] for written in json_rows(tmp_path)] == steps
    assert [int(cells["step"]) for cells in table(tmp_path)] == steps
    assert [cells["knn"] for cells in table(tmp_path)] == [""] * 5 + ["0.7"] * 4
    assert scalars(tmp_path) == [(step, pytest.approx(1 / step)) for step in steps]


def test_starting_anew_in_a_folder_drops_what_an_earlier_training_logged(tmp_path):
    log(tmp_path, range(1, 4), names=["csv", "tensorboard"], old_name=1.0)
    log(tmp_path, [1], names=["csv", "tensorboard"])
    assert [written["step"] for written in json_rows(tmp_path)] == [1]
    assert [set(cells) for cells in table(tmp_path)] == [set(row(1))]
    assert scalars(tmp_path) == [(1, 1.0)]


def test_a_log_that_cannot_be_written_is_warned_about_once_and_the_others_go_on(tmp_path, caplog):
    (tmp_path / "log.csv").mkdir()
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        log(tmp_path, range(1, 6), names=["csv", "tensorboard"])
    assert [written["step"] for written in json_rows(tmp_path)] == [1, 2, 3, 4, 5]
    assert sum("log csv cannot be written" in message for message in caplog.messages) == 1
    assert sum("log tensorboard cannot be written" in message for message in caplog.messages) == 1


def test_rows_kept_while_a_log_could_not_be_written_are_in_it_afterwards(tmp_path):
    with Writers(tmp_path, ["csv"], start_step=0, settings={}) as writers:
        writers.write(row(1))
        (tmp_path / "log.csv").rename(tmp_path / "away")
        (tmp_path / "log.csv").mkdir()
        writers.write(row(2))
        (tmp_path / "log.csv").rmdir()
        (tmp_path / "away").rename(tmp_path / "log.csv")
        writers.write(row(3))
    assert [cells["step"] for cells in table(tmp_path)] == ["1", "2", "3"]


def test_a_full_disk_tears_no_row_and_loses_none(tmp_path):
    """The case limits the size of its files, so that a row is written in part, and lifts the limit later."""
    ended = subprocess.run(
        [sys.executable, str(CASE), str(tmp_path), "full", "csv"], check=True, capture_output=True, text=True
    )
    held = json.loads(ended.stdout)
    assert 0 < held["jsonl"] < 40 and 0 < held["csv"] < 40
    assert ended.stderr.count("log jsonl cannot be written") == ended.stderr.count("log csv cannot be written") == 1
    assert [written["step"] for written in json_rows(tmp_path)] == list(range(1, 42))
    assert [int(cells["step"]) for cells in table(tmp_path)] == list(range(1, 42))


def test_numbers_of_other_libraries_are_logged_as_plain_ones(tmp_path):
    numpy = pytest.importorskip("numpy")
    log(tmp_path, [1], knn=numpy.float32(0.5), rank=numpy.int64(3))
    assert json_rows(tmp_path)[0]["knn"] == 0.5 and json_rows(tmp_path)[0]["rank"] == 3


def test_settings_are_shown_by_tensorboard(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log(tmp_path, [1], names=["tensorboard"])
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "batch_size: 7" in text


def test_a_log_that_does_not_exist_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(SonoDistillError, match=r"wandb.*\n.*jsonl, csv, tensorboard, mlflow"):
        Writers(tmp_path / "out", ["wandb"], start_step=0, settings={})
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("mlflow") is not None, reason="MLflow is installed")
def test_mlflow_that_is_not_installed_is_a_named_error_before_training():
    with pytest.raises(SonoDistillError, match=r"needs mlflow.*\n.*pip install mlflow"):
        check_logs(["mlflow"])


def mlflow_runs(folder):
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiment = client.get_experiment_by_name("sonodistill")
    return client, client.search_runs([experiment.experiment_id])


def test_mlflow_goes_on_in_the_same_run_and_has_no_step_twice(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # named by the environment, not by the settings
    killed_after(tmp_path, 7, ["mlflow"])
    with pytest.raises(KeyboardInterrupt), Writers(tmp_path, ["mlflow"], start_step=5, settings={}) as writers:
        for step in range(6, 10):
            writers.write(row(step, **{"knn@5": 0.7, "bad": math.nan}))
        raise KeyboardInterrupt
    client, runs = mlflow_runs(tmp_path)
    assert len(runs) == 1
    run = runs[0]
    assert (run.info.status, run.info.run_name) == ("KILLED", tmp_path.name)
    assert run.data.params == {"batch_size": "7", "student.name": "resnet18"}
    assert run.data.metrics["knn_5"] == 0.7 and "bad" not in run.data.metrics
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in range(1, 10)]


def test_mlflow_begins_a_new_run_when_training_starts_anew(tmp_path):
    pytest.importorskip("mlflow")
    log(tmp_path, [1, 2], names=["mlflow"])
    log(tmp_path, [1], names=["mlflow"])
    _, runs = mlflow_runs(tmp_path)
    assert sorted(run.data.metrics["step"] for run in runs) == [1, 2]


@pytest.mark.parametrize("uri", ["/tmp/runs", "file:///tmp/runs", "nothing://x"])
def test_a_tracking_uri_that_mlflow_cannot_log_to_is_refused_before_training(tmp_path, uri):
    pytest.importorskip("mlflow")
    with pytest.raises(SonoDistillError, match="cannot log to"):
        Writers(tmp_path, ["mlflow"], start_step=0, settings={}, tracking_uri=uri)


def test_a_tracking_server_that_is_away_does_not_stop_the_training(tmp_path, caplog):
    pytest.importorskip("mlflow")
    with Writers(tmp_path, ["mlflow"], start_step=0, settings={}, tracking_uri="http://127.0.0.1:9") as writers:
        for step in range(1, 4):
            writers.write(row(step))
    assert [written["step"] for written in json_rows(tmp_path)] == [1, 2, 3]
    assert sum("log mlflow cannot be written" in message for message in caplog.messages) == 1
