"""Embeddings on disk survive what kills their process, and are never half there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sonodistill.annotate.acquire.store import EmbeddingStore, Shape, kept_shape
from sonodistill.annotate.errors import ConflictError, StorageError
from sonodistill.annotate.ids import FrameId

SHAPE = Shape(4, 2, 3)
WRITER = """
import sys
import numpy as np
from sonodistill.annotate.acquire.store import EmbeddingStore, Shape
from sonodistill.annotate.ids import FrameId
store = EmbeddingStore(sys.argv[1], Shape(4, 2, 3))
at = len(store)
while True:
    count = at % 5 + 1
    keys = [(FrameId("item", at + more), "7") for more in range(count)]
    values = (np.arange(at, at + count) % 1000)[:, None]
    store.append(keys, values + np.zeros((count, 4)), (values + np.zeros((count, 6))).reshape(count, 2, 3))
    at += count
    print(at, flush=True)
"""


def fill(store: EmbeddingStore, *indices: int, item: str = "item", stamp: str = "7") -> None:
    values = np.array(indices, float)[:, None]
    keys = [(FrameId(item, index), stamp) for index in indices]
    store.append(keys, values + np.zeros((len(keys), 4)), (values + np.zeros((len(keys), 6))).reshape(-1, 2, 3))


def check(store: EmbeddingStore) -> None:
    """Every row holds the number of its frame."""
    numbers = np.array([key.index for key, _ in store.keys]) % 1000
    np.testing.assert_array_equal(store.vectors(), np.repeat(numbers[:, None], 4, axis=1))
    np.testing.assert_array_equal(store.maps(range(len(store)))[:, 1, 2], numbers)


def test_rows_are_there_again_after_a_restart(tmp_path):
    store = EmbeddingStore(tmp_path / "deep" / "store", SHAPE)
    assert len(store) == 0 and store.vectors().shape == (0, 4)
    fill(store, 0, 1, 2)
    fill(store, 300)
    held = store.vectors()
    fill(store, *range(400, 900))
    np.testing.assert_array_equal(held[:, 0], [0, 1, 2, 300])
    store.close()
    again = EmbeddingStore(tmp_path / "deep" / "store", SHAPE)
    assert len(again) == 504 and again.keys[3] == (FrameId("item", 300), "7") and again.rows[FrameId("item", 300)] == 3
    check(again)
    np.testing.assert_array_equal(again.maps([3, 0])[:, 0, 0], [300, 0])
    assert kept_shape(again.folder) == SHAPE and kept_shape(tmp_path) is None
    fill(again, 1, stamp="8")
    assert again.rows[FrameId("item", 1)] == 504
    again.close()


def test_a_killed_process_leaves_a_store_that_goes_on(tmp_path):
    acknowledged = 0
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            for _ in range(20):
                acknowledged = int(process.stdout.readline())
            time.sleep(0.01)
        finally:
            process.send_signal(signal.SIGKILL)
            rest = process.communicate(timeout=30)[0].split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        store = EmbeddingStore(tmp_path, SHAPE)
        assert len(store) >= acknowledged, "nothing that was acknowledged is lost"
        assert [key.index for key, _ in store.keys] == list(range(len(store)))
        check(store)
        store.close()


@pytest.mark.parametrize("lost", ["index.jsonl", "vectors.f16", "maps.f16"])
def test_half_written_rows_are_cut_off(tmp_path, lost):
    store = EmbeddingStore(tmp_path, SHAPE)
    fill(store, 0, 1, 2)
    store.close()
    file = tmp_path / lost
    os.truncate(file, file.stat().st_size - 3)
    again = EmbeddingStore(tmp_path, SHAPE)
    assert len(again) == 2
    fill(again, 9)
    check(again)
    again.close()
    last = EmbeddingStore(tmp_path, SHAPE)
    assert [key.index for key, _ in last.keys] == [0, 1, 9]
    check(last)
    last.close()


def test_rows_behind_the_index_and_a_damaged_line_are_cut_off(tmp_path):
    store = EmbeddingStore(tmp_path, SHAPE)
    fill(store, 0, 1, 2)
    store.close()
    for name in ("vectors.f16", "maps.f16"):
        with (tmp_path / name).open("ab") as file:
            file.write(b"x" * 29)
    lines = (tmp_path / "index.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "index.jsonl").write_bytes(lines[0] + b'["item", "one"]\n' + lines[2])
    again = EmbeddingStore(tmp_path, SHAPE)
    assert [key.index for key, _ in again.keys] == [0]
    fill(again, 5)
    check(again)
    again.close()


def test_rows_of_another_shape_are_computed_anew(tmp_path):
    store = EmbeddingStore(tmp_path, SHAPE)
    fill(store, 0)
    store.close()
    other = EmbeddingStore(tmp_path, Shape(5, 2, 3))
    assert len(other) == 0
    other.close()
    (tmp_path / "meta.json").write_text("not json")
    assert kept_shape(tmp_path) is None
    again = EmbeddingStore(tmp_path, SHAPE)
    assert len(again) == 0
    again.close()


def test_one_process_at_a_time(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline()
        with pytest.raises(ConflictError, match="another process"):
            EmbeddingStore(tmp_path, SHAPE)
    finally:
        process.kill()
        process.communicate(timeout=30)
    EmbeddingStore(tmp_path, SHAPE).close()


def test_a_full_disk_is_an_error_and_leaves_the_store_as_it_was(tmp_path):
    program = """
import resource, signal, sys
import numpy as np
from sonodistill.annotate.acquire.store import EmbeddingStore, Shape
from sonodistill.annotate.errors import StorageError
from sonodistill.annotate.ids import FrameId
store = EmbeddingStore(sys.argv[1], Shape(4, 2, 3))
add = lambda at: store.append([(FrameId("item", at), "")], np.full((1, 4), at), np.full((1, 2, 3), at))
add(0)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, resource.RLIM_INFINITY))
try:
    add(1)
except StorageError as error:
    print(error)
assert len(store) == 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
add(2)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "embeddings cannot be kept (File too large)" in done.stdout
    store = EmbeddingStore(tmp_path, SHAPE)
    assert [key.index for key, _ in store.keys] == [0, 2]
    check(store)
    store.close()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be kept"):
        EmbeddingStore(tmp_path / "file" / "store", SHAPE)
