"""Accepted frames as a folder to train on: which labels, which split, and what is written again."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_case import accept_all, make_study, truth, workbench

from sonodistill.annotate.errors import ConflictError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Status
from sonodistill.annotate.training.held_out import SHARE, deal
from sonodistill.annotate.training.labelled import TrainingSet, training_set
from sonodistill.annotate.workbench import Settings, Workbench
from sonodistill_training.corpus.labelled import class_names, read_labelled, segmentation_items


@pytest.fixture
def bench(tmp_path: Path):
    """Six patients of two stills, without models."""
    opened = workbench(make_study(tmp_path / "studies", stills=2), tmp_path / "work", {})
    yield opened
    opened.close()


def write(bench: Workbench, model: str = "segmentation", **more) -> TrainingSet:
    return training_set(bench.catalogue, bench.labels, bench.settings.work / "training" / "x" / "set", model, **more)


def table(found: TrainingSet) -> dict[str, dict[str, str]]:
    with (found.folder / "index.csv").open(newline="") as file:
        return {Path(row["file"]).stem: row for row in csv.DictReader(file)}


def splits(found: TrainingSet) -> dict[str, str]:
    return {name: row["split"] for name, row in table(found).items()}


def first(bench: Workbench) -> FrameId:
    return FrameId(bench.catalogue.items()[0].id, 0)


def test_frames_and_masks_are_those_that_were_accepted(bench: Workbench) -> None:
    accept_all(bench)
    found = write(bench)
    assert (found.train + found.validation, found.written) == (12, 12)
    for item in bench.catalogue.items():
        image = next(bench.catalogue.read(item)).image
        name = f"{FrameId(item.id, 0)}.png"
        assert np.array_equal(cv2.imread(str(found.folder / "images" / name), cv2.IMREAD_UNCHANGED), image)
        mask = cv2.imread(str(found.folder / "masks" / name), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask, truth(image) * 255)


def test_the_training_reads_the_folder_as_it_is(bench: Workbench) -> None:
    accept_all(bench)
    found = write(bench)
    assert len(segmentation_items(found.folder, "train")) == found.train
    assert len(segmentation_items(found.folder, "validation")) == found.validation
    assert all(row.given for row in read_labelled(found.folder))


def test_only_what_people_accepted_is_trained_on(bench: Workbench) -> None:
    accept_all(bench)
    one, two, three, four = (FrameId(item.id, 0) for item in bench.catalogue.items()[:4])
    mask = np.ones((64, 64), np.uint8)
    bench.labels.save(one, mask, status=Status.EDITED, annotator="ann")
    bench.labels.mark(two, Status.SKIPPED, "ann")
    bench.labels.save(three, None, status=Status.ACCEPTED, annotator="ann", classification="dark")
    bench.labels.save(four, np.zeros((64, 64), np.uint8), status=Status.ACCEPTED, annotator="ann")
    names = set(table(write(bench)))
    assert not names & {str(one), str(two), str(three)}
    assert str(four) in names, "an accepted empty mask says that nothing is there"
    assert len(names) == 9


def test_of_several_annotators_the_newest_counts_or_the_one_that_is_named(bench: Workbench) -> None:
    accept_all(bench)
    frame, other = first(bench), np.ones((64, 64), np.uint8)
    bench.labels.save(frame, other, status=Status.ACCEPTED, annotator="bob")
    path = write(bench).folder / "masks" / f"{frame}.png"
    assert cv2.imread(str(path), cv2.IMREAD_UNCHANGED).all()
    found = write(bench, annotator="ann")
    assert not cv2.imread(str(path), cv2.IMREAD_UNCHANGED).all()
    assert len(table(found)) == 12
    with pytest.raises(ConflictError, match="1 accepted"):
        write(bench, annotator="bob")


def test_patients_are_not_divided_and_stay_where_they_are(bench: Workbench) -> None:
    accept_all(bench, only="p0")
    accept_all(bench, only="p1")
    before = splits(write(bench))
    assert set(before.values()) == {"train", "validation"}
    accept_all(bench)
    after = splits(write(bench))
    assert before.items() <= after.items()
    sides = {}
    for item in bench.catalogue.items():
        sides.setdefault(item.group, set()).add(after[f"{FrameId(item.id, 0)}"])
    assert all(len(side) == 1 for side in sides.values())


def test_a_lone_patient_is_validated_on_other_frames_of_it_and_that_is_said(bench: Workbench) -> None:
    accept_all(bench, only="p0")
    found = write(bench)
    assert found.by_frames
    assert (found.train, found.validation) == (1, 1)
    assert any("one group" in warning for warning in found.warnings)
    accept_all(bench, only="p1")
    later = write(bench)
    assert not later.by_frames
    assert {side for name, side in splits(later).items() if name.startswith("p0")} == {"train"}, "it was trained on"


def test_only_what_changed_is_written_again(bench: Workbench) -> None:
    accept_all(bench)
    found = write(bench)
    times = {path: path.stat().st_mtime_ns for path in found.folder.glob("*/*.png")}
    again = write(bench)
    assert (again.written, again.digest) == (0, found.digest)
    changed = first(bench)
    bench.labels.save(changed, np.ones((64, 64), np.uint8), status=Status.ACCEPTED, annotator="ann")
    item = bench.catalogue.items()[1]
    cv2.imwrite(str(item.path), np.zeros((64, 64), np.uint8))
    bench.catalogue.refresh()
    last = write(bench)
    assert last.written == 2
    assert last.digest != found.digest
    rewritten = {path.stem for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert rewritten == {str(changed), str(FrameId(item.id, 0))}


def test_what_is_no_longer_accepted_leaves_the_folder(bench: Workbench) -> None:
    accept_all(bench)
    found = write(bench)
    bench.labels.remove(first(bench), "ann")
    write(bench)
    assert str(first(bench)) not in table(found)
    assert not list(found.folder.glob(f"*/{first(bench)}*"))
    (found.folder / "masks" / f"{FrameId(bench.catalogue.items()[2].id, 0)}.png").unlink()
    assert write(bench).written == 1, "a file that was lost is written again"


def test_a_file_that_vanished_or_was_replaced_by_another_size_is_skipped_with_its_reason(bench: Workbench) -> None:
    accept_all(bench)
    gone, other = bench.catalogue.items()[0], bench.catalogue.items()[1]
    gone.path.unlink()
    cv2.imwrite(str(other.path), np.zeros((32, 48), np.uint8))
    bench.catalogue.refresh()
    found = write(bench)
    assert found.train + found.validation == 10
    assert {name.split(".f")[0] for name, _ in found.skipped} == {gone.id, other.id}
    assert all(reason for _, reason in found.skipped)


def test_classes_are_written_for_classification(bench: Workbench) -> None:
    accept_all(bench)
    found = write(bench, "classification")
    assert found.classes == ("bright", "dark") == tuple(class_names(found.folder))
    assert all(row["mask"] == "" for row in table(found).values())
    assert all(row["label"] in name for name, row in table(found).items())


def test_too_few_frames_or_classes_are_refused(bench: Workbench) -> None:
    with pytest.raises(ConflictError, match="0 accepted frames"):
        write(bench)
    accept_all(bench, only="bright")
    with pytest.raises(ConflictError, match="of 1 classes"):
        write(bench, "classification")


def test_each_label_of_a_frame_is_a_structure_to_click_on(tmp_path: Path) -> None:
    bench = Workbench(Settings(str(make_study(tmp_path / "s", stills=1)), tmp_path / "w", labels=("cyst", "wall")))
    for item in bench.catalogue.items():
        mask = np.zeros((64, 64), np.uint8)
        mask[:20], mask[30:40] = 1, 2
        bench.labels.save(FrameId(item.id, 0), mask, status=Status.ACCEPTED, annotator="ann")
    bench.labels.save(FrameId(item.id, 0), np.zeros((64, 64), np.uint8), status=Status.ACCEPTED, annotator="ann")
    found = write(bench, "interactive")
    assert found.train + found.validation == 5, "nobody clicks on what is not there"
    sums = sorted(int((cv2.imread(str(path), 0) > 0).sum()) for path in found.folder.glob("masks/*"))
    assert sums == [10 * 64] * 5 + [20 * 64] * 5
    found = write(bench)
    assert len(list(found.folder.glob("masks/*"))) == 6
    mask = cv2.imread(str(next(found.folder.glob(f"masks/{bench.catalogue.items()[0].id}*"))), cv2.IMREAD_UNCHANGED)
    assert (mask[0, 0], mask[25, 0], mask[35, 0]) == (1, 0, 2), "for segmentation, the label numbers"
    bench.close()


def test_a_damaged_record_of_the_held_out_groups_is_not_dealt_anew_in_silence(bench: Workbench) -> None:
    accept_all(bench)
    path = write(bench).folder.parent / "splits.json"
    known = json.loads(path.read_text())
    path.write_text("{")
    with pytest.raises(ConflictError, match="held out"):
        write(bench)
    path.write_text(json.dumps(known))
    assert write(bench).written == 0


@given(st.lists(st.sets(st.text(max_size=4), min_size=1, max_size=6), min_size=1, max_size=6), st.integers(0, 5))
def test_a_group_that_was_dealt_never_moves_and_both_sides_have_one(steps: list[set[str]], seed: int) -> None:
    known: dict[str, str] = {}
    groups: set[str] = set()
    for step in steps:
        groups |= step
        dealt = deal(groups, known, seed)
        assert known.items() <= dealt.items()
        assert dealt.keys() == groups
        assert len(groups) == 1 or set(dealt.values()) == {"train", "validation"}
        assert len(groups) > 1 or set(dealt.values()) == {"train"}
        known = dealt


def test_about_a_fifth_of_the_groups_is_held_out() -> None:
    dealt = list(deal([f"patient {number}" for number in range(2000)], {}).values())
    assert abs(dealt.count("validation") / len(dealt) - SHARE) < 0.03
