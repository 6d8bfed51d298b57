"""What the store of labels refuses, and what it keeps through everything that may happen to the process."""

from __future__ import annotations

import contextlib
import io
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from labels_case import ACCEPTED, CLASSES, EDITED, FRAME, LABELS, OTHER, PREDICTED, SKIPPED, mask_of, square
from numpy.typing import NDArray
from PIL import Image

from sonodistill.annotate.errors import (
    AnnotationError,
    ConflictError,
    InvalidIdError,
    InvalidLabelError,
    StorageError,
)
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.mask import from_png
from sonodistill.annotate.labels.store import LabelStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LabelStore]:
    opened = LabelStore(tmp_path / "labels.sqlite", LABELS, CLASSES)
    yield opened
    opened.close()


# What is refused

NO_MASKS = {
    "three numbers": np.zeros((40, 60, 3), np.uint8),
    "one number": np.uint8(3),
    "a row": np.zeros(60, np.uint8),
    "no pixels": np.zeros((0, 60), np.uint8),
    "probabilities": np.zeros((40, 60), np.float32),
    "complex": np.zeros((40, 60), complex),
    "objects": np.zeros((40, 60), object),
    "text": np.full((40, 60), "1"),
    "another shape": np.zeros((60, 40), np.uint8),
    "a label that has no name": square(3),
    "a negative number": np.full((40, 60), -1, np.int16),
    "a number that wraps to a label": np.full((40, 60), 257, np.uint16),
    "a list": [[0, 1], [1, 0]],
    "bytes": b"\x89PNG",
    "a very wide image": np.zeros((1, 1 << 20), np.uint8),
}


@pytest.mark.parametrize("mask", NO_MASKS.values(), ids=NO_MASKS.keys())
def test_what_is_no_mask_of_the_frame_is_refused(store: LabelStore, mask: NDArray) -> None:
    with pytest.raises(InvalidLabelError) as caught:
        store.save(FRAME, mask, status=EDITED, annotator="anna", shape=(40, 60))
    assert caught.value.status == 422
    assert store.rows() == [] and store.revision() == 0


def test_a_label_without_mask_or_class_is_refused_and_a_skipped_one_with_them(store: LabelStore) -> None:
    with pytest.raises(InvalidLabelError):
        store.save(FRAME, None, status=EDITED, annotator="anna")
    with pytest.raises(InvalidLabelError):
        store.save(FRAME, square(), status=SKIPPED, annotator="anna")
    with pytest.raises(InvalidLabelError):
        store.save(FRAME, None, status=SKIPPED, annotator="anna", classification="benign")


def deep(levels: int) -> dict[str, object]:
    return {"next": deep(levels - 1)} if levels else {}


def circle() -> dict[str, object]:
    made: dict[str, object] = {}
    made["self"] = made
    return made


NO_FIELDS = {
    "unknown status": {"status": "final"},
    "unknown class": {"classification": "lesion"},
    "class of another type": {"classification": ["benign"]},
    "text as confidence": {"confidence": "high"},
    "confidence above one": {"confidence": 1.5},
    "confidence that is no number": {"confidence": float("nan")},
    "long name of a model": {"model": "x" * 201},
    "lines as a model": {"model": "a\nb"},
    "info that is no object": {"info": [1, 2]},
    "large info": {"info": {"a": "x" * 17000}},
    "deep info": {"info": deep(9)},
    "endless info": {"info": circle()},
    "info with nan": {"info": {"a": float("nan")}},
    "info with bytes": {"info": {"a": b"x"}},
    "info with half a character": {"info": {"a": ["\ud800"]}},
    "info with half a character as a key": {"info": {"\ud800": 1}},
    "info with numbers as keys": {"info": {1: "x"}},
    "info with an endless number": {"info": {"a": 10**5000}},
}


@pytest.mark.parametrize("fields", NO_FIELDS.values(), ids=NO_FIELDS.keys())
def test_what_is_said_of_a_label_is_checked(store: LabelStore, fields: dict) -> None:
    with pytest.raises(InvalidLabelError):
        store.save(FRAME, square(), **{"status": EDITED, "annotator": "anna", **fields})
    assert store.rows() == []


def test_info_may_be_eight_levels_deep(store: LabelStore) -> None:
    assert store.save(FRAME, square(), status=EDITED, annotator="anna", info=deep(7)).info == deep(7)


@pytest.mark.parametrize("name", ["", "../anna", "anna b", "a" * 65, "x'; DROP TABLE label; --"])
def test_names_of_annotators_are_checked(store: LabelStore, name: str) -> None:
    for call in (
        lambda: store.save(FRAME, square(), status=EDITED, annotator=name),
        lambda: store.mark(FRAME, SKIPPED, name),
        lambda: store.remove(FRAME, name),
        lambda: store.get(FRAME, name),
        lambda: store.rows(annotator=name),
    ):
        with pytest.raises(InvalidIdError):
            call()


@pytest.mark.parametrize("frame", [FrameId("../x", 0), FrameId("", 0), FrameId("a'b", 0)])
def test_ids_are_checked(store: LabelStore, frame: FrameId) -> None:
    for call in (
        lambda: store.save(frame, square(), status=EDITED, annotator="anna"),
        lambda: store.mark(frame, SKIPPED, "anna"),
        lambda: store.remove(frame, "anna"),
        lambda: store.get(frame),
        lambda: store.rows(frame=frame),
        lambda: store.rows(item=frame.item),
        lambda: store.history(frame),
        lambda: store.status_of(frame.item),
    ):
        with pytest.raises(InvalidIdError):
            call()


@pytest.mark.parametrize("index", [-1, 10**6, 1.5, "3", None])
def test_indices_are_checked(store: LabelStore, index: int) -> None:
    with pytest.raises(InvalidLabelError):
        store.save(FrameId("clip-1", index), square(), status=EDITED, annotator="anna")


def test_an_index_may_be_a_number_of_numpy(store: LabelStore) -> None:
    store.save(FrameId("clip-1", np.int64(7)), square(), status=EDITED, annotator="anna")
    assert store.status_of("clip-1") == {7: EDITED}
    assert store.get(FrameId("clip-1", 7)) is not None


def test_an_error_leaves_the_store_usable(store: LabelStore) -> None:
    store.save(FRAME, square(), status=ACCEPTED, annotator="anna")
    for _ in range(3):
        with pytest.raises(ConflictError):
            store.save(FRAME, square(), status=PREDICTED, annotator="anna")
    store.save(OTHER, square(), status=ACCEPTED, annotator="anna")
    assert len(store.rows()) == 2


# The file


def test_other_names_of_labels_are_refused_and_new_ones_are_added_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    LabelStore(path, ("lesion",), CLASSES).close()
    with pytest.raises(AnnotationError, match=r"(?s)of lesion, not of thyroid.*What to do: name the same"):
        LabelStore(path, ("thyroid",), CLASSES)
    longer = LabelStore(path, ("lesion", "needle"), CLASSES)
    longer.save(FRAME, square(2), status=EDITED, annotator="anna")
    longer.close()
    for names in (("lesion",), ("needle", "lesion"), ()):
        with pytest.raises(AnnotationError):
            LabelStore(path, names, CLASSES)
    LabelStore(path, ("lesion", "needle", "vessel"), CLASSES).close()


def test_classes_in_use_have_to_stay(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    first = LabelStore(path, LABELS, CLASSES)
    first.save(FRAME, None, status=ACCEPTED, annotator="anna", classification="benign")
    first.close()
    with pytest.raises(AnnotationError, match="benign, which is no class now"):
        LabelStore(path, LABELS, ("normal", "malignant"))
    LabelStore(path, LABELS, ("cyst", "benign")).close()


@pytest.mark.parametrize("names", [("lesion", "lesion"), ("",), ("x" * 65,), tuple(map(str, range(256)))])
def test_names_of_labels_are_checked(tmp_path: Path, names: tuple[str, ...]) -> None:
    with pytest.raises(InvalidLabelError):
        LabelStore(tmp_path / "labels.sqlite", names, CLASSES)


def test_a_file_that_is_no_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    path.write_bytes(b"<html>502 Bad Gateway</html>" * 400)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="cannot be opened"):
        LabelStore(path, LABELS, CLASSES)
    assert path.read_bytes() == before


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    LabelStore(path, LABELS, CLASSES).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE fact SET value = '2' WHERE key = 'format'")
    with pytest.raises(StorageError, match="update SonoDistill"):
        LabelStore(path, LABELS, CLASSES)


def test_a_mask_that_is_damaged_in_the_file_is_an_error_and_no_crash(store: LabelStore) -> None:
    row = store.save(FRAME, square(), status=EDITED, annotator="anna")
    with sqlite3.connect(store.path) as connection:
        connection.execute("UPDATE mask SET png = ? WHERE revision = ?", (b"\x89PNG\r\n\x1a\n garbage", row.revision))
    with pytest.raises(InvalidLabelError, match="cannot be decoded"):
        store.get(FRAME)


def test_no_mask_of_another_size_is_decoded() -> None:
    bomb = io.BytesIO()
    Image.new("L", (9000, 9000)).save(bomb, "PNG")
    with pytest.raises(InvalidLabelError, match="no gray PNG of 4 x 4"):
        from_png(bomb.getvalue(), (4, 4))


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = LabelStore(tmp_path / "labels.sqlite", LABELS, CLASSES)
    store.close()
    with pytest.raises(StorageError):
        store.save(FRAME, square(), status=EDITED, annotator="anna")
    with pytest.raises(StorageError):
        store.rows()


# Threads and processes


def test_threads_that_write_and_read_at_once_lose_nothing(store: LabelStore) -> None:
    failed: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for index in range(15):
                store.save(FrameId("clip-1", index), square(1 + index % 2), status=EDITED, annotator=name)
                store.counts()
                assert mask_of(store, FrameId("clip-1", index), name).max() == 1 + index % 2
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=work, args=(f"a{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    rows = store.rows()
    assert len(rows) == 90 and len({row.revision for row in rows}) == 90
    assert store.revision() == 90


def test_only_one_of_many_that_expect_the_same_revision_wins(store: LabelStore) -> None:
    seen = store.save(FRAME, square(), status=EDITED, annotator="anna").revision
    won: list[int] = []
    ready = threading.Barrier(6)

    def work() -> None:
        ready.wait(30)
        with contextlib.suppress(ConflictError):
            won.append(store.save(FRAME, square(2), status=EDITED, annotator="anna", expect_revision=seen).revision)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(won) == 1


WRITER = """
import sys
import numpy as np
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Status

path, item, annotator, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
store = LabelStore(path, ("lesion", "needle"), ("normal", "benign", "malignant"))
print("ready", flush=True)
for index in range(count):
    mask = np.random.default_rng(index).integers(0, 3, (64, 96), dtype=np.uint8)
    row = store.save(FrameId(item, index), mask, status=Status.ACCEPTED, annotator=annotator)
    print(index, row.revision, flush=True)
"""


def writer(path: Path, item: str, annotator: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), item, annotator, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def drawn(index: int) -> NDArray[np.uint8]:
    return np.random.default_rng(index).integers(0, 3, (64, 96), dtype=np.uint8)


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    chance, told = random.Random(8), 0
    for trial in range(5):
        process = writer(path, f"clip-{trial}", "anna", 10**6)
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            killer = threading.Timer(chance.uniform(0.02, 0.4), process.kill)
            killer.start()
            said = process.stdout.read()
            assert process.wait(30) == -signal.SIGKILL
        finally:
            process.kill()
            process.wait()
        acknowledged = [tuple(map(int, line.split())) for line in said.split("\n")[:-1]]
        told += len(acknowledged)
        store = LabelStore(path, LABELS, CLASSES)
        rows = {row.frame.index: row for row in store.rows(item=f"clip-{trial}")}
        assert [(index, rows[index].revision) for index, _ in acknowledged] == acknowledged
        # One more may have been written and not acknowledged; it is whole as well.
        assert len(acknowledged) <= len(rows) <= len(acknowledged) + 1
        for index in rows:
            assert (mask_of(store, FrameId(f"clip-{trial}", index)) == drawn(index)).all()
        store.close()
    assert told > 0
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_two_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "labels.sqlite"
    processes = [writer(path, "clip-1", name, 40) for name in ("anna", "bert")]
    try:
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
    store = LabelStore(path, LABELS, CLASSES)
    assert len(store.rows(annotator="anna")) == len(store.rows(annotator="bert")) == 40
    assert len({row.revision for row in store.rows()}) == 80 == store.revision()
    assert all(
        (mask_of(store, FrameId("clip-1", i), name) == drawn(i)).all() for i in (0, 39) for name in ("anna", "bert")
    )
    store.close()
