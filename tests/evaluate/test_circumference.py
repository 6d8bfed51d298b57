"""Head circumference: the formula, HC18's own masks against its table, and the command."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.special import ellipe
from typer.testing import CliRunner

from sonodistill.errors import DatasetError
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.evaluate.circumference import circumference_mm, read_published
from sonodistill_training.evaluate.external.frames import items_of, truth_of
from sonodistill_training.evaluate_commands import app

TABLE = "training_set_pixel_size_and_HC.csv"


def _ellipse(half_axes: tuple[float, float], angle: float = 0.0, size: int = 400) -> np.ndarray:
    """Pixels whose centres lie inside; half-axes in pixels (x, y)."""
    y, x = np.mgrid[:size, :size] - size / 2.0
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return ((c * x + s * y) / half_axes[0]) ** 2 + ((c * y - s * x) / half_axes[1]) ** 2 <= 1


@pytest.mark.parametrize(("a", "b", "angle"), [(100, 100, 0), (150, 110, 0), (150, 110, 37), (60, 150, 120)])
def test_it_is_the_perimeter_of_an_ellipse(a, b, angle):
    long, short = max(a, b), min(a, b)
    exact = 4 * long * ellipe(1 - (short / long) ** 2) * 0.2
    # The outline's pixels lie up to one pixel inside the border that made the mask.
    assert exact - 2 * math.pi * 0.2 < circumference_mm(_ellipse((a, b), angle), (0.2, 0.2)) <= exact * 1.001


def test_pixels_that_are_not_square_are_measured_in_millimetres():
    wide = _ellipse((150, 75))  # a circle of 30 mm where a column is 0.2 mm and a row 0.4 mm
    assert circumference_mm(wide, (0.4, 0.2)) == pytest.approx(2 * math.pi * 30, rel=0.01)


def test_of_several_parts_the_largest_counts_and_nothing_has_no_circumference():
    mask = _ellipse((100, 80))
    alone = circumference_mm(mask, (0.2, 0.2))
    mask[:20, :20] = True
    assert circumference_mm(mask, (0.2, 0.2)) == alone
    assert circumference_mm(np.zeros((50, 50), bool), (0.2, 0.2)) is None
    dot = np.zeros((50, 50), bool)
    dot[10, 10] = True
    assert circumference_mm(dot, (0.2, 0.2)) is None


def test_hc18s_masks_have_the_published_circumference(shared):
    folder = shared / "data" / "raw" / "hc18"
    published = read_published(folder / TABLE)
    found = 0
    for item in items_of("hc18", folder):
        if item.mask is not None:
            mask = truth_of(item, cv2.imread(str(item.path), cv2.IMREAD_GRAYSCALE).shape)
            spacing = (item.mm_per_pixel, item.mm_per_pixel)
            assert circumference_mm(mask, spacing) == pytest.approx(published[item.path.stem], abs=0.1)
            found += 1
    assert found >= 3


def test_the_command_measures_what_it_can_and_lists_the_rest(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "set").mkdir()
    lines, table = ["file,group,split,mm_per_pixel"], ["filename,pixel size(mm),head circumference (mm)"]
    for number in range(6):
        name = f"00{number}_HC.png"
        cv2.imwrite(str(tmp_path / "set" / name), rng.integers(0, 255, (96, 128), np.uint8))
        lines.append(f"{name},woman{number // 2},{'train' if number == 5 else 'test'},{'' if number == 4 else 0.25}")
        table.append(f"{name},0.25,{40 + number}")
    (tmp_path / "set" / "index.csv").write_text("\n".join(lines))
    (tmp_path / TABLE).write_text("\n".join(table))
    network = Segmenter("resnet18", classes=1, weights=None)
    save_weights(
        tmp_path / "model.safetensors",
        network.state_dict(),
        WeightsInfo("segmenter", "resnet18", input_size=(64, 64), labels=("head",)),
    )
    arguments = ["circumference", str(tmp_path / "model.safetensors"), "--data", f"hc18={tmp_path / 'set'}"]
    arguments += ["--table", str(tmp_path / TABLE), "--split", "test", "--out", str(tmp_path / "rows.csv"), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output  # 004 has no pixel size
    assert "skipped 004_HC.png" in result.stderr and "pixel size" in result.stderr
    facts = json.loads(result.stdout.splitlines()[-1])
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [f"00{number}_HC.png" for number in range(4)]
    difference = np.array([float(row["found_mm"]) - float(row["published_mm"]) for row in rows if row["found_mm"]])
    assert facts["frames"] == 4 and facts["missed"] == 4 - len(difference) and facts["skipped"] == 1
    assert facts["mean_absolute_difference_mm"][0] == pytest.approx(np.abs(difference).mean(), abs=0.01)
    assert facts["mean_difference_mm"][0] == pytest.approx(difference.mean(), abs=0.01)
    spread = 1.96 * difference.std(ddof=1)
    assert facts["limits_of_agreement_mm"] == pytest.approx(
        [difference.mean() - spread, difference.mean() + spread], abs=0.02
    )


@pytest.mark.parametrize("text", ["", "filename,other\na.png,1", f"filename,{'head circumference (mm)'}\na.png,-4"])
def test_a_table_that_is_none_is_refused(tmp_path, text):
    path = Path(tmp_path / TABLE)
    path.write_text(text)
    with pytest.raises(DatasetError, match=TABLE):
        read_published(path)
