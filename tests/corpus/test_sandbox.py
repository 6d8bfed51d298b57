"""A decoding child may crash, hang, or eat memory: the parent says so and goes on."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from sonodistill_training.corpus.sandbox import ChildDiedError, Limits, Sandbox


@pytest.fixture
def sandbox(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    with Sandbox("sandbox_tasks", "work", Limits(memory_bytes=2 << 30, silence_seconds=3)) as box:
        yield box


def test_answers_come_in_order_with_their_bytes(sandbox):
    answers = list(sandbox.run({"mode": "well"}))
    assert [header["index"] for header, _ in answers] == [0, 1, 2]
    assert [payload for _, payload in answers] == [b"", b"\x01" * 1000, b"\x02" * 2000]


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("abort", "crashed .signal 6"),
        ("exit", "exit code 3"),
        ("hang", "stood still for 3 seconds"),
        ("greedy", "MemoryError"),
        ("raise", "raised BaseException"),
    ],
)
def test_the_end_of_a_child_is_named_and_the_next_task_runs(sandbox, mode, said):
    with pytest.raises(ChildDiedError, match=said) as caught:
        list(sandbox.run({"mode": mode}))
    assert "John" not in str(caught.value)
    assert len(list(sandbox.run({"mode": "well"}))) == 3


def test_what_a_library_prints_is_no_answer(sandbox):
    assert len(list(sandbox.run({"mode": "print"}))) == 4


def test_a_child_cannot_write_files(sandbox):
    with pytest.raises(ChildDiedError):
        list(sandbox.run({"mode": "write"}))
    written = Path("/tmp/a_child_writes_nothing")
    assert not written.exists() or written.stat().st_size == 0


def test_a_closed_sandbox_leaves_no_process(sandbox):
    list(sandbox.run({"mode": "well"}))
    pid = sandbox.pid
    sandbox.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_child_ends_with_its_parent(tmp_path):
    """Also in the middle of a file: a killed worker leaves no decoder behind."""
    import subprocess
    import sys

    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from sonodistill_training.corpus.sandbox import Sandbox\n"
        "box = Sandbox('sandbox_tasks', 'work')\n"
        "for header, _ in box.run({'mode': 'hang'}): print(box.pid, flush=True)\n"
    )
    folder = str(Path(__file__).parent)
    parent = subprocess.Popen(
        [sys.executable, "-c", script, folder], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": folder}
    )
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the child outlived its parent"
        time.sleep(0.1)
