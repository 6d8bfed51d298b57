"""Whole live sessions: a real server, device or cine, a model, results on disk and a report that adds up."""

from __future__ import annotations

import csv
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
from pydicom import examples

from sonodistill.frames import Frame
from sonodistill.inference.files import OutputError
from sonodistill.inference.live import igtl
from sonodistill.inference.live.commands import LiveSettingError, predict_live
from sonodistill.inference.live.smoothing import Smoother
from sonodistill.inference.live.source import SourceError
from sonodistill.inference.predictor import Predictor

TESTSRC = "device:lavfi:testsrc=size=160x120:rate=50,realtime"


def results(out):
    """The report, which has to add up, and the rows of the index, whose masks have to be there."""
    report = json.loads((out / "live.json").read_text())
    parts = ("predicted", "dropped", "late", "unfinished")
    assert report["received"] == sum(report[part] for part in parts)
    rows = list(csv.DictReader((out / "index.csv").open())) if report["predicted"] else []
    assert len(rows) == report["predicted"] - report["rows_not_written"]
    for row in rows:
        mask = cv2.imread(str(out / row["file"]), cv2.IMREAD_UNCHANGED)
        assert int((mask > 0).sum()) == int(row["area_pixels"])
    return report, rows


def test_a_server_through_an_exported_model_gives_the_masks_of_the_same_frames_offline(
    serve, images, cine, model, tmp_path
):
    server = serve().feed(images(cine[:10]), 0.02)
    predictor = Predictor(model, threads=1)
    code = predict_live(predictor, server.address, tmp_path, budget_ms=60_000, drop="none", frames=10)
    report, rows = results(tmp_path)
    assert code == 0 and report["budget_held"] and report["predicted"] == 10 and report["ended"] == "frames"
    assert 0 < report["p50_ms"] <= report["p95_ms"] <= report["max_ms"]
    for row, expected in zip(rows, predictor(cine[:10]), strict=True):
        mask = cv2.imread(str(tmp_path / row["file"]), cv2.IMREAD_UNCHANGED)
        assert (mask.astype(bool) != expected.mask).mean() < 1e-3  # pixels exactly at the threshold
        assert float(row["area_mm2"]) == pytest.approx(int(row["area_pixels"]) * 0.02, abs=1e-3)
    assert [float(row["time_ms"]) for row in rows] == pytest.approx([40.0 * n for n in range(10)], abs=0.01)


def frames_in_memory():
    return sum(type(thing) is Frame for thing in gc.get_objects())


class Watched:
    """A slow model that counts the frames in memory while it works."""

    def __init__(self, inner, held):
        self.inner, self.held, self.most, self.calls = inner, held, 0, 0
        self.threshold, self.labels = inner.threshold, inner.labels

    def predict_one(self, frame):
        prediction = self.inner.predict_one(frame)
        self.calls += 1
        if self.calls % 3 == 0:
            self.most = max(self.most, frames_in_memory() - self.held)
        return prediction


@pytest.mark.parametrize("drop", ["latest", "none"])
def test_a_burst_before_a_slow_model_is_dropped_or_waits_but_is_never_piled_up(
    drop, serve, images, cine, threshold, tmp_path
):
    server = serve().feed(images(cine * 3))
    slow = Watched(threshold(0.02), frames_in_memory())
    settings = {"budget_ms": 60_000, "drop": drop, "timeout": 1.0}
    if drop == "latest":
        with pytest.raises(SourceError, match="no frame"):  # so that all of the burst has arrived by then
            predict_live(slow, server.address, tmp_path, **settings)
    else:
        predict_live(slow, server.address, tmp_path, frames=20, **settings)
    report, rows = results(tmp_path)
    numbers = [int(row["frame"]) for row in rows]
    if drop == "latest":
        assert report["received"] == 90 and report["dropped"] > 40 and numbers == sorted(set(numbers))
        assert numbers[-1] == 89  # the newest is never dropped
    else:
        assert report["dropped"] == report["late"] == 0 and numbers == list(range(20))
        assert report["unfinished"] <= 6
    assert 0 < slow.most <= 1 + 6  # in work and on the way; what waits for the disk holds none


@pytest.mark.parametrize(("budget", "code"), [(60_000, 0), (5, 3)])
def test_a_budget_that_was_not_held_is_told_by_the_exit_code(budget, code, threshold, tmp_path, capfd):
    slow = threshold(0.03)
    assert predict_live(slow, TESTSRC, tmp_path, budget_ms=budget, frames=5) == code
    report, _ = results(tmp_path)
    assert report["budget_held"] == (code == 0) and report["over_budget"] == (0 if code == 0 else 5)
    assert ("NOT held" in capfd.readouterr().err) == (code == 3)


def test_smoothed_masks_are_those_of_the_smoothed_probabilities(serve, images, cine, threshold, tmp_path):
    predictor = threshold()
    predictor.threshold = 0.25
    server = serve().feed(images(cine[:6]))
    predict_live(predictor, server.address, tmp_path, budget_ms=60_000, drop="none", smooth=0.8, frames=6)
    report, rows = results(tmp_path)
    smoother = Smoother(0.8)
    changed = 0
    for n, row in enumerate(rows):
        alone = cine[n].image.astype(np.float32) / 255
        expected = smoother(alone, float(row["time_ms"])) > 0.25
        mask = cv2.imread(str(tmp_path / row["file"]), cv2.IMREAD_UNCHANGED).astype(bool)
        assert (mask != expected).mean() < 1e-4
        changed += int((mask != (alone > 0.25)).sum())
    assert report["smooth"] == 0.8 and changed > 0


def test_a_size_that_changes_in_the_middle_is_taken_as_it_comes(serve, images, cine, threshold, tmp_path):
    message = images(cine[:4])
    small = type(message[0])
    cut = [small(m.image[:, :100, :120], m.ijk_to_world_matrix, timestamp=m.timestamp) for m in message[2:]]
    for one in cut:
        one.device_name = "Image"
    server = serve().feed([*message[:2], *cut])
    predict_live(threshold(), server.address, tmp_path, budget_ms=60_000, drop="none", smooth=0.5, frames=4)
    _, rows = results(tmp_path)
    shapes = [cv2.imread(str(tmp_path / row["file"]), cv2.IMREAD_UNCHANGED).shape for row in rows]
    assert shapes == [(240, 320), (240, 320), (100, 120), (100, 120)]


def test_each_label_has_its_mask_and_row(threshold, tmp_path):
    two = threshold(labels=("bright", "dark part"))
    predict_live(two, TESTSRC, tmp_path, budget_ms=60_000, frames=2)
    rows = list(csv.DictReader((tmp_path / "index.csv").open()))
    assert [row["label"] for row in rows] == ["bright", "dark part"] * 2
    assert rows[1]["file"].endswith("_00000_dark_part_mask.png")
    assert sum(int(row["area_pixels"]) for row in rows[:2]) == 160 * 120
    assert all((tmp_path / row["file"]).exists() for row in rows)


def test_masks_go_back_to_the_server_and_lie_on_their_image(serve, images, cine, threshold, tmp_path):
    sent = images(cine[:1], "Probe")
    server = serve().feed(sent)
    predict_live(threshold(), server.address, tmp_path, budget_ms=60_000, frames=1, reply=True)
    mask = server.received("Probe_mask", timeout=5)
    assert np.array_equal(mask.image[0] > 0, cine[0].image > 127)
    assert np.allclose(mask.ijk_to_world_matrix, sent[0].ijk_to_world_matrix, atol=1e-4)
    assert mask.timestamp == pytest.approx(1000.0)


@pytest.mark.parametrize("frames", [1, None])
def test_a_reply_that_cannot_be_made_ends_the_session_by_name(
    frames, serve, images, cine, threshold, tmp_path, monkeypatch
):
    monkeypatch.setattr(igtl, "to_message", lambda *_: 1 / 0)
    server = serve().feed(images(cine), 0.02)
    with pytest.raises(SourceError, match="cannot be sent a reply .ZeroDivisionError"):
        predict_live(threshold(), server.address, tmp_path, budget_ms=60_000, frames=frames, timeout=5, reply=True)
    report, rows = results(tmp_path)
    assert len(rows) >= 1 and "cannot be sent a reply" in report["ended"]


def test_a_label_that_is_no_text_ends_the_session_by_name(threshold, tmp_path):
    with pytest.raises(OutputError, match="cannot be written .UnicodeEncodeError"):
        predict_live(threshold(labels=("\ud800",)), TESTSRC, tmp_path, budget_ms=60_000, seconds=20)
    report = json.loads((tmp_path / "live.json").read_text())
    assert "cannot be written" in report["ended"] and report["seconds"] < 15


def test_a_server_that_falls_silent_ends_in_an_error_and_a_report(serve, images, cine, threshold, tmp_path):
    server = serve().feed(images(cine[:2], "A"))
    with pytest.raises(SourceError, match="sent no frame for 0.3 s"):
        predict_live(threshold(), server.address, tmp_path / "silent", budget_ms=60_000, timeout=0.3)
    report, rows = results(tmp_path / "silent")
    assert len(rows) >= 1 and "sent no frame" in report["ended"]
    server = serve().feed(images(cine[:2], "A"))
    with pytest.raises(SourceError, match="images came from 'A'"):
        predict_live(threshold(), f"{server.address}/B", tmp_path / "other", budget_ms=60_000, timeout=0.3)
    assert results(tmp_path / "other")[0]["budget_held"] is None


def test_a_server_that_goes_is_waited_for_until_the_seconds_are_over(serve, images, cine, threshold, tmp_path):
    server = serve().feed(images(cine[:3]))
    threading.Timer(0.2, server.stop).start()
    code = predict_live(threshold(), server.address, tmp_path, budget_ms=60_000, seconds=1.8, timeout=0.8)
    report, _ = results(tmp_path)
    assert code == 0 and report["ended"] == "seconds" and report["received"] == 3


def test_a_cine_rehearses_a_session(threshold, tmp_path):
    path = str(examples.get_path("ybr_color"))
    assert predict_live(threshold(), path, tmp_path, budget_ms=60_000) == 0
    report, rows = results(tmp_path)
    assert report["ended"] == "the source ended" and report["received"] == 30
    assert rows[0]["file"].endswith("_00000_mask.png") and rows[0]["area_mm2"] == ""  # it states no scale
    with pytest.raises(OutputError, match="earlier session"):
        predict_live(threshold(), path, tmp_path, budget_ms=60_000)


class Failing:
    threshold, labels = 0.5, ("bright",)

    def __init__(self, inner):
        self.inner = inner

    def predict_one(self, frame):
        if frame.index == 3:
            raise SourceError("the model gives up")
        return self.inner.predict_one(frame)


def test_a_model_that_fails_leaves_what_was_predicted_and_a_report_that_adds_up(threshold, tmp_path):
    with pytest.raises(SourceError, match="gives up"):
        predict_live(Failing(threshold()), TESTSRC, tmp_path, budget_ms=60_000, drop="none")
    report, rows = results(tmp_path)
    assert len(rows) == 3 and report["unfinished"] >= 1 and report["ended"] == "the model gives up"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"budget_ms": 0.0}, "--budget-ms is 0"),
        ({"budget_ms": float("nan")}, "--budget-ms"),
        ({"seconds": -1.0}, "--seconds"),
        ({"frames": 0}, "--frames"),
        ({"drop": "oldest"}, "--drop 'oldest'"),
        ({"smooth": 1.0}, "--smooth"),
        ({"reply": True}, "only OpenIGTLink"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_anything_is_opened(wrong, said, threshold, tmp_path):
    with pytest.raises(LiveSettingError, match=said):
        predict_live(threshold(), "device:nothing", tmp_path / "out", **{"budget_ms": 50.0, **wrong})
    assert not (tmp_path / "out").exists()


PROGRAM = """
import sys
from pathlib import Path
sys.modules["torch"] = sys.modules["monai"] = None
from sonodistill.inference.live.commands import predict_live
from sonodistill.inference.predictor import Predictor
sys.exit(predict_live(Predictor(sys.argv[1], threads=1), sys.argv[2], Path(sys.argv[3]), budget_ms=60_000))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_ended_keeps_what_it_has_shown_and_needs_no_torch(number, model, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(model), TESTSRC, str(tmp_path / "out")]
    index = tmp_path / "out" / "index.csv"
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and (not index.exists() or len(index.read_text().splitlines()) < 4):
            time.sleep(0.02)
        shown = len(index.read_text().splitlines())
        os.kill(process.pid, number)
        said = process.communicate(timeout=30)[1]
    if number == signal.SIGKILL:
        rows = list(csv.DictReader(index.open()))
        assert len(rows) >= shown - 1
        assert all(cv2.imread(str(tmp_path / "out" / row["file"]), cv2.IMREAD_UNCHANGED) is not None for row in rows)
        return
    assert process.returncode == 0, said
    report, rows = results(tmp_path / "out")
    assert report["ended"] == "interrupted" and len(rows) >= shown - 1 and "frames received" in said
