"""The registry: complete entries, folders found at any depth, items by rule, folders compared with the layout."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry import data_sets, get
from sonodistill_training.corpus.registry.core import DataSet, Tree, unknown_licence
from sonodistill_training.corpus.registry.readers import Files, Known, Masks, Table, fill

# The names of Table 1 of the distillation paper, as printed.
TABLE_1 = """105 US Images; AbdomenUS; AULI; Brachial Plexus; BrEaST; BUS-UCLM; BUSBRA; BUS_UC; Cactus Dataset; CAMUS;
Carotid Artery; COVID-BLUES; EchoCP; EchoNet-Dynamic; Fast-U-Net; FASS; Fetal Echo; Fetal Plane; LUS Phantom; MicroSeg;
MMOTU-2D; MMOTU-3D; PSFHS; mu-RegPro; S1; Segthy; STMUS; STU Hospital; US Fetus; UBPD; HC; JNU-IFM; KidneyUS;
GIST514-DB; Injury Loc."""


def entry(*adapter, **fields):
    words = dict.fromkeys(
        ("name", "anatomy", "modality", "size", "url", "doi", "citation", "access", "layout", "grouping"), "-"
    )
    return DataSet(key="toy", licence=unknown_licence("-"), adapter=adapter, **{**words, **fields})


STILLS = Files(
    r"images/(?P<patient>p\d+)_(?P<label>\w+)\.png",
    group="{patient}",
    label="{label}",
    labels={"b": "benign"},
    mask=Masks("masks/{stem}*.png", required=False),
)


# The catalogue


def test_every_name_of_table_1_has_one_entry():
    names = [entry.table1 for entry in data_sets().values() if entry.table1]
    assert sorted(names) == sorted(name.strip() for name in TABLE_1.replace("\n", " ").split(";"))
    assert len(names) == 35


def test_the_evaluation_sets_are_marked_and_no_others():
    assert {key for key, entry in data_sets().items() if entry.evaluation} == {"ddti", "busi"}
    assert {"jnu_ifm", "fass", "fetal_planes"} <= data_sets().keys()


def test_every_entry_says_what_a_user_must_know():
    for key, data in data_sets().items():
        assert re.fullmatch(r"[a-z0-9_]+", key)
        for field in ("name", "anatomy", "modality", "size", "citation", "access", "layout", "grouping"):
            assert getattr(data, field).strip(), f"{key} has no {field}"
        assert data.url.startswith(("http://", "https://")), key
        assert not data.doi or data.doi.startswith("10."), key
        assert data.licence.notice, f"{key}: where are the terms stated?"
        assert any(isinstance(rule, Files) or hasattr(rule, "search") for rule in data.adapter), key
        assert re.search(r"verified|checked|list of files", data.layout), f"{key}: how is the layout known?"


def test_an_unknown_licence_allows_nothing_and_forbids_nothing():
    for key, data in data_sets().items():
        if data.licence.name == "unknown":
            assert (data.licence.redistribution, data.licence.commercial) == (None, None), key


def test_every_entry_is_tried_on_a_miniature():
    tests = "".join(file.read_text() for file in Path(__file__).parent.glob("test_registry_*.py"))
    assert [key for key in data_sets() if f"def test_miniature_{key}(" not in tests] == []


def test_no_pattern_takes_for_ever_on_a_hostile_name(tmp_path):
    hostile = ["a/" * 30 + "x", "1_" * 200, "a" * 4000, "/".join(["001_P1" + "a" * 40] * 40), "_HC_" * 500]
    tree = Tree(tmp_path, [f"{name}.nothing" for name in hostile])
    started = time.process_time()
    for data in data_sets().values():
        assert not data.find(tree).items
    assert time.process_time() - started < 5


def test_get_forgives_spelling_of_the_separator():
    assert get("BUS-BRA") is get("bus_bra") is get(" Bus bra ")


def test_an_unknown_key_names_close_ones():
    with pytest.raises(DatasetError, match="hc18"):
        get("hc19")


# Finding the folder


def test_the_folder_is_found_from_above_and_from_itself(folder):
    folder.image("images/p1_b.png")
    folder.image("images/p2_c.png")
    data = entry(STILLS)
    here = data.items(folder.root)
    assert [item.group for item in here] == ["p1", "p2"]
    assert data.items(folder.root.parent) == here == data.items(folder.root.parent.parent)


def test_of_two_copies_the_fuller_one_is_taken(folder):
    for name in ("a/images/p1_b.png", "b/images/p1_b.png", "b/images/p2_b.png"):
        folder.image(name)
    items = entry(STILLS).items(folder.root)
    assert {item.file.parent.parent.name for item in items} == {"b"}


def test_a_rule_that_must_match_decides_before_optional_ones(folder):
    folder.image("deep/images/p1_b.png")
    for number in range(4):
        folder.image(f"{number}.png")
    data = entry(STILLS, Files(r"\d\.png", group="{stem}", optional=True))
    assert [item.group for item in data.items(folder.root)] == ["p1"]


def test_the_order_of_the_files_on_disk_does_not_matter(folder):
    names = [f"images/p{number}_b.png" for number in range(20)]
    tree = Tree(folder.root, names)
    shuffled = Tree(folder.root, random.Random(0).sample(names, len(names)))
    assert list(entry(STILLS).find(tree).items) == list(entry(STILLS).find(shuffled).items)


def test_hidden_and_system_files_and_links_out_are_not_seen(folder, tmp_path):
    folder.image("images/p1_b.png")
    for name in (".git/x.png", "__MACOSX/images/p1_b.png", "images/._p1_b.png", "Thumbs.db"):
        folder.text(name, "x")
    outside = tmp_path / "outside.png"
    outside.write_bytes(b"x")
    (folder.root / "images/p9_b.png").symlink_to(outside)
    assert Tree.walk(folder.root).files == ("images/p1_b.png",)


def test_no_folder_and_no_match_are_named(folder, tmp_path):
    with pytest.raises(DatasetError, match="no such folder"):
        entry(STILLS).items(tmp_path / "nowhere")
    folder.text("readme.txt", "x")
    with pytest.raises(DatasetError, match=r"not laid out.*images") as error:
        entry(STILLS, layout="images/PATIENT_LABEL.png").items(folder.root)
    assert "images/PATIENT_LABEL.png" in str(error.value)


@given(st.lists(st.text(st.sampled_from("ab/._*("), min_size=1, max_size=6), max_size=8), st.text("ab/.*(", max_size=6))
@settings(max_examples=200, deadline=None)
def test_glob_agrees_with_matching_every_file(names, pattern):
    names = [name.strip("/") for name in names if name.strip("/")]
    tree = Tree(Path("x"), dict.fromkeys(names))
    regex = re.compile("[^/]*".join(map(re.escape, pattern.strip("/").split("*"))))
    assert tree.glob(pattern) == sorted(name for name in set(names) if regex.fullmatch(name))


# Items


def test_labels_groups_and_masks_follow_the_rules(folder):
    folder.image("images/p1_b.png")
    folder.image("images/p1_c.png")
    folder.mask("masks/p1_b_1.png", box=(0, 0, 4, 4))
    folder.mask("masks/p1_b_2.png", box=(8, 8, 12, 12))
    first, second = entry(STILLS).items(folder.root)
    assert (first.label, second.label) == ("benign", "c")
    assert second.mask is None
    mask = first.mask.load((40, 48))
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).sum() == 32


def test_a_row_of_a_table_gives_group_label_split_and_pixel_size(folder):
    folder.image("7.png")
    folder.text("t.csv", "Name; Who ;class;mm\n7.png;anna;1;0.25\n")
    rule = Files(
        r"\d+\.png",
        group="{Who}",
        label="{class}",
        split=lambda fields: fields["class"] + "!",
        mm="{mm}",
        labels={"1": "cyst"},
        table=Table("t.csv", key="{Name}", match="{name}", delimiter=";"),
    )
    (item,) = entry(rule).items(folder.root)
    assert (item.group, item.label, item.split, item.mm_per_pixel) == ("anna", "cyst", "1!", 0.25)


def test_tables_of_many_folders_are_put_together(folder):
    for video, label in (("v1", "a"), ("v2", "b")):
        folder.image(f"{video}/1.png")
        folder.text(f"{video}/labels.csv", f"frame,label\n1,{label}\n")
    rule = Files(
        r"(?P<video>v\d)/(?P<frame>\d+)\.png",
        group="{video}",
        label="{label}",
        table=Table("*/labels.csv", key="{table.folder}/{frame}", match="{video}/{frame}"),
    )
    assert [item.label for item in entry(rule).items(folder.root)] == ["a", "b"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(folder):
    folder.image("7.png")
    folder.text("t.csv", "Name,Who\n7.png,anna\n")
    rule = Files(r"\d+\.png", group="{Who}", table=Table("t.csv", key="{Nmae}", match="{name}"))
    with pytest.raises(DatasetError, match=r"Nmae.*Name, Who"):
        entry(rule).items(folder.root)
    misspelt = Files(r"\d+\.png", group="{Whom}", table=Table("t.csv", key="{Name}", match="{name}"))
    with pytest.raises(DatasetError, match="Whom"):
        entry(misspelt).items(folder.root)


def test_of_two_rules_the_first_takes_a_file(folder):
    folder.image("a/1.png")
    first, second = Files(r"a/1\.png", group="first"), Files(r"[ab]/\d\.png", group="second")
    assert [item.group for item in entry(first, second).items(folder.root)] == ["first"]


def test_a_template_has_no_way_to_attributes():
    with pytest.raises(KeyError):
        fill("{path.__class__}", {"path": "x"})


# Checking a folder


def test_check_names_what_is_missing_and_what_nobody_knows(folder):
    folder.image("images/p1_b.png")
    folder.text("images/note.txt", "x")
    folder.text("read me.md", "x")
    folder.text("t.csv", "id\np1_b\np2_b\n")
    rule = Files(
        r"images/(?P<patient>p\d)_b\.png", "{patient}", mask=Masks("masks/{name}"), table=Table("t.csv", key="{id}")
    )
    report = entry(rule, Known(r"[^/]*\.md"), published={"items": 2, "groups": 1}).check(folder.root)
    assert not report.ok
    assert report.found == {"items": 1, "groups": 1, "masks": 0}
    assert report.missing == (
        "1 files have no mask: images/p1_b.png",
        "1 rows of t.csv have no file: p2_b",
        "items: 1 of 2 published",
    )
    assert report.unexpected == ("images/note.txt",)


def test_a_complete_folder_is_ok(folder):
    folder.image("images/p1_b.png")
    report = entry(STILLS, published={"items": 1, "label:benign": 1}).check(folder.root)
    assert report.ok
    assert report.unexpected == ()


def test_an_archive_left_packed_is_pointed_at(folder):
    folder.text("images.zip", "PK")
    assert any("images.zip" in line for line in entry(STILLS).check(folder.root).missing)
