"""What a build will read, and how it is cut into batches."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from sonodistill.errors import DatasetError, SonoDistillError, UnreadableFileError
from sonodistill_training.corpus.plan import LOCAL, deal, list_entries, parse_source
from sonodistill_training.corpus.privacy import KeyedNames

NAMES = KeyedNames(b"k" * 32)


@pytest.fixture
def stills(tmp_path):
    """Six hundred small stills in two folders."""
    for number in range(600):
        file = tmp_path / "clinic" / f"ward{number % 2}" / f"{number:04d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), np.full((8, 8), number % 256, np.uint8))
    return tmp_path / "clinic"


def test_a_source_is_a_path_or_a_named_path(tmp_path):
    assert parse_source("some/folder") == (LOCAL, parse_source("some/folder")[1])
    name, path = parse_source("hc18=/data/HC18")
    assert (name, str(path)) == ("hc18", "/data/HC18")
    (tmp_path / "a=b").mkdir()
    assert parse_source(str(tmp_path / "a=b"))[0] == LOCAL


def test_a_strange_name_is_refused():
    with pytest.raises(SonoDistillError, match="cannot be the name"):
        parse_source("../x=/data")


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UnreadableFileError, match="no such file"):
        list_entries([str(tmp_path / "nowhere")], NAMES)


def test_names_do_not_depend_on_where_the_folder_lies(stills, tmp_path):
    before = [entry.source for entry in list_entries([str(stills)], NAMES)]
    (tmp_path / "elsewhere").mkdir()
    moved = stills.rename(tmp_path / "elsewhere" / "clinic")
    assert [entry.source for entry in list_entries([str(moved)], NAMES)] == before


def test_an_entry_and_a_batch_show_no_path(stills):
    entries = list_entries([str(stills)], NAMES)
    batch = next(deal(entries, {}, "corpus"))
    assert "clinic" not in repr(entries[0])
    assert "clinic" not in repr(batch)


def test_files_are_grouped_as_asked(stills):
    def groups(by):
        return {entry.group for entry in list_entries([str(stills)], NAMES, by=by)}

    assert groups("auto") == {""}, "left to the file"
    assert len(groups("folder")) == 2
    assert len(groups("file")) == 600


def test_an_index_gives_groups_and_labels(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    cv2.imwrite(str(tmp_path / "a_mask.png"), np.zeros((8, 8), np.uint8))
    (tmp_path / "index.csv").write_text("file,mask,label,group,split\na.png,a_mask.png,benign,patient 7,train\n")
    [entry] = list_entries([f"mine={tmp_path}"], NAMES)
    assert entry.label == "benign"
    assert entry.group == NAMES("group", "mine", "patient 7")
    assert "patient" not in entry.group


def test_an_evaluation_set_is_no_source(tmp_path):
    with pytest.raises(DatasetError, match="for evaluation only"):
        list_entries([f"busi={tmp_path}"], NAMES)


def test_two_files_of_one_name_need_named_sources(tmp_path):
    for side in ("left", "right"):
        file = tmp_path / side / "scans" / "a.png"
        file.parent.mkdir(parents=True)
        cv2.imwrite(str(file), np.zeros((8, 8), np.uint8))
    both = [str(tmp_path / side / "scans") for side in ("left", "right")]
    with pytest.raises(DatasetError, match="same name"):
        list_entries(both, NAMES)
    assert len(list_entries([f"left={both[0]}", f"right={both[1]}"], NAMES)) == 2


def test_batches_hold_every_entry_once_in_order(stills):
    entries = list_entries([str(stills)], NAMES)
    batches = list(deal(entries, {}, "corpus"))
    assert [entry for batch in batches for entry in batch.entries] == entries
    assert 1 < len(batches) < 20


def test_a_new_file_touches_one_batch(stills):
    before = {batch.key for batch in deal(list_entries([str(stills)], NAMES), {}, "corpus")}
    cv2.imwrite(str(stills / "new.png"), np.zeros((8, 8), np.uint8))
    after = {batch.key for batch in deal(list_entries([str(stills)], NAMES), {}, "corpus")}
    assert len(before - after) <= 1
    assert len(after - before) <= 2


def test_other_settings_or_a_changed_file_make_another_batch(stills):
    def keys(options, role="corpus"):
        return {batch.key for batch in deal(list_entries([str(stills)], NAMES), options, role)}

    first = keys({"short_side": 256})
    assert not first & keys({"short_side": 288})
    assert not first & keys({"short_side": 256}, "evaluation")
    (stills / "ward0" / "0000.png").write_bytes((stills / "ward0" / "0000.png").read_bytes() + b" ")
    assert len(first - keys({"short_side": 256})) == 1
