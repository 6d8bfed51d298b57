"""A published data set made into the folder that fine-tuning reads."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from sonodistill.errors import DatasetError
from sonodistill.frames import read
from sonodistill_training.corpus.labelled import read_labelled, segmentation_items
from sonodistill_training.datasets_commands import app
from sonodistill_training.evaluate.data import read_set
from sonodistill_training.evaluate.divide import divide
from sonodistill_training.evaluate.prepare import prepare

SPLITS = ["train", "train", "train", "test", "validation", "train"]
SAMPLE = Path(__file__).parents[2] / "monai_bundle" / "sample_data"


def _same_frames_and_splits(name: str, folder: Path, out: Path, way: str) -> None:
    """What was written is, frame by frame, what an evaluation of the original would use."""
    before, after = read_set(name, folder, 64), read_set(name, out, 64)
    rows = {Path(file).with_suffix("").as_posix(): row for row, file in enumerate(before.files)}
    division, again = divide(before, "segmentation", way), divide(after, "segmentation")
    assert again.way == "index"
    for split in ("train", "validation", "test"):
        wanted = {Path(before.files[row]).with_suffix("").as_posix() for row in getattr(division, split)}
        found = {Path(after.files[row]).with_suffix("").as_posix() for row in getattr(again, split)}
        assert {file.removeprefix("images/") for file in found} == wanted
    for row, file in enumerate(after.files):
        original = rows[Path(file).with_suffix("").as_posix().removeprefix("images/")]
        np.testing.assert_array_equal(after.truth(row), before.truth(original))
        np.testing.assert_array_equal(after.images[row], before.images[original])
        assert after.groups[row] == before.groups[original] and after.labels[row] == before.labels[original]
        np.testing.assert_allclose(after.mm_per_pixel[row], before.mm_per_pixel[original], rtol=1e-7)


def test_the_sample_is_written_as_it_is_evaluated(tmp_path):
    counts = prepare("sample", SAMPLE, tmp_path / "out", "segmentation", "seed")
    assert sum(counts.values()) == len(read_labelled(SAMPLE)) and min(counts.values()) > 0
    _same_frames_and_splits("sample", SAMPLE, tmp_path / "out", "seed")
    assert len(segmentation_items(tmp_path / "out", "train")) == counts["train"]


@pytest.mark.slow
def test_ddti_as_published_keeps_its_cases_and_polygons(tmp_path, shared):
    folder = shared / "data" / "raw" / "ddti"
    result = CliRunner().invoke(app, ["prepare", f"ddti={folder}", "--out", str(tmp_path / "out"), "--split", "paper"])
    assert result.exit_code == 0, result.output
    _same_frames_and_splits("ddti", folder, tmp_path / "out", "paper")
    split_of = {}
    for frame in read_labelled(tmp_path / "out"):
        assert split_of.setdefault(frame.group, frame.split) == frame.split


def test_two_frames_that_differ_in_their_ending_alone_stay_two(tmp_path):
    lines = ["file,mask,label,group,split"]
    frames = read_labelled(SAMPLE)[:6]
    (tmp_path / "set").mkdir()
    for number, (frame, split) in enumerate(zip(frames, SPLITS, strict=True)):
        name = f"{number // 2}{('.png', '.bmp')[number % 2]}"
        image, mask = next(iter(read(frame.image))).image, next(iter(read(frame.mask))).image

        cv2.imwrite(str(tmp_path / "set" / name), image)
        cv2.imwrite(str(tmp_path / "set" / f"mask_{number}.png"), mask)
        lines.append(f"{name},mask_{number}.png,,{number},{split}")
    (tmp_path / "set" / "index.csv").write_text("\n".join(lines))
    prepare("mine", tmp_path / "set", tmp_path / "out", "segmentation")
    assert len(list((tmp_path / "out" / "images").iterdir())) == 6


def test_a_folder_with_something_in_it_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(DatasetError, match="not empty"):
        prepare("sample", SAMPLE, tmp_path, "segmentation")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_unknown_task_and_a_nameless_set_are_refused(tmp_path):
    for arguments in (["sample=x", "--task", "regression"], ["somewhere"]):
        result = CliRunner().invoke(app, ["prepare", *arguments, "--out", str(tmp_path / "out")])
        assert result.exit_code != 0 and not (tmp_path / "out").exists()
