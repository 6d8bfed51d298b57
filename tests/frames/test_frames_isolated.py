"""A limited process decodes: the same frames as in this one, and whatever becomes of it is an error of one file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from dicom_factory import jpeg, lossless_clip
from pydicom import uid

from sonodistill.errors import UnreadableFileError, UnsupportedFormatError
from sonodistill.frames import isolated_process, read
from sonodistill.frames.isolated import DecoderUnavailableError, IsolatedReader, read_isolated

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def reader():
    with IsolatedReader(memory_mb=1024, seconds=60) as opened:
        yield opened


@pytest.fixture
def clip(factory, tmp_path, speckle) -> Path:
    return lossless_clip(tmp_path / "clip.dcm", speckle)


def assert_same(frames, expected) -> None:
    frames, expected = list(frames), list(expected)
    assert len(frames) == len(expected) > 0
    for one, other in zip(frames, expected, strict=True):
        np.testing.assert_array_equal(one.image, other.image)
        assert one.image.dtype == np.uint8 and one.image.flags.c_contiguous and one.image.flags.writeable
        assert (one.index, one.time_ms, one.calibration) == (other.index, other.time_ms, other.calibration)
        assert one.provenance == other.provenance
        assert one.colour is None


@pytest.mark.parametrize(
    "name",
    [
        "US1_UNCR.dcm",
        "US1_J2KI.dcm",
        "OBXXXX1A_rle_2frame.dcm",
        "OBXXXX1A_expb_2frame.dcm",
        "gdcm-US-ALOKA-16.dcm",
        "examples_ybr_color.dcm",
        "examples_palette.dcm",
    ],
)
def test_frames_are_those_that_are_read_in_this_process(reader, pydicom_file, name):
    assert_same(reader.read(pydicom_file(name)), read(pydicom_file(name)))


def test_frames_asked_for_are_those_that_are_read_in_this_process(reader, pydicom_file):
    path = pydicom_file("examples_ybr_color.dcm")
    assert_same(reader.read(path, only=[29, 3, 3]), read(path, only=[29, 3, 3]))
    frames = reader.read(path, only=[2, 30])
    assert next(frames).index == 2
    with pytest.raises(UnreadableFileError, match="has no frame 30"):
        next(frames)


def test_one_file_alone_and_names_that_are_no_text(clip, monkeypatch):
    odd = clip.with_name(os.fsdecode(b"cl\xff ip\n.dcm"))
    clip.rename(odd)
    monkeypatch.chdir(odd.parent)
    assert_same(read_isolated(odd.name, memory_mb=1024), read(Path(odd.name)))


def test_errors_are_those_of_this_process_and_the_frames_before_come_first(reader, factory, tmp_path, speckle):
    encoded = [jpeg(frame) for frame in speckle]
    encoded[2] = encoded[2][:40] + b"\0" * 40
    ds = factory.encapsulated(factory.ultrasound(speckle), uid.JPEGBaseline8Bit, encoded)
    path = factory.save(ds, tmp_path / "x.dcm")
    said = []
    for source in (reader.read(path), read(path)):
        assert [next(source).index, next(source).index] == [0, 1]
        with pytest.raises(UnreadableFileError, match="frame 3 of 4") as error:
            next(source)
        said.append(str(error.value))
    assert said[0] == said[1]


def test_what_the_header_shows_never_reaches_the_child(factory, tmp_path, speckle, clip):
    ds = factory.ultrasound(speckle, SOPClassUID="1.2.3.4.5")
    with IsolatedReader(memory_mb=1024) as reader:
        with pytest.raises(UnsupportedFormatError, match="private SOP class"):
            next(reader.read(factory.save(ds, tmp_path / "p.dcm")))
        with pytest.raises(UnreadableFileError, match="no such file"):
            next(reader.read(tmp_path / "none.dcm"))
        assert reader.pid is None
        assert sum(1 for _ in reader.read(clip)) == 4


# What the child does with a file of that name, in place of decoding it.
BEHAVIOUR = """
import ctypes, os, signal, sys, time
import numpy as np
import sonodistill.frames.dicom as dicom
from sonodistill.errors import UnsupportedFormatError
class Panic(BaseException): pass
real = dicom.read_dicom
def pretended(path, *, only=None):
    name, frames = path.stem.removeprefix("bad-"), real(path, only=only)
    if name == path.stem:
        yield from frames
        return
    yield next(frames)
    if name == "segv":
        ctypes.string_at(0)
    elif name == "abort":
        os.abort()
    elif name == "exit":
        os._exit(0)
    elif name == "panic":
        raise Panic("inside the decoder")
    elif name == "hang":
        time.sleep(600)
    elif name == "spin":
        while True: pass
    elif name == "memory":
        yield np.zeros(1 << 34, np.uint8)
    elif name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif name == "garbage":
        for fd in range(3, 10):
            try: os.write(fd, b"x" * 100)
            except OSError: pass
    elif name == "refused":
        raise UnsupportedFormatError("no \\x1b[31m decoder", remedy="pip install it")
    elif name in ("large", "again"):
        frame = next(frames)
        if name == "large":
            object.__setattr__(frame, "image", np.zeros((9999, 99), np.uint8))
        else:
            object.__setattr__(frame, "index", 0)
        yield frame
    elif name == "pipe":
        print("noise of a native library", flush=True)
        os.write(1, b"more of it")
        yield from frames
dicom.read_dicom = pretended
"""


@pytest.fixture(scope="module")
def behaving():
    """A reader whose children behave as ``BEHAVIOUR`` says."""
    _, path, start = isolated_process._BOOT.split("; ", 2)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(isolated_process, "_BOOT", f"import sys\n{path}\n{BEHAVIOUR}\n{start}")
        with IsolatedReader(memory_mb=1024) as reader:
            yield reader


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("segv", r"crashed \(SIGSEGV\) at frame 2"),
        ("abort", r"crashed \(SIGABRT\) at frame 2"),
        ("exit", r"ended by itself \(exit code 0\) at frame 2"),
        ("killed", r"was killed \(SIGKILL\), most likely for want of memory at frame 2"),
        ("panic", r"it cannot be decoded \(Panic\)"),
        ("memory", r"it cannot be decoded \(_?(Array)?MemoryError\)"),
        ("hang", r"frame 2 took the process that decodes more than 1 s"),
        ("spin", r"more than 1 s"),
        ("garbage", "answered with something else at frame 2"),
        ("large", "answered with something else at frame 2"),
        ("again", "answered with something else at frame 2"),
    ],
)
def test_whatever_becomes_of_the_child_is_an_error_of_the_file_and_the_next_one_is_read(behaving, clip, name, message):
    bad = clip.with_name(f"bad-{name}.dcm")
    bad.write_bytes(clip.read_bytes())
    behaving.seconds = 1 if name in ("hang", "spin") else 60
    frames = behaving.read(bad)
    assert next(frames).index == 0
    with pytest.raises(UnreadableFileError, match=message) as error:
        next(frames)
    assert error.value.path == bad
    behaving.seconds = 60
    assert_same(behaving.read(clip), read(clip))


def test_a_refusal_stays_one_and_what_it_says_is_plain_text(behaving, clip):
    bad = clip.rename(clip.with_name("bad-refused.dcm"))
    with pytest.raises(UnsupportedFormatError) as error:
        list(behaving.read(bad))
    assert error.value.message == "no  [31m decoder" and error.value.remedy == "pip install it"


def test_what_native_libraries_print_does_not_get_among_the_frames(behaving, clip):
    noisy = clip.rename(clip.with_name("bad-pipe.dcm"))
    assert sum(1 for _ in behaving.read(noisy)) == 4


def test_time_that_the_caller_takes_does_not_count(reader, factory, tmp_path):
    path = factory.save(factory.ultrasound(np.zeros((8, 600, 800), np.uint8)), tmp_path / "slow.dcm")
    reader.seconds, before = 0.5, reader.seconds
    try:
        count = 0
        for _ in reader.read(path):
            time.sleep(0.12)
            count += 1
        assert count == 8
    finally:
        reader.seconds = before


def test_a_child_that_died_between_two_files_is_replaced(reader, clip):
    assert sum(1 for _ in reader.read(clip)) == 4
    killed = reader.pid
    os.kill(killed, signal.SIGKILL)
    time.sleep(0.05)
    assert_same(reader.read(clip), read(clip))
    assert reader.pid != killed


def test_leaving_early_leaves_a_reader_that_reads(reader, factory, tmp_path):
    path = factory.save(factory.ultrasound(np.zeros((40, 300, 400), np.uint8)), tmp_path / "long.dcm")
    assert len(list(islice(reader.read(path), 3))) == 3
    frames = reader.read(path)
    next(frames)
    with pytest.raises(RuntimeError, match="another file"):
        next(reader.read(path))
    frames.close()
    assert sum(1 for _ in reader.read(path)) == 40


def test_a_closed_reader_reads_nothing_and_ends_what_it_was_reading(factory, tmp_path):
    path = factory.save(factory.ultrasound(np.zeros((40, 300, 400), np.uint8)), tmp_path / "long.dcm")
    reader = IsolatedReader(memory_mb=1024)
    frames = reader.read(path)
    next(frames)
    reader.close()
    with pytest.raises(UnreadableFileError, match="SIGKILL"):
        list(frames)
    with pytest.raises(RuntimeError, match="closed"):
        next(reader.read(path))
    reader.close()


def test_the_child_outlives_the_thread_that_read_with_it(clip):
    with IsolatedReader(memory_mb=1024) as reader:
        pids = []
        for _ in range(3):
            thread = threading.Thread(target=lambda: pids.append((len(list(reader.read(clip))), reader.pid)))
            thread.start()
            thread.join(60)
        assert pids[0][0] == 4 and len(set(pids)) == 1


def test_a_child_serves_no_more_files_than_allowed(clip):
    with IsolatedReader(memory_mb=1024, files=2) as reader:
        pids = [(sum(1 for _ in reader.read(clip)), reader.pid)[1] for _ in range(5)]
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]


def test_limits_that_nothing_can_be_read_in_are_refused():
    for limits in ({"memory_mb": 100}, {"seconds": 0}, {"files": 0}):
        with pytest.raises(ValueError, match="memory_mb="):
            IsolatedReader(**limits)


def test_a_child_that_does_not_start_is_no_fault_of_the_file(clip, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(isolated_process, "_BOOT", "raise SystemExit(7)")
        reader = IsolatedReader(memory_mb=1024)
        with pytest.raises(DecoderUnavailableError, match="ended at once, with 7"):
            next(reader.read(clip))
        patched.setattr(isolated_process, "_BOOT", "print('hello ' * 9, flush=True); input()")
        with pytest.raises(DecoderUnavailableError, match="something else"):
            next(reader.read(clip))
    with reader:
        assert sum(1 for _ in reader.read(clip)) == 4


@linux
def test_the_child_is_limited_and_knows_nothing_of_this_process(clip, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "x")
    with IsolatedReader(memory_mb=600, seconds=30) as reader:
        assert sum(1 for _ in reader.read(clip)) == 4
        proc = Path(f"/proc/{reader.pid}")
        limits = {line[:25].strip(): line[26:].split()[:2] for line in (proc / "limits").read_text().splitlines()}
        assert limits["Max address space"] == [str(600 << 20)] * 2
        assert limits["Max open files"] == ["64"] * 2
        assert limits["Max core file size"] == limits["Max file size"] == ["0"] * 2
        assert 30 <= int(limits["Max cpu time"][0]) <= 40
        assert "NoNewPrivs:\t1" in (proc / "status").read_text()
        assert b"SECRET_TOKEN" not in (proc / "environ").read_bytes()
        assert 10 < reader.peak_mb < 600


@linux
def test_two_hundred_files_leave_no_process_and_no_open_file(reader, clip, tmp_path):
    assert sum(1 for _ in reader.read(clip)) == 4  # which waits for a child of it that may just be starting
    broken = tmp_path / "broken.dcm"
    broken.write_bytes(clip.read_bytes()[:-60])

    def held() -> tuple[int, set[str]]:
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
        return len(list(Path("/proc/self/fd").iterdir())), set(children.read_text().split())

    before = held()
    with IsolatedReader(memory_mb=1024, files=90) as busy:
        for number in range(200):
            if number % 10 == 3:
                with pytest.raises(UnreadableFileError):
                    list(busy.read(broken))
            elif number % 100 == 7:
                next(busy.read(clip))
            else:
                assert sum(1 for _ in busy.read(clip)) == 4
    after = held()
    assert after[0] <= before[0] and after[1] <= before[1]


@linux
def test_the_child_ends_with_its_parent(clip):
    program = (
        "import sys, time\nfrom sonodistill.frames.isolated import IsolatedReader\n"
        "reader = IsolatedReader(memory_mb=1024)\nlist(reader.read(sys.argv[1]))\n"
        "print(reader.pid, flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, clip], stdout=subprocess.PIPE, text=True)
    try:
        child = int(parent.stdout.readline())
        assert Path(f"/proc/{child}").exists()
    finally:
        parent.kill()
        parent.wait(30)
        parent.stdout.close()
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and Path(f"/proc/{child}").exists():
        # One that nobody waits for is a zombie where the container's first process reaps none.
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()
