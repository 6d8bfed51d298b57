"""The picture of what trainings have logged."""

from __future__ import annotations

import json

import pytest
from matplotlib import image

from sonodistill.errors import BundleConfigError, DatasetError, UnreadableFileError
from sonodistill_training.monitor.watch import share_of_variance
from sonodistill_training.report.curves import draw_curves

ROWS = [{"step": s, "loss": 4.0 / s, "target_variance": 4.0} for s in range(1, 6)]


def logged(folder, rows):
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_each_quantity_of_any_run_has_a_panel_and_each_run_a_name(tmp_path):
    first = logged(tmp_path / "first", ROWS)
    second = logged(tmp_path / "second", [*ROWS, {"step": 6, "loss": 0.5, "rankme": 30.0, "probe_accuracy": 0.7}])
    assert draw_curves([first, second], tmp_path / "c.svg") == ["loss", "share", "rankme", "probe_accuracy"]
    text = (tmp_path / "c.svg").read_text()
    assert text.lstrip().startswith("<?xml") and text.count('id="axes_') == 4


def test_a_picture_of_pixels(tmp_path):
    draw_curves([logged(tmp_path / "run", ROWS) / "log.jsonl"], tmp_path / "c.png")
    pixels = image.imread(tmp_path / "c.png")
    assert pixels.shape[1] > pixels.shape[0] > 100 and pixels.std() > 0.01


def test_values_that_are_not_finite_are_left_out(tmp_path):
    rows = [*ROWS, {"step": 6, "loss": float("nan"), "rankme": float("inf")}]
    assert draw_curves([logged(tmp_path / "run", rows)], tmp_path / "c.svg") == ["loss", "share"]


def test_the_share_is_that_of_the_tokens_where_the_loss_has_other_terms():
    row = {"loss": 3.0, "token": 1.0, "target_variance": 4.0}
    assert share_of_variance(row) == 0.25
    assert share_of_variance({"loss": 3.0, "target_variance": 4.0}) == 0.75
    assert share_of_variance({"loss": 3.0}) is share_of_variance(row | {"target_variance": 0.0}) is None


def test_what_cannot_be_drawn_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no log.jsonl"):
        draw_curves([tmp_path], tmp_path / "c.svg")
    with pytest.raises(DatasetError, match="nothing is logged yet"):
        draw_curves([logged(tmp_path / "empty", [])], tmp_path / "c.svg")
    with pytest.raises(UnreadableFileError, match="line 1"):
        (logged(tmp_path / "cut", []) / "log.jsonl").write_text('{"step": 1, "lo')
        draw_curves([tmp_path / "cut"], tmp_path / "c.svg")
    with pytest.raises(UnreadableFileError, match="line 2"):
        (logged(tmp_path / "bytes", []) / "log.jsonl").write_bytes(b"{}\n\x80")
        draw_curves([tmp_path / "bytes"], tmp_path / "c.svg")
    with pytest.raises(BundleConfigError, match="gif"):
        draw_curves([logged(tmp_path / "run", ROWS)], tmp_path / "c.gif")
    assert not (tmp_path / "c.svg").exists()
