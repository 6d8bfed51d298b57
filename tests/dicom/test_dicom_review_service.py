"""What a hospital's engineer and an attacker would try on the service: none of it loses, leaks or stops anything."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from abuse_case import processes
from pydicom import dcmread, examples
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from service_case import bright_model, configuration, service

from sonodistill.dicom.config import read_settings
from sonodistill.dicom.errors import ServiceConfigError, SpoolError, reason_of
from sonodistill.dicom.multipart import media_type
from sonodistill.dicom.service import compute, deliver
from sonodistill.dicom.service.beat import Beat
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.records import Result, State
from sonodistill.dicom.service.roles import EXIT_UNUSABLE
from sonodistill.dicom.service.run import check
from sonodistill.dicom.service.spool import Spool, open_spool
from sonodistill.dicom.service.watch import Watcher
from sonodistill.dicom.settings import DestinationSettings, Service, Settings, Watch
from sonodistill.dicom.source import read_source
from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill.files import atomic_path, sha256

CINE = Path(examples.get_path("ybr_color"))
STILL = Path(examples.get_path("rgb_color"))
SECRET = "Geheim^Vorname"
FOLDERS = (
    '[[watch]]\nfolder = "in"\nquiet_seconds = 0.2\n[[destination]]\nname = "out"\nkind = "folder"\nfolder = "out"'
)


@pytest.fixture
def settings(tmp_path) -> Settings:
    (tmp_path / "out").mkdir()
    return Settings(
        route=(),
        service=Service(spool=tmp_path / "spool", reserve_gb=0, max_used_percent=100, retry_seconds=0.05),
        destination=(DestinationSettings("out", "folder", folder=tmp_path / "out"),),
    )


def take(spool: Spool, file: Path = STILL) -> int:
    with spool.incoming() as path:
        shutil.copyfile(file, path)
        return spool.accept(path, via="watch", peer="in").job


def done(spool: Spool, *destinations: str) -> int:
    """A job that is done, with one result on its way."""
    take(spool)
    job = spool.jobs.claim("w", 60)
    assert job is not None
    made = spool.results_folder(job) / "seg.dcm"
    shutil.copyfile(STILL, made)
    result = Result("seg", "1.2", str(made.relative_to(spool.results)), sha256(made))
    spool.jobs.finish(job.id, "w", [result], destinations)
    return job.id


def delivering(settings: Settings, spool: Spool, condition) -> None:
    """Run the process that sends, in a thread, until the condition holds."""
    stop = threading.Event()
    with Beat(settings.service.spool, "deliver") as beat:
        thread = threading.Thread(target=deliver.deliver, args=(settings, spool, beat, stop))
        thread.start()
        until = time.monotonic() + 20
        while not condition() and time.monotonic() < until:
            time.sleep(0.02)
        stop.set()
        thread.join(20)
    assert condition() and not thread.is_alive()


def with_value(source: Path, target: Path, tag: int, vr: str, value: bytes) -> Path:
    """A copy with bytes that no sound writer would write."""
    ds = dcmread(source)
    ds._dict[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds.save_as(target)
    return target


def test_a_spool_that_was_moved_delivers_what_was_on_its_way(settings, tmp_path):
    elsewhere = tmp_path / "before"
    spool = open_spool(Service(spool=elsewhere))
    job = done(spool, "out")
    spool.close()
    elsewhere.rename(settings.service.spool)
    spool = open_spool(settings.service)
    spool.recover()
    delivering(settings, spool, lambda: spool.jobs.deliveries(job)[0].state is State.DONE)
    assert len(list((tmp_path / "out").iterdir())) == 1
    spool.close()


def test_what_waits_for_a_destination_that_is_gone_is_a_dead_letter_and_can_be_purged(settings):
    spool = open_spool(settings.service)
    job = done(spool, "gone", "out")
    assert spool.end_strays(["out"]) == 1 and spool.end_strays(["out"]) == 0
    gone, out = spool.jobs.deliveries(job)
    assert (gone.state, out.state) == (State.DEAD, State.QUEUED) and "no destination" in gone.reason
    assert '"dead"' in spool.audit.path.read_text()
    delivering(settings, spool, lambda: spool.jobs.deliveries(job)[-1].state is State.DONE)
    assert (spool.results / str(job)).exists(), "the dead letter still needs them"
    spool.purge_delivery(gone.id)
    assert not (spool.results / str(job)).exists()
    spool.close()


def test_sending_goes_on_while_the_spool_cannot_be_tidied(settings, monkeypatch):
    spool = open_spool(settings.service)

    def full() -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool, "tidy", full)
    monkeypatch.setattr(deliver, "TIDY_SECONDS", 0.05)
    job = done(spool, "out")
    delivering(settings, spool, lambda: spool.jobs.deliveries(job)[0].state is State.DONE)
    spool.close()


@pytest.mark.parametrize("restarted", [True, False])
def test_what_arrived_while_the_clock_was_ahead_does_not_wait_for_it(tmp_path, restarted):
    now = [2.0e9]
    jobs = Jobs(tmp_path / "jobs.sqlite", clock=lambda: now[0])
    jobs.add(sop_uid="1.2", study_uid="1.3", file_sha256="a", config_sha256="c", via="x", peer="", size=1)
    now[0] = 1.8e9
    assert jobs.claim("w", 60) is None
    jobs.restart("c") if restarted else jobs.prune(30)
    assert jobs.claim("w", 60) is not None
    jobs.close()


def test_a_damaged_queue_is_named_and_without_it_what_waits_is_taken_up_anew(settings):
    spool = open_spool(settings.service)
    take(spool)
    spool.close()
    for path in settings.service.spool.glob("jobs.sqlite*"):
        path.unlink()
    (settings.service.spool / "jobs.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(SpoolError, match="damaged") as error:
        (spool := open_spool(settings.service)).recover()
    spool.close()
    assert error.value.remedy and "taken up anew" in error.value.remedy
    for path in settings.service.spool.glob("jobs.sqlite*"):
        path.unlink()
    spool = open_spool(settings.service)
    assert spool.recover()["recovered"] == 1
    spool.close()


def test_a_folder_of_others_does_not_become_a_spool(tmp_path):
    folder = tmp_path / "etc"
    (folder / "passwd.d").mkdir(parents=True)
    folder.chmod(0o755)
    with pytest.raises(SpoolError, match="other files"):
        open_spool(Service(spool=folder))
    assert folder.stat().st_mode & 0o777 == 0o755 and [each.name for each in folder.iterdir()] == ["passwd.d"]
    (empty := tmp_path / "disk" / "lost+found").mkdir(parents=True)
    open_spool(Service(spool=empty.parent)).close()


def test_a_watched_file_that_is_replaced_while_it_is_taken_is_not_removed(settings, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copyfile(STILL, folder / "a.dcm")
    spool = open_spool(settings.service)

    class Replacing:
        has_room, incoming = spool.has_room, spool.incoming

        def accept(self, path, **options):
            receipt = spool.accept(path, **options)
            shutil.copyfile(CINE, folder / ".new")
            (folder / ".new").replace(folder / "a.dcm")
            return receipt

    watcher = Watcher(Watch(folder, quiet_seconds=0, remove=True), Replacing())
    assert watcher.look(now=1) == 1
    assert sha256(folder / "a.dcm") == sha256(CINE)
    assert Watcher(Watch(folder, quiet_seconds=0, remove=True), spool).look(now=2) == 1
    assert list(folder.iterdir()) == [] and spool.jobs.counts().jobs == {"received": 2}
    spool.close()


def test_a_long_private_value_is_not_held_in_memory(tmp_path):
    ds = dcmread(STILL)
    ds.private_block(0x200D, "RAW DATA", create=True).add_new(1, "OB", bytes(100 << 20))
    ds.save_as(tmp_path / "a.dcm")
    code = (
        "import resource, sys; from sonodistill.dicom.source import read_source; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; read_source(sys.argv[1]); "
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)"
    )
    found = subprocess.run([sys.executable, "-c", code, tmp_path / "a.dcm"], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 50
    assert len(read_source(tmp_path / "a.dcm").ds[0x200D, 0x1001].value) == 100 << 20


def test_reasons_quote_no_message_of_others():
    try:
        float(SECRET)
    except ValueError as error:
        assert reason_of(error).startswith("ValueError") and SECRET not in reason_of(error)
    assert reason_of(OSError(28, "No space left on device", f"/{SECRET}")) == "OSError: No space left on device"
    assert reason_of(SonoDistillError("said plainly", path="/a", remedy="do it")) == "said plainly"


def test_a_job_whose_error_quotes_the_patient_says_so_nowhere(settings, tmp_path, monkeypatch, caplog):
    spool = open_spool(settings.service)
    job = take(spool)

    class Analyst:
        def analyse(self, path, folder):
            raise ValueError(f"could not convert string to float: {SECRET!r}")

    with Beat(settings.service.spool, "compute") as beat:
        worker = compute._Worker(settings, spool, beat, Analyst())
        assert worker.work()
    assert spool.jobs.job(job).reason.startswith("ValueError")
    assert SECRET not in caplog.text + spool.jobs.job(job).reason + spool.audit.path.read_text()
    spool.close()


def test_a_killed_decoder_is_an_attempt_and_no_refusal(settings, tmp_path):
    from sonodistill.dicom.predict import Analyst
    from sonodistill.dicom.settings import RouteSettings

    rule = RouteSettings("x", bright_model(tmp_path / "m.onnx"), everything=True, runtime="onnxruntime")
    spool = open_spool(settings.service)
    job = take(spool, CINE)
    with Analyst((rule,)) as analyst, Beat(settings.service.spool, "compute") as beat:
        analyst.load()
        frames = analyst.frames

        def killed(source):
            found = frames(source)
            yield next(found)
            os.kill(analyst._reader.pid, signal.SIGKILL)
            yield from found

        analyst.frames = killed
        worker = compute._Worker(settings, spool, beat, analyst)
        assert worker.work()
        assert spool.jobs.job(job).state is State.RECEIVED and "SIGKILL" in spool.jobs.job(job).reason
        analyst.frames = frames
        time.sleep(0.1)
        assert worker.work()
        assert spool.jobs.job(job).state is State.DONE
    spool.close()


def test_a_batch_goes_on_after_whatever_a_file_provokes_and_prints_no_value(tmp_path, monkeypatch):
    from sonodistill.dicom import batch
    from sonodistill.dicom.predict import Analyst

    (tmp_path / "in").mkdir()
    with_value(STILL, tmp_path / "in" / "a.dcm", 0x00080005, "CS", SECRET.encode())
    for name in ("b", "c", "d"):
        shutil.copyfile(STILL, tmp_path / "in" / f"{name}.dcm")
    analyse = Analyst.analyse

    def faulty(self, path, out, *, prefix=""):
        if Path(path).name == "b.dcm":
            raise ValueError(SECRET)
        if Path(path).name == "c.dcm":
            raise PermissionError(13, "Permission denied", str(path))
        return analyse(self, path, out, prefix=prefix)

    monkeypatch.setattr(Analyst, "analyse", faulty)
    from sonodistill.dicom.settings import RouteSettings

    rule = RouteSettings("x", bright_model(tmp_path / "m.onnx"), everything=True, runtime="onnxruntime")
    assert batch.predict_folder([rule], [tmp_path / "in"], tmp_path / "out") == 2
    rows = [line.split(",") for line in (tmp_path / "out" / "results.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["done", "failed", "failed", "done"]
    assert SECRET not in (tmp_path / "out" / "results.csv").read_text()


def test_the_command_line_prints_no_value_of_a_file(tmp_path):
    with_value(STILL, tmp_path / "a.dcm", 0x00080005, "CS", SECRET.encode())
    model = bright_model(tmp_path / "m.onnx")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "sonodistill", "dicom", "predict", tmp_path / "a.dcm"),
            *("--model", model, "--out", tmp_path / "out", "--runtime", "onnxruntime"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "error", "said"),
    [
        ("", None, ""),
        ('http = {token_file = "gone"}', ServiceConfigError, "token cannot be read"),
        ('scp = {allow = ["A"], tls = {certificate = "gone.pem", key = "k"}}', ServiceConfigError, "cannot be read"),
        (
            '[[pull]]\nurl = "https://pacs.example"\ntls = {authority = "gone.pem"}',
            ServiceConfigError,
            "cannot be read",
        ),
    ],
)
def test_check_reads_all_that_the_configuration_names(tmp_path, line, error, said):
    path = configuration(tmp_path, f"{line}\n{FOLDERS}")
    if error is None:
        return check(path)
    with pytest.raises(error, match=said):
        check(path)


def test_check_loads_the_models(tmp_path):
    path = configuration(tmp_path, FOLDERS, route='everything = true\nsha256 = "00"')
    with pytest.raises(WeightsError, match="SHA-256"):
        check(path)


def test_a_service_whose_results_would_go_nowhere_does_not_start(tmp_path):
    path = configuration(tmp_path, '[[watch]]\nfolder = "in"')
    done = subprocess.run(
        [sys.executable, "-m", "sonodistill", "dicom", "serve", "--config", path],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "there is no destination" in done.stderr and "Traceback" not in done.stderr
    assert not read_settings(path).service.spool.exists()


def test_a_configuration_that_is_changed_while_the_service_runs_waits_for_its_next_start(tmp_path):
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    path = configuration(tmp_path, FOLDERS)
    with service(path) as running:
        path.write_text(path.read_text().replace('spool = "spool"', 'spool = "elsewhere"'))
        gather = next(pid for pid, role in processes(running.process.pid).items() if role == "gather")
        os.kill(gather, signal.SIGKILL)
        running.wait(lambda: gather not in (now := processes(running.process.pid)) and "gather" in now.values())
        shutil.copyfile(STILL, tmp_path / "in" / "a.dcm")
        running.wait(lambda: running.counts() == {"done": 1, "d-done": 1})
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("way", ["scp", "http"])
def test_a_port_that_is_taken_at_the_start_ends_it_with_the_reason(tmp_path, way):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = f'scp = {{allow = ["A"], port = {port}}}' if way == "scp" else f"http = {{port = {port}}}"
        path = configuration(tmp_path, f"{line}\n{FOLDERS}")
        done = subprocess.run(
            [sys.executable, "-m", "sonodistill", "dicom", "serve", "--config", path],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == EXIT_UNUSABLE and f"cannot listen at 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


def test_results_are_readable_by_whom_the_umask_lets(tmp_path):
    before = os.umask(0o077)
    try:
        with atomic_path(tmp_path / "a.dcm") as path:
            path.write_bytes(b"the patient's")
            assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert (tmp_path / "a.dcm").stat().st_mode & 0o777 == 0o600


def test_a_parameter_with_a_character_set_is_passed_over():
    assert media_type("multipart/related; boundary*=utf-8''abc; type=x") == ("multipart/related", {"type": "x"})


def test_a_destination_folder_is_flushed_before_a_result_is_confirmed(settings, tmp_path, monkeypatch):
    flushed = []
    fsync = os.fsync

    def noted(handle):
        flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", noted)
    deliver.open_destination(settings.destination[0]).send([STILL])
    assert flushed[-1] == str(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0 or not shutil.which("mount"), reason="needs root")
def test_with_a_full_disk_nothing_is_lost_and_nothing_is_doubled(tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(spool)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs here")
    try:
        for name in ("in", "out"):
            (tmp_path / name).mkdir()
        path = configuration(tmp_path, FOLDERS)
        path.write_text(path.read_text().replace("reserve_gb = 0.0", "reserve_gb = 0.0, max_used_percent = 100.0"))
        with service(path) as running:
            with (spool / "run" / "filler").open("wb") as filler:
                filler.write(bytes(shutil.disk_usage(spool).free - (1 << 20)))
            for number in range(6):
                ds = dcmread(STILL)
                ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = f"1.2.826.0.1.{number}"
                ds.save_as(tmp_path / "in" / f".{number}.tmp")
                (tmp_path / "in" / f".{number}.tmp").rename(tmp_path / "in" / f"{number}.dcm")
            running.wait(lambda: "ended with code" in (log := running.log.read_text()) or "not be taken yet" in log)
            (spool / "run" / "filler").unlink()
            running.wait(lambda: running.counts() == {"done": 6, "d-done": 6}, 120)
            assert "Traceback" not in running.log.read_text()
            assert len(list((tmp_path / "out").iterdir())) == 12
    finally:
        subprocess.run(["umount", "-l", str(spool)], check=True)
