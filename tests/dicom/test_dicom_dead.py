"""`dead` and `audit`: what did not work out is listed, tried again or removed, beside a service that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import save, ultrasound
from spool_case import settings
from typer.testing import CliRunner, Result

from sonodistill.dicom.errors import QueueError, SpoolError
from sonodistill.dicom.service.dead_commands import app, audit_app
from sonodistill.dicom.service.spool import Spool, open_spool


def run(*arguments: str, of=app, stdin: str | None = None) -> Result:
    return CliRunner().invoke(of, arguments, input=stdin)


@pytest.fixture
def spool(tmp_path: Path):
    """One job dead, one refused, one done whose delivery is dead."""
    opened = open_spool(settings(tmp_path), "config")
    for number in range(3):
        uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.4", "SOPInstanceUID": f"1.2.3.4.{number}"}
        with opened.incoming() as path:
            opened.accept(save(ultrasound(np.zeros((1, 8, 8), np.uint8), **uids), path), via="dimse", peer="PACS")
        opened.jobs.claim("w", 60.0)
    opened.jobs.fail(1, "w", "the decoder died", permanent=True)
    opened.jobs.refuse(2, "w", "no route covers it \x1b[31m")
    opened.jobs.finish(3, "w", [], ["pacs"])
    opened.jobs.claim_delivery("pacs", "s", 60.0)
    opened.jobs.fail_delivery(1, "s", "refused: 0xA900", permanent=True)
    opened.tidy()
    opened.acquire()  # a service that runs
    yield opened
    opened.close()


def folder(spool: Spool) -> str:
    return str(spool._folder)


def listed(spool: Spool) -> dict[str, str]:
    result = run("list", "--spool", folder(spool), "--json")
    assert result.exit_code == 0, result.output
    return {row["id"]: row["state"] for row in json.loads(result.output)}


def test_all_that_did_not_work_out_is_listed_with_its_reason(spool):
    assert listed(spool) == {"j1": "dead", "j2": "refused", "d1": "dead"}
    table = run("list", "--spool", folder(spool)).output
    assert all(text in table for text in ("j1", "the decoder died", "no route", "0xA900")) and "\x1b" not in table


def test_an_item_is_shown_with_its_file_and_deliveries(spool):
    shown = json.loads(run("show", "j1", "--spool", folder(spool)).output)
    assert shown["job"]["sop_uid"] == "1.2.3.4.0" and Path(shown["file"]).parent.parent.name == "quarantine"
    shown = json.loads(run("show", "d1", "--spool", folder(spool)).output)
    assert shown["job"]["id"] == 3 and [each["destination"] for each in shown["deliveries"]] == ["pacs"]


def test_what_is_retried_is_claimed_by_the_service_that_runs(spool):
    result = run("retry", "j1", "d1", "--spool", folder(spool))
    assert result.exit_code == 0 and "j1 will be tried again" in result.output
    assert listed(spool) == {"j2": "refused"}
    job = spool.jobs.claim("w", 60.0)
    assert (job.id, job.attempts) == (1, 1) and spool.source(job).parent.parent.name == "instances"
    assert spool.jobs.claim_delivery("pacs", "s", 60.0).id == 1


def test_what_is_purged_is_gone_with_its_file(spool):
    assert run("purge", "j1", "--spool", folder(spool), stdin="n\n").exit_code == 1
    assert "j1" in listed(spool)
    assert run("purge", "--all", "--spool", folder(spool), "--yes").exit_code == 0
    assert listed(spool) == {}
    files = [path for name in ("instances", "quarantine", "results") for path in (spool._folder / name).rglob("*.dcm")]
    assert files == []


def test_what_cannot_be_done_is_named_and_the_rest_is_done(spool):
    result = run("retry", "j1", "j3", "j99", "--spool", folder(spool))
    assert result.exit_code == 2
    assert "j3: job 3 is done" in result.output and "there is no job 99" in result.output
    assert listed(spool) == {"j2": "refused", "d1": "dead"}


@pytest.mark.parametrize("item", ["1", "x1", "j0", "j-1", "j1;", "j1 OR 1=1", "../j1", "j" + "9" * 30, "j\u0661"])
def test_ids_are_checked(spool, item):
    result = run("show", "--spool", folder(spool), "--", item)
    assert isinstance(result.exception, QueueError) and "is no id" in str(result.exception)


@pytest.mark.parametrize("arguments", [[], ["--all", "j1"]])
def test_it_has_to_be_said_which(spool, arguments):
    result = run("retry", *arguments, "--spool", folder(spool))
    assert isinstance(result.exception, QueueError) and "--all" in str(result.exception)


def test_a_folder_that_is_no_spool_stays_as_it_is(tmp_path):
    result = run("list", "--spool", str(tmp_path / "nothing"))
    assert isinstance(result.exception, SpoolError) and list(tmp_path.iterdir()) == []


def test_the_log_of_all_this_is_verified(spool):
    run("retry", "j1", "--spool", folder(spool))
    result = run("verify", "--spool", folder(spool), "--json", of=audit_app)
    verdict = json.loads(result.output)
    assert result.exit_code == 0 and verdict["lines"] == 4 and verdict["broken"] == ""
    log = spool._folder / "audit.jsonl"
    log.write_text(log.read_text().replace("retried", "removed"))
    result = run("verify", "--spool", folder(spool), of=audit_app)
    assert result.exit_code == 1 and "audit.jsonl line 4" in result.output


def test_the_commands_import_nothing_heavy():
    code = (
        "import sys, sonodistill.dicom.service.dead_commands\n"
        "assert not {'pydicom', 'numpy', 'sqlite3', 'rich.table', 'pynetdicom', 'highdicom'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
