"""Provenance: the commit of the code, never anything private, and the licences of the frames, never invented."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from pydicom import examples

from sonodistill.weights import WeightsInfo
from sonodistill_training import provenance
from sonodistill_training.corpus import registry
from sonodistill_training.corpus.licences import restrictions
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, MANIFEST, table, write_table
from sonodistill_training.corpus.pack import build_pack
from sonodistill_training.corpus.shards import Corpus, ShardWriter
from sonodistill_training.provenance import code_version, licence_summary

NAMED = ("-c", "user.name=Jane Doe", "-c", "user.email=jane@example.org", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *NAMED, "-C", str(folder), *arguments], check=True, capture_output=True, text=True, env=environment
    )
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package in a repository with one commit."""
    package = tmp_path / "jane" / "package"
    package.mkdir(parents=True)
    (package / "code.py").write_text("a = 1\n")
    try:
        git(tmp_path, "init", "--quiet")
    except FileNotFoundError:
        pytest.skip("no git on this machine")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return package


def test_the_code_version_is_the_commit(checkout: Path) -> None:
    assert code_version(checkout) == git(checkout, "rev-parse", "HEAD")


def test_changed_code_is_dirty_and_new_files_are_not(checkout: Path) -> None:
    (checkout / "notes.txt").write_text("new")
    clean = code_version(checkout)
    (checkout / "code.py").write_text("a = 2\n")
    assert code_version(checkout) == f"{clean}-dirty" and re.fullmatch("[0-9a-f]{40}", clean)


def test_a_tag_does_not_show(checkout: Path) -> None:
    git(checkout, "tag", "-a", "jane/secret", "-m", "tagged")
    assert code_version(checkout) == git(checkout, "rev-parse", "HEAD")


def test_an_installed_copy_inside_another_repository_has_no_version(checkout: Path) -> None:
    installed = checkout / ".venv" / "site-packages" / "package"
    installed.mkdir(parents=True)
    (installed / "code.py").write_text("a = 1\n")
    assert code_version(installed) == ""


def test_variables_of_git_do_not_lead_to_another_repository(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = code_version(checkout)
    monkeypatch.setenv("GIT_DIR", str(checkout / "elsewhere"))
    assert code_version(checkout) == expected != ""


def test_without_a_repository_a_folder_or_git_there_is_no_version(
    checkout: Path, tmp_path_factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "code.py").write_text("a = 1\n")
    assert code_version(outside) == code_version(outside / "absent") == ""
    monkeypatch.setenv("PATH", str(outside))
    assert code_version(checkout) == ""


@pytest.mark.skipif(os.name == "nt", reason="the stand-in for a git that hangs is a shell script")
def test_a_git_that_hangs_is_given_up(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "git").write_text("#!/bin/sh\nexec /bin/sleep 600\n")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(provenance, "_SECONDS", 0.2)
    assert code_version(checkout) == ""


def corpus_of(folder: Path, *frames: tuple[str, str | None]) -> Corpus:
    """A corpus of a frame for each (data set, licence)."""
    rows = []
    with ShardWriter(folder / "shards" / "0.arrow") as shard:
        for dataset, licence in frames:
            row = shard.append(np.zeros((32, 40), np.uint8))
            rows.append(
                {"dataset": dataset, "licence": licence, "status": "kept", "shard": "shards/0.arrow", "row": row}
            )
    rows.append({"dataset": "busi", "licence": "CC BY 4.0", "status": "duplicate"})
    write_table(folder / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "ab" * 32, "short_side": "32"})
    return Corpus(folder)


def registered(name: str) -> str:
    """A data set of the registry under that licence."""
    return next(key for key, entry in registry.data_sets().items() if entry.licence.name == name)


def test_kept_frames_are_counted_by_licence_and_by_what_it_withholds(tmp_path: Path) -> None:
    open_, closed, both = "CC0 1.0 (data sets 1, 2), CC BY 4.0 (3, 4)", "CC BY-NC-ND 4.0", "CC BY-NC-SA 4.0"
    frames = [(registered(name), name) for name in (open_, closed, both, both, both)]
    summary = licence_summary(corpus_of(tmp_path, *frames))
    assert summary.frames == {both: 3, open_: 1, closed: 1}
    assert summary.restrictions == {"non-commercial": 4, "share alike": 3, "no derivatives": 1}


def test_a_part_of_a_corpus_is_counted_alone(tmp_path: Path) -> None:
    key = registered("CC BY-NC-ND 4.0")
    corpus_of(tmp_path, (key, "CC BY-NC-ND 4.0"), ("local", "unknown"))
    assert licence_summary(Corpus(tmp_path, dataset=key)).frames == {"CC BY-NC-ND 4.0": 1}


@pytest.mark.parametrize("licence", [None, "", "unknown"])
def test_a_data_set_that_nobody_registered_has_unknown_terms(tmp_path: Path, licence: str | None) -> None:
    summary = licence_summary(corpus_of(tmp_path, ("our clinic", licence)))
    assert (summary.frames, summary.restrictions) == ({"unknown": 1}, {"commercial use not stated": 1})


def test_a_licence_that_the_registry_no_longer_names_keeps_its_recorded_name(tmp_path: Path) -> None:
    key = registered("CC BY-NC-SA 4.0")
    summary = licence_summary(corpus_of(tmp_path, (key, "Clinic agreement of 2019")))
    assert summary.frames == {"Clinic agreement of 2019": 1}
    assert summary.restrictions == {"commercial use not stated": 1}


def test_a_pack_of_real_files_is_unknown(tmp_path: Path) -> None:
    corpus, _ = build_pack([examples.get_path("rgb_color")], tmp_path)
    summary = licence_summary(corpus)
    assert summary.frames == {"unknown": len(corpus)}


def test_every_licence_of_the_registry_is_open_or_says_what_it_withholds() -> None:
    silent = {entry.licence.name for entry in registry.data_sets().values() if not restrictions(entry.licence)}
    assert silent == {"CC BY 4.0", "CC0 1.0 (data sets 1, 2), CC BY 4.0 (3, 4)"}


def test_a_summary_goes_into_a_header(tmp_path: Path) -> None:
    summary = licence_summary(corpus_of(tmp_path, ("local", None)))
    info = WeightsInfo(
        "encoder",
        "resnet18",
        corpus_licences=summary.frames,
        corpus_restrictions=summary.restrictions,
        code_version=code_version(),
    )
    assert info.corpus_licences == {"unknown": 1}
    assert re.fullmatch(r"([0-9a-f]{40,64}(-dirty)?)?", info.code_version)
