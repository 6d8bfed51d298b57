"""`sonodistill datasets`: list, show, check."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry import data_sets
from sonodistill_training.datasets_commands import app


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def fass(folder):
    folder.image("IMAGES/P1_IMG1.png")
    folder.text("ARRAY_FORMAT/P1_IMG1.npy", "x")
    return folder


def test_list_names_every_data_set_with_its_licence():
    result = run("list", "--json")
    listed = {entry["key"]: entry for entry in json.loads(result.stdout)}
    assert listed.keys() == data_sets().keys()
    assert listed["hc18"]["licence"]["name"] == "CC BY 4.0"
    assert listed["stu_hospital"]["licence"]["commercial"] is None


def test_list_can_be_narrowed():
    assert {e["key"] for e in json.loads(run("list", "--evaluation", "--json").stdout)} == {"busi", "ddti"}
    fetal = json.loads(run("list", "--anatomy", "Fetal", "--json").stdout)
    assert {"hc18", "fass"} <= {e["key"] for e in fetal}
    assert all("fetal" in e["anatomy"] for e in fetal)
    assert "2 data sets" in run("list", "--evaluation").stdout


def test_show_tells_terms_access_and_known_errors():
    text = run("show", "stu-hospital").stdout
    assert "Table 1 of the paper calls it thyroid" in text
    assert "commercial use:  not stated" in text
    assert "https://github.com/xbhlk/STU-Hospital" in text
    assert json.loads(run("show", "busi", "--json").stdout)["published"]["items"] == 780


def test_show_of_an_unknown_key_is_a_named_error():
    assert isinstance(run("show", "hc19").exception, DatasetError)


def test_check_counts_against_what_is_published_and_exits_2(fass):
    fass.text("notes.odt", "x")
    result = run("check", "fass", fass.root)
    assert result.exit_code == 2
    assert "items: 1 of 1588 published" in result.stdout
    assert "notes.odt" in result.stdout
    assert result.stdout.endswith("incomplete\n")


def test_check_prints_json_for_programs(fass):
    result = run("check", "fass", fass.root.parent, "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 2
    assert (report["key"], report["ok"], report["found"]["items"]) == ("fass", False, 1)
    assert report["folder"] == str(fass.root)


def test_check_of_a_complete_folder_exits_0(shared):
    result = run("check", "ddti", shared / "data" / "raw" / "ddti")
    assert result.exit_code == 0
    assert result.stdout.endswith("complete\n")


def test_a_complete_miniature_exits_0(folder):
    folder.image("fetal/Aorta/1.png")
    assert run("check", "fetal_echo", folder.root).exit_code == 0


def test_the_help_loads_neither_the_registry_nor_rich():
    code = (
        "import sys, sonodistill_training.datasets_commands; "
        "print([m for m in ('numpy', 'rich.table', 'sonodistill_training.corpus.registry') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
