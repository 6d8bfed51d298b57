"""Fixtures of the report: one store, one page."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sonodistill_training.evaluate.report.write import write_report
from sonodistill_training.evaluate.results import Store

sys.path.insert(0, str(Path(__file__).parent))
from report_case import DISTILLED, cell, frames, full_store, keep


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return full_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def written(store, tmp_path_factory) -> Path:
    """The folder of a report of everything but the papers' tables."""
    out = tmp_path_factory.mktemp("report")
    write_report(store, out, data={"busi": frames()}, papers=False)
    return out


@pytest.fixture(scope="module")
def html(written) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def classification_alone(tmp_path_factory) -> str:
    """The page of a single classifier, with the papers' tables."""
    small = Store(tmp_path_factory.mktemp("classifiers"))
    keep(small, cell(DISTILLED, "classification"))
    return write_report(small, small.folder).read_text(encoding="utf-8")
