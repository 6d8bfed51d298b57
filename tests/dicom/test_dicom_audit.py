"""The audit log: chained over processes and files, without patient data, and honest about what it cannot show."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sonodistill.dicom.errors import SpoolError
from sonodistill.dicom.service.audit import Audit, audit_key, verify

KEY = b"k" * 32
UID = "1.2.840.113619.2.55.3"


@pytest.fixture
def log(tmp_path: Path) -> Audit:
    return Audit(tmp_path / "audit.jsonl", KEY)


def fill(log: Audit, count: int = 5) -> None:
    for number in range(count):
        log.record("accepted", job=number, via="dimse", sop_uid=f"{UID}.{number}", study_uid=UID, peer="PACS@10.0.0.5")


def test_lines_say_who_sent_what_when_and_hide_uids_and_peers_behind_the_key(log):
    fill(log)
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["job"] for line in lines] == [0, 1, 2, 3, 4]
    assert all(line["time"].endswith("+00:00") and line["event"] == "accepted" for line in lines)
    assert UID not in log.path.read_text() and "PACS" not in log.path.read_text()
    assert lines[3]["sop"] == log.hidden(f"{UID}.3") != Audit(log.path, b"x" * 32).hidden(f"{UID}.3")
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_a_text_that_is_no_word_of_the_program_is_left_out(log):
    log.record("accepted", via='Müller^Hans"\n', destination="x" * 200, state="received")
    line = json.loads(log.path.read_text())
    assert line["state"] == "received" and "via" not in line and "destination" not in line


def test_a_whole_chain_holds(log):
    fill(log)
    verdict = verify(log.path)
    assert (verdict.lines, verdict.torn, verdict.complete, verdict.broken) == (5, 0, True, "")
    assert verdict.last == json.loads(log.path.read_text().splitlines()[-1])["hash"]


@pytest.mark.parametrize("line", range(5))
def test_a_changed_line_is_found(log, line):
    fill(log)
    lines = log.path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace(f'"job":{line}', '"job":7')
    log.path.write_text("".join(lines))
    fill(log, 1)
    assert verify(log.path).broken.startswith(f"audit.jsonl line {line + 1}:")


@pytest.mark.parametrize("change", ["removed", "repeated", "swapped", "inserted", "rehashed"])
def test_lines_that_do_not_follow_each_other_are_found(log, change, tmp_path):
    fill(log)
    lines = log.path.read_text().splitlines(keepends=True)
    if change == "removed":
        del lines[2]
    elif change == "repeated":
        lines.insert(2, lines[2])
    elif change == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    else:
        other = Audit(tmp_path / "other.jsonl", KEY)
        other.record("started")  # or it would be the same log, were it written in the same milliseconds
        fill(other)
        foreign = other.path.read_text().splitlines(keepends=True)
        lines[2 : 3 if change == "rehashed" else 2] = [foreign[2]]
    log.path.write_text("".join(lines))
    assert verify(log.path).broken


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 0.999), flip=st.integers(1, 255))
def test_any_changed_byte_is_found(log, at, flip):
    log.path.unlink(missing_ok=True)
    fill(log, 3)
    data = bytearray(log.path.read_bytes())
    data[int(at * len(data))] ^= flip
    log.path.write_bytes(bytes(data))
    fill(log, 1)
    assert verify(log.path).broken or verify(log.path).torn  # a last newline that is gone looks like a power cut


@pytest.mark.parametrize("rest", [1, 20, -2])
def test_a_line_torn_by_a_power_cut_is_noted_and_the_chain_goes_on(log, rest):
    fill(log, 2)
    whole = log.path.read_bytes()
    fill(log, 1)
    third = log.path.read_bytes()[len(whole) :]
    log.path.write_bytes(whole + third[:rest])
    assert (verify(log.path).broken, verify(log.path).torn) == ("", 1)
    lines = [line for line in fill_raw(log) if line.startswith(b"{") and line.endswith(b"}")]
    assert json.loads(lines[-2])["event"] == "torn" and json.loads(lines[-2])["bytes"] == len(third[:rest])
    assert (verify(log.path).broken, verify(log.path).torn) == ("", 1)


def fill_raw(log: Audit) -> list[bytes]:
    log.record("accepted", job=99)
    return log.path.read_bytes().splitlines()


def test_a_line_that_lacks_but_its_end_is_whole(log):
    fill(log, 2)
    log.path.write_bytes(log.path.read_bytes()[:-1])
    assert (verify(log.path).broken, verify(log.path).lines) == ("", 2)
    fill_raw(log)
    assert (verify(log.path).broken, verify(log.path).torn, verify(log.path).lines) == ("", 0, 3)


def test_the_note_does_not_excuse_another_change(log):
    fill(log, 2)
    log.path.write_bytes(log.path.read_bytes() + b'{"half')
    fill_raw(log)
    data = log.path.read_bytes()
    for changed in (data.replace(b'{"half', b'{"hal'), data.replace(b'{"half\n', b"")):
        log.path.write_bytes(changed)
        assert verify(log.path).broken


def test_the_chain_goes_on_over_files(tmp_path):
    log = Audit(tmp_path / "audit.jsonl", KEY, max_bytes=2000)
    for number in range(40):
        log.record("accepted", job=number, sop_uid=UID)
    old = sorted(tmp_path.glob("audit.jsonl.0*"))
    assert len(old) > 3 and all(path.stat().st_size < 2600 for path in old)
    verdict = verify(log.path)
    assert (verdict.lines, verdict.complete, verdict.broken) == (40, True, "")
    old[0].unlink()
    assert (verify(log.path).complete, verify(log.path).broken) == (False, "")
    old[2].unlink()
    assert "does not follow" in verify(log.path).broken


WRITER = """
import sys
from pathlib import Path
from sonodistill.dicom.service.audit import Audit, audit_key
log = Audit(Path(sys.argv[1]) / "audit.jsonl", audit_key(Path(sys.argv[1]) / "audit.key"), max_bytes=20_000)
print("ready", flush=True)
sys.stdin.readline()
for number in range(600):
    log.record("accepted", job=number, via=sys.argv[2])
"""


def test_processes_write_one_chain(tmp_path):
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    try:
        assert [child.stdout.readline() for child in children] == ["ready\n"] * 2
        for child in children:
            child.stdin.write("\n")
            child.stdin.flush()
        assert [child.wait(timeout=60) for child in children] == [0, 0]
    finally:
        for child in children:
            child.kill()
            child.communicate(timeout=10)
    verdict = verify(tmp_path / "audit.jsonl")
    assert (verdict.lines, verdict.broken) == (1200, "") and verdict.files > 1


def test_the_key_is_made_once_and_for_its_owner_alone(tmp_path):
    path = tmp_path / "audit.key"
    key = audit_key(path)
    assert len(key) == 32 and audit_key(path) == key and list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(SpoolError, match="others may read"):
        audit_key(path)
    path.chmod(0o600)
    path.write_bytes(b"short")
    with pytest.raises(SpoolError, match="5 bytes"):
        audit_key(path)


def test_no_log_is_named(tmp_path):
    with pytest.raises(SpoolError, match="no audit log"):
        verify(tmp_path / "audit.jsonl")
