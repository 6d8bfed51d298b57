"""Names of items and frames: readable, unique, and never a path."""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonodistill.annotate.errors import InvalidIdError
from sonodistill.annotate.ids import MAX_FRAMES, FrameId, check_item_id, check_name, item_id, parse

# A name on a disk is of any bytes but the separator and NUL; Python decodes those that are no text in its own way.
NAMES = st.binary(min_size=1, max_size=60).map(lambda name: os.fsdecode(name.translate(None, b"/\0") or b"x"))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)

ESCAPES = [
    *("", ".", "..", "../x", "a/../b", "/etc/passwd", "a/b", "a\\b", "..\\x", "C:x", "~root", "a..b", "-rf", ".hidden"),
    *("a.", "a b", "a\n", "a\0", "a%2e%2e", "a;b", "a'b", 'a"b', "é", "a" * 129, "x" * 1_000_000),
]


@pytest.mark.parametrize("text", ESCAPES, ids=lambda text: repr(text)[:20])
def test_what_could_be_a_path_or_a_statement_is_no_id(text: str) -> None:
    with pytest.raises(InvalidIdError):
        check_item_id(text)
    with pytest.raises(InvalidIdError):
        parse(text)
    with pytest.raises(InvalidIdError):
        parse(f"{text}.f00000")


@pytest.mark.parametrize("thing", [None, 3, b"abc", ["abc"], FrameId("abc", 0)])
def test_what_is_no_text_is_no_id(thing: object) -> None:
    with pytest.raises(InvalidIdError):
        check_item_id(thing)  # type: ignore[arg-type]


@given(PATHS)
def test_every_path_has_an_id_that_passes_the_check(path: str) -> None:
    assert check_item_id(item_id(path)) == item_id(PurePosixPath(path))


@given(PATHS, PATHS)
def test_other_paths_have_other_ids(one: str, other: str) -> None:
    assert (item_id(one) == item_id(other)) == (PurePosixPath(one).as_posix() == PurePosixPath(other).as_posix())


@given(PATHS, st.integers(0, MAX_FRAMES - 1))
def test_the_id_of_a_frame_says_its_item_and_index(path: str, index: int) -> None:
    item = item_id(path)
    assert parse(str(FrameId(item, index))) == (item, index)
    assert parse(item) == (item, None)


def test_ids_stay_readable() -> None:
    assert item_id("anna/2024-05/clip 3.dcm").startswith("anna-2024-05-clip-3-")
    assert str(FrameId("clip", 12)) == "clip.f00012"


def test_frames_sort_by_item_and_index() -> None:
    frames = [FrameId("b", 0), FrameId("a", 10), FrameId("a", 9)]
    assert sorted(frames) == [FrameId("a", 9), FrameId("a", 10), FrameId("b", 0)]


@pytest.mark.parametrize("name", ["anna", "anna.b@hospital.example", "r2", "A_b-c"])
def test_names_of_people_are_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", " ", "anna b", "../anna", "anna/b", "a" * 65, "anna\n", ".anna", None, 5])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidIdError):
        check_name(name)
