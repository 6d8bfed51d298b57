"""Keyed names: the same for the same key, unrelated for another, and never readable."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sonodistill.errors import SonoDistillError
from sonodistill_training.corpus.privacy import KEY_VARIABLE, KeyedNames, load_key

_text = st.text(max_size=30)


@given(st.lists(_text, min_size=1, max_size=4), st.lists(_text, min_size=1, max_size=4))
def test_two_names_are_equal_exactly_when_their_parts_are(one, other):
    names = KeyedNames(b"k" * 32)
    assert (names(*one) == names(*other)) == (one == other)


def test_another_key_gives_another_name():
    assert KeyedNames(b"a" * 32)("group", "7") != KeyedNames(b"b" * 32)("group", "7")


def test_a_file_name_that_is_no_utf8_has_a_name():
    assert len(KeyedNames(b"k" * 32)("source", "caf\udce9.png")) == 20


def test_the_key_is_made_once_and_only_its_owner_reads_it(tmp_path, monkeypatch):
    file = tmp_path / "config" / "corpus.key"
    monkeypatch.setenv(KEY_VARIABLE, str(file))
    first = load_key()
    assert len(first) == 32
    assert load_key() == first
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_two_keys_differ(tmp_path):
    assert load_key(tmp_path / "a") != load_key(tmp_path / "b")


def test_a_short_key_is_refused_by_name(tmp_path):
    (tmp_path / "short").write_bytes(b"hunter2")
    with pytest.raises(SonoDistillError, match="a key of 7 bytes"):
        load_key(tmp_path / "short")
