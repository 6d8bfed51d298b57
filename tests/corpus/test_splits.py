"""Splits: whole groups, the shares asked for, always the same, and files that show when they were changed."""

from __future__ import annotations

import random
import re
from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonodistill.errors import DatasetError
from sonodistill_training.corpus import paper_splits
from sonodistill_training.corpus.paper_splits import make_paper_split, paper_split
from sonodistill_training.corpus.splits import read_split, split_groups, write_split

frames_of_groups = st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab")), min_size=1, max_size=150)
shares = st.sampled_from([(0.7, 0.2, 0.1), (0.9, 0.05, 0.05), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0)])


@settings(max_examples=100, deadline=None)
@given(frames_of_groups, shares, st.integers(0, 5), st.randoms(use_true_random=False))
def test_the_order_of_frames_does_not_matter(frames, fractions, seed, shuffle):
    def split(rows):
        return split_groups([f"g{group}" for group, _ in rows], [label for _, label in rows], fractions, seed)

    expected = split(frames)
    mixed = list(frames)
    shuffle.shuffle(mixed)
    assert split(mixed) == expected
    assert set(expected) == {f"g{group}" for group, _ in frames}


@settings(max_examples=100, deadline=None)
@given(frames_of_groups, shares, st.integers(0, 5))
def test_shares_of_frames_are_off_by_less_than_the_largest_group(frames, fractions, seed):
    split = split_groups([f"g{group}" for group, _ in frames], [label for _, label in frames], fractions, seed)
    counts = Counter(split[f"g{group}"] for group, _ in frames)
    largest = max(Counter(group for group, _ in frames).values())
    for name, fraction in zip(("train", "validation", "test"), fractions, strict=True):
        assert abs(counts[name] - fraction * len(frames)) <= 2 * largest


def test_single_frames_are_split_to_the_frame_in_every_stratum():
    labels = ["normal"] * 133 + ["benign"] * 437 + ["malignant"] * 210
    split = split_groups([f"{label}{i}" for i, label in enumerate(labels)], labels)
    counts = Counter((re.sub(r"\d", "", group), name) for group, name in split.items())
    assert Counter(split.values()) == {"train": 546, "validation": 156, "test": 78}
    for label, n in (("normal", 133), ("benign", 437), ("malignant", 210)):
        for name, fraction in (("train", 0.7), ("validation", 0.2), ("test", 0.1)):
            assert abs(counts[label, name] - fraction * n) < 2


def test_a_data_set_is_a_stratum():
    groups = [f"{name}{i}" for name in ("big", "small") for i in range(900 if name == "big" else 20)]
    datasets = ["big"] * 900 + ["small"] * 20
    split = split_groups(groups, [""] * 920, datasets=datasets)
    assert Counter(split[group] for group in groups[900:]) == {"train": 14, "validation": 4, "test": 2}


def test_long_clips_do_not_all_go_to_training():
    draw = random.Random(0)
    sizes = [draw.choice((1, 5, 40)) for _ in range(400)]
    groups = [f"g{i}" for i, size in enumerate(sizes) for _ in range(size)]
    split = split_groups(groups, [""] * len(groups))
    long = Counter(split[f"g{i}"] for i, size in enumerate(sizes) if size == 40)
    assert long["validation"] > 0.1 * long.total()
    assert long["test"] > 0.04 * long.total()


def test_another_seed_is_another_split():
    groups = [f"g{i}" for i in range(50)]
    assert split_groups(groups, [""] * 50, seed=0) != split_groups(groups, [""] * 50, seed=1)


@pytest.mark.parametrize("fractions", [(0.7, 0.2, 0.2), (1.2, -0.1, -0.1), (0.5, 0.5)])
def test_shares_that_do_not_make_a_whole_are_refused(fractions):
    with pytest.raises(DatasetError, match="do not divide a whole"):
        split_groups(["a"], [""], fractions)


def test_a_split_is_read_as_it_was_written(tmp_path):
    assignment = {"b": "train", "a": "train", "ü (1).png": "test"}
    written = write_split(tmp_path / "split.json", assignment, {"seed": 3})
    found = read_split(tmp_path / "split.json")
    assert found == written
    assert found.assignment == assignment
    assert found.counts == {"train": 2, "validation": 0, "test": 1}
    assert found.about == {"seed": 3}


def test_the_hash_does_not_depend_on_the_order_of_members(tmp_path):
    first = write_split(tmp_path / "1.json", {"a": "train", "b": "test", "c": "train"})
    assert write_split(tmp_path / "2.json", {"c": "train", "b": "test", "a": "train"}).sha256 == first.sha256


def test_a_changed_file_is_refused_by_name(tmp_path):
    path = tmp_path / "split.json"
    write_split(path, {"case 7": "train", "case 8": "test"})
    path.write_text(path.read_text().replace("case 7", "case 9"))
    with pytest.raises(DatasetError, match=r"split\.json: was changed after it was written") as caught:
        read_split(path)
    assert caught.value.path == path


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"sha256": "0", "format": "x", "version": 1}'])
def test_what_is_no_split_file_is_refused(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(DatasetError):
        read_split(tmp_path / "other.json")


def test_a_missing_split_file_is_said(tmp_path):
    with pytest.raises(DatasetError, match="no split file"):
        read_split(tmp_path / "none.json")


def test_a_split_of_an_unknown_name_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="val"):
        write_split(tmp_path / "split.json", {"a": "val"})
    assert not (tmp_path / "split.json").exists()


def by_class(name):
    split = paper_split(name)
    return {part: Counter(file.split()[0] for file in files) for part, files in split.members.items()}


def test_busi_classification_tests_on_the_papers_157_images():
    counts = by_class("busi-classification")
    assert counts["test"] == {"normal": 27, "benign": 88, "malignant": 42}
    assert counts["train"] + counts["validation"] == {"normal": 106, "benign": 349, "malignant": 168}


def test_busi_segmentation_is_70_20_10_of_every_class():
    counts = by_class("busi-segmentation")
    assert [counts[name].total() for name in ("train", "validation", "test")] == [546, 156, 78]
    for kind, n in (("normal", 133), ("benign", 437), ("malignant", 210)):
        assert abs(counts["train"][kind] - 0.7 * n) < 1
        assert abs(counts["test"][kind] - 0.1 * n) < 1


def test_busi_splits_name_every_image_once():
    every = {
        f"{kind} ({i}).png"
        for kind, n in (("normal", 133), ("benign", 437), ("malignant", 210))
        for i in range(1, n + 1)
    }
    for name in ("busi-classification", "busi-segmentation"):
        listed = [file for files in paper_split(name).members.values() for file in files]
        assert len(listed) == 780
        assert set(listed) == every


def test_ddti_keeps_every_case_together():
    split = paper_split("ddti")
    of_case = defaultdict(set)
    for file, part in split.assignment.items():
        of_case[re.match(r"\d+", file)[0]].add(part)
    assert split.counts == {"train": 336, "validation": 96, "test": 48}
    assert len(of_case) == 390
    assert all(len(parts) == 1 for parts in of_case.values())


@pytest.mark.parametrize("name", paper_splits.NAMES)
def test_the_shipped_split_is_what_its_recipe_makes(name):
    assert paper_split(name).assignment == make_paper_split(name)


def test_an_unknown_paper_split_is_refused():
    with pytest.raises(ValueError, match="busi-classification"):
        paper_split("hc18")


def test_ddti_split_names_the_files_of_the_data_set(shared):
    files = {path.name for path in (shared / "data" / "raw" / "ddti").glob("*.jpg")}
    assert set(paper_split("ddti").assignment) == files
