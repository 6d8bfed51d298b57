"""A build whose processes are killed ends, or goes on later, as if nothing had happened; one bad file costs itself."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from sonodistill.errors import SonoDistillError
from sonodistill_training.bench.cine import encoded_loop, write_cine
from sonodistill_training.corpus import cluster
from sonodistill_training.corpus.simulator import simulate_cine

SETS = "abc"


def until(condition, seconds=180.0):
    """Wait for a condition and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)
    return found


def decoders(of=None):
    """The decoding processes under a process (this one by default)."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(of).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                if "sonodistill_training.corpus.child" in " ".join(process.cmdline()):
                    found.append(process)
    return found


def reading(out):
    """Whether a batch is being read now."""
    return list((out / "shards").glob(".*.tmp"))


def gone(processes):
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


@pytest.fixture(scope="module")
def cines(tmp_path_factory):
    """Three data sets, each with a cine that takes a while to read."""
    folder = tmp_path_factory.mktemp("cines")
    for number, name in enumerate(SETS):
        write_cine(folder / name / "cine.dcm", encoded_loop(number, distinct=6), 90)
    return [f"{name}={folder / name}" for name in SETS]


@pytest.fixture(scope="module")
def undisturbed(cines, corpus_of, tmp_path_factory):
    """The bytes of the manifest when nothing happens."""
    return (corpus_of(tmp_path_factory.mktemp("undisturbed"), *cines).folder / "manifest.parquet").read_bytes()


def build_and_kill(corpus_of, out, cines, victim):
    """Build on the shared workers and kill a process when it is reading; (the corpus, what was killed)."""
    with ThreadPoolExecutor(1) as pool:
        building = pool.submit(corpus_of, out, *cines)
        until(lambda: reading(out) or building.done())
        time.sleep(0.1)
        killed = victim(until(decoders)[0])
        assert not building.done()
        os.kill(killed.pid, signal.SIGKILL)
        return building.result(timeout=120), killed


def test_a_killed_decoder_costs_nothing(cines, undisturbed, corpus_of, tmp_path):
    found, killed = build_and_kill(corpus_of, tmp_path / "corpus", cines, lambda decoder: decoder)
    assert gone([killed])
    assert (found.folder / "manifest.parquet").read_bytes() == undisturbed


def test_a_killed_worker_costs_nothing_and_leaves_no_decoder(cines, undisturbed, corpus_of, tmp_path):
    before = decoders()
    found, killed = build_and_kill(corpus_of, tmp_path / "corpus", cines, lambda decoder: decoder.parent())
    assert killed.pid != os.getpid()
    assert (found.folder / "manifest.parquet").read_bytes() == undisturbed
    until(lambda: sum(not gone([process]) for process in before) < len(before), 20)
    assert not list(found.folder.rglob("*.tmp")), "what the dead worker was writing is removed"


@pytest.mark.parametrize("whom", ["group", pytest.param("client", marks=pytest.mark.slow)])
def test_a_killed_build_goes_on_where_it_was(cines, undisturbed, corpus_of, key_file, tmp_path, whom):
    out = tmp_path / "corpus"
    command = [
        sys.executable,
        "-m",
        "sonodistill",
        "corpus",
        "build",
        *cines,
        "--out",
        str(out),
        "--key",
        str(key_file),
    ]
    running = subprocess.Popen([*command, "--workers", "1"], start_new_session=True, stdout=subprocess.DEVNULL)
    until(lambda: list(out.glob("parts/*.files.parquet")) or running.poll() is not None, 120)
    family = psutil.Process(running.pid).children(recursive=True)
    assert len(family) >= 2, "a worker and its decoder"
    (os.killpg if whom == "group" else os.kill)(running.pid, signal.SIGKILL)
    running.wait()
    until(lambda: gone(family), 30)
    assert not (out / "manifest.parquet").exists()
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet") if ".files" not in path.name}
    assert len(done) < len(SETS)
    found = corpus_of(out, *cines)
    assert (found.folder / "manifest.parquet").read_bytes() == undisturbed
    assert done.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("parts/*.parquet")}.items()
    assert not list(out.rglob("*.tmp")), "what the dead build was writing is removed"


def _write_video(path: Path) -> None:
    """MPEG-4, which the decoder has open from its first to its last frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cine = [frame.image for frame in simulate_cine(9, frames=6, size=(480, 640))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuv420p"
        for number in range(150):
            image = np.repeat(cine[number % len(cine)][..., None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


def test_a_file_that_kills_its_decoder_is_refused_and_the_rest_is_kept(corpus_of, stills, tmp_path):
    """Whatever opens the video is killed: what a decoder does on a file that makes it crash."""
    folder = stills(tmp_path / "scans", range(6))
    alone = {row["pixels_sha256"] for row in corpus_of(tmp_path / "without", folder).frames}
    video = folder / "John_Doe_19700101.mp4"
    _write_video(video)
    stop, deaths = threading.Event(), []

    def kill():
        while not stop.is_set():
            for process in decoders():
                with contextlib.suppress(psutil.Error):
                    if any(opened.path == str(video) for opened in process.open_files()):
                        process.kill()
                        deaths.append(process.pid)
                        process.wait(10)
            time.sleep(0.002)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        found = corpus_of(tmp_path / "corpus", folder)
    finally:
        stop.set()
        killer.join()
    assert len(set(deaths)) == 2, "a fresh child had a second try"
    [bad] = [row for row in found.frames if row["status"] != "kept"]
    assert (bad["status"], bad["frame"]) == ("corrupt", None)
    assert bad["reason"] == "its decoder crashed (signal 9)"
    assert {row["pixels_sha256"] for row in found.frames if row["status"] == "kept"} == alone
    [file] = [file for file in found.files if file["status"] == "corrupt"]
    assert file["source"] == bad["source"]


def test_a_scheduler_that_is_not_there_is_named_soon(corpus_of, stills, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 2)
    folder, start = stills(tmp_path / "scans", range(1)), time.monotonic()
    with pytest.raises(SonoDistillError, match="scheduler tcp://127.0.0.1:1 cannot be reached") as caught:
        corpus_of(tmp_path / "corpus", folder, scheduler="tcp://127.0.0.1:1")
    assert "--scheduler" in caught.value.remedy
    assert time.monotonic() - start < 10


def test_an_address_that_is_none_is_named(corpus_of, stills, tmp_path):
    with pytest.raises(SonoDistillError, match="scheduler nonsense://x cannot be reached"):
        corpus_of(tmp_path / "corpus", stills(tmp_path / "scans", range(1)), scheduler="nonsense://x")
