"""When a batch counts as done."""

from __future__ import annotations

import cv2
import numpy as np

from sonodistill_training.corpus.batch import Job, finished, process
from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.plan import Batch, Entry
from sonodistill_training.corpus.sandbox import Limits, Sandbox
from sonodistill_training.corpus.simulator import simulate_frame

LIMITS = Limits()


def read(tmp_path, picture, limits: Limits) -> Batch:
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    batch = Batch("0" * 32, (Entry(str(tmp_path / "a.png"), "local", "5" * 20),))
    with Sandbox("sonodistill_training.corpus.extract", "extract", limits) as sandbox:
        process(batch, Job(str(tmp_path), Extraction().to_json(), "00" * 32), sandbox)
    return batch


def test_a_batch_that_was_read_is_done_whatever_the_limits(tmp_path):
    batch = read(tmp_path, simulate_frame(0).image, LIMITS)
    assert finished(tmp_path, batch, LIMITS)
    assert finished(tmp_path, batch, Limits(silence_seconds=1))


def test_a_batch_whose_decoder_died_is_done_for_those_limits_alone(tmp_path):
    hasty = Limits(silence_seconds=1e-6)
    batch = read(tmp_path, np.zeros((64, 64), np.uint8), hasty)
    assert finished(tmp_path, batch, hasty)
    assert not finished(tmp_path, batch, LIMITS)


def test_a_batch_that_nobody_read_is_not_done(tmp_path):
    assert not finished(tmp_path, Batch("1" * 32, ()), LIMITS)
