"""A shard that is cut short or vanishes in mid-epoch is named, in this process and in a loader's workers."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
from torch.utils.data import DataLoader

from sonodistill.errors import DatasetError, SonoDistillError, UnreadableFileError
from sonodistill_training.corpus.leakage import Leak, LeakageError
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, MANIFEST, table, write_table
from sonodistill_training.corpus.shards import Corpus, ShardWriter
from sonodistill_training.distill.data import CorpusViews

FRAMES = 130  # of a shard: three blocks


@pytest.fixture
def folder(tmp_path):
    """A corpus of two shards of noise: frames 0 to 129 in 0.arrow, 130 to 259 in 1.arrow."""
    generator, rows = np.random.default_rng(0), []
    for number in range(2):
        with ShardWriter(tmp_path / f"{number}.arrow") as writer:
            for _ in range(FRAMES):
                row = writer.append(generator.integers(0, 256, (64, 72), dtype=np.uint8))
                rows.append({"dataset": "d", "status": "kept", "shard": f"{number}.arrow", "row": row})
    write_table(tmp_path / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "ab", "short_side": "64"})
    return tmp_path


def cut(path):
    os.truncate(path, path.stat().st_size // 3)


def empty(path):
    os.truncate(path, 0)


def remove(path):
    path.unlink()


HARMS = {cut: "cut from", empty: "to 0 bytes", remove: "removed"}
harms = pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)


class Batches:
    """Frames of both shards by turns, so that of two workers each reads one; the first shard comes to harm when the
    third batch is asked for: then nobody reads from it."""

    def __init__(self, harm, path):
        self.harm, self.path = harm, path

    def __iter__(self):
        for number in range(12):
            if number == 2:
                self.harm(self.path)
            first = FRAMES * (number % 2)
            yield [(place, first + place * 37 % FRAMES) for place in range(8 * number, 8 * number + 8)]


def read(loader):
    """How many batches came before the error, and the error."""
    came = 0
    try:
        for _ in loader:
            came += 1
    except SonoDistillError as error:
        return came, error.with_traceback(None)  # it would keep the loader, and its workers, alive
    return pytest.fail("no error came")


def read_until(harm, folder, workers, start_method=None):
    """As ``read``, of a corpus whose first shard comes to harm."""
    views = CorpusViews(Corpus(folder), 32)
    several = {"prefetch_factor": 1, "multiprocessing_context": start_method} if workers else {}
    batches = Batches(harm, folder / "0.arrow")
    return read(DataLoader(views, batch_sampler=batches, collate_fn=views.collate, num_workers=workers, **several))


def assert_named(error, folder, said):
    assert type(error) is UnreadableFileError
    assert error.path == folder / "0.arrow"
    assert said in error.message and "Traceback" not in str(error)
    assert "fetch it again" in error.remedy and "checkpoint" in error.remedy
    assert str(error).count("What to do") == 1


@harms
def test_a_harmed_shard_is_named_by_the_next_take(folder, harm):
    corpus = Corpus(folder)
    corpus.take([3, 200])
    harm(folder / "0.arrow")
    with pytest.raises(UnreadableFileError) as caught:
        corpus.take([200, 100, 4])
    assert_named(caught.value, folder, HARMS[harm])


@harms
def test_a_shard_that_is_harmed_before_it_is_first_read_is_named(folder, harm):
    corpus = Corpus(folder)
    corpus.take([200])
    harm(folder / "0.arrow")
    with pytest.raises(UnreadableFileError) as caught:
        corpus.take([3])
    assert_named(caught.value, folder, "missing" if harm is remove else "no whole shard")


@harms
def test_frames_of_other_shards_are_read_on(folder, harm):
    corpus = Corpus(folder)
    before = [image.copy() for image in corpus.take([5, 200])]
    harm(folder / "0.arrow")
    assert np.array_equal(corpus.take([200])[0], before[1])


def test_a_shard_that_was_replaced_by_its_copy_is_read_on(folder):
    corpus = Corpus(folder)
    before = corpus.take([5])[0].copy()
    shard = folder / "0.arrow"
    copy = folder / "copy"
    copy.write_bytes(shard.read_bytes())
    copy.replace(shard)
    assert np.array_equal(corpus.take([5])[0], before)


@pytest.mark.parametrize("workers", [0, 2])
@harms
def test_a_loader_names_a_shard_that_comes_to_harm_in_mid_epoch(folder, harm, workers):
    came, error = read_until(harm, folder, workers)
    assert came == 2
    assert_named(error, folder, HARMS[harm])


def test_a_spawned_worker_names_it_too(folder):
    came, error = read_until(cut, folder, 1, "spawn")
    assert came == 2
    assert_named(error, folder, HARMS[cut])


@pytest.mark.skipif(sys.platform == "win32", reason="this system does not let a mapped file be cut")
def test_without_the_look_the_process_would_be_killed(folder):
    script = (
        "import os, sys; from sonodistill_training.corpus.shards import Corpus\n"
        "corpus = Corpus(sys.argv[1]); corpus.take([3]); path = sys.argv[1] + '/0.arrow'\n"
        "os.truncate(path, 4096); corpus[129].sum()\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True)
    assert ran.returncode < 0


class Failing:
    """A data set whose samples are errors."""

    def __init__(self, errors):
        self.errors = errors

    def __len__(self):
        return len(self.errors)

    def __getitem__(self, index):
        try:
            raise KeyError("the cause")
        except KeyError as cause:
            raise self.errors[index] from cause


ERRORS = [
    UnreadableFileError("is cut", path="/data/corpus/0.arrow", remedy="fetch it again"),
    UnreadableFileError("is cut: 3 of 5 bytes", path="corpus/0.arrow"),
    DatasetError("no frames/masks: nothing fits", remedy="look\n  at both"),
    DatasetError("it has 3 classes"),
    SonoDistillError("an error\nof two lines", path="0.arrow", remedy="do this"),
]


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_any_named_error_of_a_worker_reads_as_it_did_there(number):
    loader = DataLoader(Failing(ERRORS), batch_size=1, sampler=[number], num_workers=1, multiprocessing_context="fork")
    _, error = read(loader)
    assert (type(error), str(error)) == (type(ERRORS[number]), str(ERRORS[number]))
    assert error.remedy == ERRORS[number].remedy


@pytest.mark.parametrize("error", [*ERRORS, LeakageError([Leak(0, "busi", 4, 3, 0.99, False, "hash")], path="corpus")])
def test_a_pickled_error_keeps_its_parts(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
