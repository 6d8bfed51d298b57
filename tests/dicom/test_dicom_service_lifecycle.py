"""The whole service in other days of its life: TLS, a full disk, a destination that is gone, stopping, bad starts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import dcmtk
import pydicom
import pytest
from abuse_case import TOKEN, Account, by_dimse, by_folder, by_stow, processes, request, wait_until
from certificates import Authority, Pair
from findings_case import public_file
from orthanc import free_ports
from service_case import Running, bright_model, configuration, service
from typer.testing import CliRunner

from sonodistill.dicom.errors import SpoolError
from sonodistill.dicom.service.audit import verify
from sonodistill.dicom.service.beat import signs
from sonodistill.dicom.service.dead_commands import app as dead_app
from sonodistill.dicom.service.roles import EXIT_UNUSABLE
from sonodistill.dicom.service.run import serve

STILL = public_file("color-pl.dcm")
CINE = public_file("examples_ybr_color.dcm")
WATCH = '[[watch]]\nfolder = "in"\nquiet_seconds = 0.1\npoll_seconds = 0.1\n'


def to_folder(name: str) -> str:
    return f'[[destination]]\nname = "{name}"\nkind = "folder"\nfolder = "{name}"\n'


def command(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    line = [sys.executable, "-m", "sonodistill", "dicom", *words]
    return subprocess.run(line, capture_output=True, text=True, timeout=60, env=environment)


def dead(running: Running) -> list[dict]:
    done = CliRunner().invoke(dead_app, ["list", "--json", "--spool", str(running.spool)])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def instances(folder: Path, count: int) -> list[Path]:
    """One cine, under new identifiers each time."""
    ds, files = pydicom.dcmread(CINE), []
    for number in range(count):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        ds.save_as(folder / f"clip{number}.dcm")
        files.append(folder / f"clip{number}.dcm")
    return files


def test_a_destination_that_is_gone_holds_up_no_other_and_gets_what_is_dead_when_that_is_asked_for(tmp_path):
    for name in ("in", "up"):
        (tmp_path / name).mkdir()
    (http,) = free_ports(1)
    stow = f'[[destination]]\nname = "pacs"\nkind = "stow"\nurl = "http://127.0.0.1:{http}/dicom-web"\n'
    path = configuration(tmp_path, WATCH + to_folder("up") + to_folder("gone") + stow)
    path.write_text(path.read_text().replace("max_attempts = 6", "max_attempts = 6, delivery_attempts = 3"))
    with service(path) as running:
        shutil.copy(STILL, tmp_path / "in")
        running.wait(lambda: len(list((tmp_path / "up").glob("*.dcm"))) == 2)
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1, "d-dead": 2})
        listed = {row["where"]: row for row in dead(running)}
        assert set(listed) == {"gone", "pacs"} and all(row["attempts"] == 3 for row in listed.values())
        assert "cannot be written" in listed["gone"]["reason"]
        shown = command("dead", "show", listed["gone"]["id"], "--spool", str(running.spool))
        assert json.loads(shown.stdout)["deliveries"][0]["destination"] == "gone"
        assert len(running.files("results")) == 2, "results stay for who comes later"
        (tmp_path / "gone").mkdir()
        assert command("dead", "retry", listed["gone"]["id"], "--spool", str(running.spool)).returncode == 0
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 2, "d-dead": 1})
        sent = {name: sorted(each.name for each in (tmp_path / name).iterdir()) for name in ("up", "gone")}
        assert sent["up"] == sent["gone"]
        for result in (running.spool / "results").rglob("seg.dcm"):
            result.write_bytes(result.read_bytes()[:-1] + b"!")
        assert command("dead", "retry", "--all", "--spool", str(running.spool)).returncode == 0
        running.wait(lambda: [row["attempts"] for row in dead(running)] == [1], 20)
        assert "not what was written" in dead(running)[0]["reason"], "what is refused for good is not tried again"
        purged = command("dead", "purge", listed["pacs"]["id"], "--yes", "--spool", str(running.spool))
        assert purged.returncode == 0 and not dead(running)
        running.wait(lambda: not running.files("results"))
    assert verify(running.spool / "audit.jsonl").broken == ""


def storescu(port: int, pair: Pair | None, authority: Path, file: Path) -> bool:
    """Whether DCMTK could send a file."""
    tls = [] if pair is None else ["+tls", str(pair.key), str(pair.certificate), "+cf", str(authority)]
    line = [dcmtk.program("storescu"), *tls, "-aet", "TESTER", "-aec", "SONODISTILL", "-to", "10", "-ta", "10"]
    done = subprocess.run([*line, "127.0.0.1", str(port), str(file)], capture_output=True, timeout=60)
    sys.stderr.write(done.stderr.decode(errors="replace"))
    return done.returncode == 0


def test_with_tls_it_takes_from_dcmtk_with_a_certificate_of_the_authority_and_from_nobody_else(tmp_path):
    ours, rogue = Authority(tmp_path, "ours"), Authority(tmp_path, "rogue")
    server, client, stranger = ours.issue("server"), ours.issue("client"), rogue.issue("stranger")
    (port,) = free_ports(1)
    (tmp_path / "out").mkdir()
    tls = f'tls = {{certificate = "{server.certificate}", key = "{server.key}", authority = "{ours.certificate}"}}'
    text = f'scp = {{allow = ["TESTER"], port = {port}, {tls}}}\n' + to_folder("out")
    with service(configuration(tmp_path, text)) as running:
        file = public_file("OBXXXX1A.dcm")
        assert not storescu(port, stranger, ours.certificate, file)
        assert not storescu(port, None, ours.certificate, file)
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert not running.counts()
        assert storescu(port, client, ours.certificate, file)
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1})
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 2
    assert Account.of(running.spool).arrived == {"accepted": 1}


def test_without_room_every_way_in_says_so_and_what_was_not_taken_is_taken_later(tmp_path):
    dimse, http = free_ports(2)
    (tmp_path / "token").write_text(TOKEN)
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    text = (
        f'scp = {{allow = ["TESTER"], port = {dimse}}}\n'
        f'http = {{port = {http}, token_file = "token", stow = true}}\n' + WATCH + to_folder("out")
    )
    path = configuration(tmp_path, text)
    enough = path.read_text()
    path.write_text(enough.replace("reserve_gb = 0.0", "reserve_gb = 1e6"))
    with service(path) as running:
        assert by_dimse(dimse, [STILL]) == [0xA700]
        assert by_stow(http, [STILL])[0] == 507
        shutil.copy(STILL, tmp_path / "in")
        status, answer = request(http, "/health/ready")
        checks = json.loads(answer)["checks"]
        assert status == 503 and not checks.pop("disk") and all(checks.values())
        assert request(http, "/health/live", token="")[0] == 200
        assert not running.counts() and not list((running.spool / "incoming").iterdir())
        assert running.stop() == 0
    path.write_text(enough)
    with service(path) as running:
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1})
        assert request(http, "/health/ready")[0] == 200


def test_stopped_by_sigterm_it_finishes_what_is_in_hand_and_does_the_rest_when_it_starts_again(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    path = configuration(tmp_path, WATCH + to_folder("out"))
    with service(path) as running:
        with pytest.raises(SpoolError, match="another service uses this spool"):
            serve(path, stop=threading.Event())
        by_folder(tmp_path / "in", instances(tmp_path, 8))
        running.wait(lambda: running.counts().get("done", 0) >= 2)
        assert running.stop() == 0
        counts = running.counts()
        assert counts.get("running", 0) == counts.get("d-running", 0) == 0
        assert 2 <= counts["done"] < 8, "it does not work off the queue before it ends"
        unfinished = [each for each in Account.of(running.spool).jobs if each not in ("done", "received")]
        assert not unfinished and not list(signs(running.spool))
    with service(path) as again:
        again.wait(lambda: again.counts() == {"done": 8, "d-done": 8})
    attempts = {again.jobs().job(number).attempts for number in range(1, 9)}
    assert attempts == {1}, "no attempt was cut off"
    assert len(list((tmp_path / "out").glob("*.dcm"))) == 16
    assert not again.files("instances")


@pytest.mark.slow
def test_a_role_that_is_killed_is_started_again_and_one_that_stops_is_reported_by_health(tmp_path):
    (tmp_path / "token").write_text(TOKEN)
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    (http,) = free_ports(1)
    text = f'http = {{port = {http}, token_file = "token"}}\n' + WATCH + to_folder("out")
    with service(configuration(tmp_path, text)) as running:
        pids = {role: pid for pid, role in processes(running.process.pid).items()}
        os.kill(pids["compute"], signal.SIGKILL)
        wait_until(lambda: {role: pid for pid, role in processes(running.process.pid).items()}.get("compute"))
        shutil.copy(STILL, tmp_path / "in")
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1})
        os.kill(pids["gather"], signal.SIGSTOP)
        try:
            wait_until(lambda: request(http, "/health/ready")[0] == 503, 40)
            assert json.loads(request(http, "/health/ready")[1])["checks"]["gather"] is False
        finally:
            os.kill(pids["gather"], signal.SIGCONT)
        wait_until(lambda: request(http, "/health/ready")[0] == 200)


@pytest.mark.parametrize("fault", ["setting", "bad model"])
def test_a_configuration_that_cannot_work_ends_it_with_the_reason(tmp_path, fault):
    (tmp_path / "in").mkdir()
    path = configuration(tmp_path, WATCH + to_folder("out"))
    text = path.read_text()
    if fault == "setting":
        text, reason = text.replace("quiet_seconds", "quiet_second"), "watch[0].quiet_second: there is no such"
    else:
        (tmp_path / "bad.onnx").write_bytes(b"no model at all")
        text, reason = text.replace("model.onnx", "bad.onnx"), "bad.onnx"
    path.write_text(text)
    done = command("serve", "--config", str(path))
    assert done.returncode in (2, EXIT_UNUSABLE), done.stderr
    assert reason in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.slow
def test_a_new_configuration_computes_again_what_the_old_one_did(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    path = configuration(tmp_path, WATCH + to_folder("out"))
    shutil.copy(STILL, tmp_path / "in")
    with service(path) as running:
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1})
    bright_model(tmp_path / "model.onnx", ("bright", "brighter"))
    with service(path) as running:
        running.wait(lambda: running.counts() == {"done": 2, "d-done": 2})
    made = [pydicom.dcmread(each) for each in (tmp_path / "out").iterdir()]
    assert sorted(len(each.SegmentSequence) for each in made if each.Modality == "SEG") == [1, 2]
