"""`sonodistill evaluate` as it is typed."""

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sonodistill.errors import BundleConfigError, SonoDistillError
from sonodistill_training.evaluate_commands import app

sys.path.insert(0, str(Path(__file__).parent))
from folder_case import make_folder, rows_of, write_rows

RUNNER = CliRunner()


def invoke(*words):
    """The result of a command; an error that the command line would print is raised."""
    result = RUNNER.invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("frames") / "simulated", 40)


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, folder):
    """A folder of results of two random encoders, and what the command said."""
    out = tmp_path_factory.mktemp("results") / "out"
    result = invoke(
        *("run", "-e", "A:resnet10t", "-e", "B:test_resnet", "-d", f"simulated={folder}", "--out", out),
        *("--task", "classification", "--task", "segmentation", "-p", "knn", "-p", "linear"),
        *("--seeds", 2, "--epochs", 2, "--input-size", 64, "--batch-size", 8, "--device", "cpu"),
    )
    return out, result


def test_a_run_leaves_results_tables_and_a_report(evaluated):
    out, result = evaluated
    assert result.exit_code == 0
    assert "12 evaluations, 0 of them there already" in result.output
    assert len(list((out / "cells").iterdir())) == 12
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "test_resnet" not in page.split("<body>")[0]
    for name in (">A<", ">B<"):
        assert name in page


def test_tables_give_every_encoder_an_interval_and_compare_them(evaluated, tmp_path):
    out, _ = evaluated
    text = invoke("tables", out).output
    assert "Macro F1" in text
    assert "simulated segmentation" in text
    assert "Encoders against their baseline" in text
    for suffix in ("md", "csv", "html"):
        assert invoke("tables", out, "--to", tmp_path / f"tables.{suffix}").exit_code == 0
        assert (tmp_path / f"tables.{suffix}").stat().st_size > 500


def test_the_papers_tables_show_the_published_values_and_their_errata(evaluated):
    text = invoke("tables", evaluated[0], "--papers", "--table", "3").output
    for published in ("0.7872", "0.8790", "0.4790"):
        assert published in text
    assert "[^" in text


def test_a_table_that_no_paper_has_is_refused(evaluated):
    with pytest.raises(BundleConfigError, match="no table 9"):
        invoke("tables", evaluated[0], "--papers", "--table", "9")


def test_tables_of_another_kind_are_refused(evaluated, tmp_path):
    with pytest.raises(BundleConfigError, match="cannot be written as .docx"):
        invoke("tables", evaluated[0], "--to", tmp_path / "tables.docx")


def test_what_fails_is_listed_and_the_exit_code_says_so(tmp_path):
    folder = make_folder(tmp_path / "frames")
    rows = rows_of(folder)
    next(row for row in rows if row["split"] == "test")["label"] = "unheard of"
    write_rows(folder, rows)
    result = invoke(
        *("run", "-e", "A:resnet10t", "-d", f"simulated={folder}", "--out", tmp_path / "out", "--no-report"),
        *("--task", "classification", "-p", "knn", "--seeds", 1, "--input-size", 64, "--device", "cpu"),
    )
    assert result.exit_code == 2
    assert "1 evaluations failed" in result.output
    assert "unheard of" in result.output


def test_what_a_papers_table_lacks_is_said(folder, tmp_path):
    with pytest.raises(SonoDistillError):
        # Table 8 is about DDTI, which is not given: nothing is left to evaluate.
        invoke("run", "--papers", "8", "-e", "R18-Rand", "-d", f"simulated={folder}", "--out", tmp_path / "out")


def test_what_a_papers_table_needs_is_evaluated_and_stands_beside_the_published_value(folder, tmp_path):
    out = tmp_path / "out"
    result = invoke(
        *("run", "--papers", "7", "-e", "R18-Rand", "-d", f"ddti={folder}", "--out", out, "--no-report"),
        *("--seeds", 1, "--epochs", 1, "--input-size", 64, "--batch-size", 8, "--device", "cpu"),
    )
    assert result.exit_code == 0, result.output
    assert "not evaluated, because not given: the data sets busi" in result.output
    assert "ConvNeXt-Tiny-Rand" in result.output
    text = invoke("tables", out, "--papers", "--table", "7").output
    (row,) = [line for line in text.splitlines() if line.startswith("| R18-Rand") and "0.6936" in line]
    ours = float(row.split("|")[2].split()[0])
    assert 0 <= ours <= 1
    assert "epochs 1, not 50" in text


def test_the_rows_are_listed_with_licence_and_status():
    text = " ".join(invoke("encoders").output.split())
    for part in ("R50-ImageNet", "USFM", "DINOv3", "Apache-2.0"):
        assert part in text


def test_a_representation_analysis_writes_figure_and_numbers(folder, tmp_path):
    other = make_folder(tmp_path / "other", 24, 64)
    rows = [row | {"anatomy": "another organ", "dataset": "other"} for row in rows_of(other)]
    write_rows(other, rows)
    out = tmp_path / "out"
    result = invoke(
        *("representation", "-e", "A:resnet10t", "-d", f"simulated={folder}", "-d", f"other={other}", "--out", out),
        *("--limit", 24, "--input-size", 64, "--projection", "tsne", "--device", "cpu"),
    )
    assert result.exit_code == 0
    assert (out / "tsne.svg").is_file()
    assert "RankMe" in result.output
