"""The pipeline keeps order and bounds, hands on errors, really overlaps, and leaves no thread behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from itertools import count

import pytest

from sonodistill.inference.pipeline import background, overlapped

WAIT = 20.0


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "sonodistill-pipeline"]


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert threads() == []


def run(items, batch=1, prepare=list, infer=list, finish=lambda item, output: (item, output)):
    return overlapped(items, batch, prepare, infer, finish)


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_every_item_comes_out_once_and_in_order(batch):
    sizes = []

    def infer(group):
        sizes.append(len(group))
        return [10 * item for item in group]

    assert list(run(range(10), batch, infer=infer)) == [(item, 10 * item) for item in range(10)]
    assert sum(sizes) == 10 and max(sizes) <= batch and all(size == batch for size in sizes[:-1])


def test_nothing_in_nothing_out():
    assert list(run([])) == []


def test_outputs_beyond_the_items_are_those_of_a_filled_up_batch():
    assert [item for item, _ in run(range(3), 2, infer=lambda group: [0, 0])] == [0, 1, 2]


class Stop(Exception):
    pass


def failing(items, at):
    for item in items:
        if item == at:
            raise Stop(at)
        yield item


@pytest.mark.parametrize("batch", [1, 4])
def test_an_error_of_the_source_comes_after_what_came_before_it(batch):
    seen = []
    with pytest.raises(Stop, match="6"):
        for item, _ in run(failing(range(10), 6), batch):
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("stage", ["prepare", "infer"])
def test_an_error_of_a_stage_comes_after_what_came_before_it(stage):
    def fail(group):
        if 3 in group:
            raise Stop(stage)
        return group

    seen = []
    with pytest.raises(Stop, match=stage):
        for item, _ in run(range(10), **{stage: fail}):
            seen.append(item)
    assert seen == [0, 1, 2]


def test_an_error_of_the_last_stage_ends_it():
    with pytest.raises(Stop):
        list(run(range(10), finish=lambda item, output: list(failing([item], 2))))


def test_the_next_batch_is_prepared_while_one_is_inferred_and_one_finished():
    prepared, inferred = [threading.Event() for _ in range(8)], [threading.Event() for _ in range(8)]

    def prepare(group):
        prepared[group[0]].set()
        return group

    def infer(group):
        assert prepared[group[0] + 1].wait(WAIT)  # would never be, one after the other
        inferred[group[0]].set()
        return group

    def finish(item, output):
        assert inferred[item + 1].wait(WAIT)
        return item

    results = run(range(8), prepare=prepare, infer=infer, finish=finish)
    assert [next(results), next(results)] == [0, 1]
    results.close()


def test_no_more_than_a_few_items_are_taken_ahead():
    taken = []

    def source():
        for item in count():
            taken.append(item)
            yield item

    results = run(source(), 2)
    for _ in range(10):
        next(results)
        time.sleep(0.01)
    results.close()
    assert len(taken) <= 10 + 7 * 2


def test_closing_early_ends_the_threads_and_closes_the_source():
    closed = []

    def source():
        try:
            yield from count()
        finally:
            closed.append(threading.current_thread())

    made = background(source())
    assert next(made) == 0 and threads()
    made.close()
    assert closed and threads() == []


def test_an_iterator_that_is_dropped_ends_its_threads():
    results = run(count())
    next(results)
    del results


def test_an_iterator_that_is_never_used_starts_none():
    results = run(count())
    assert threads() == []
    results.close()


def test_two_iterators_do_not_disturb_each_other():
    first, second = run(range(50), 4), run(range(50, 100), 3)
    pairs = [(a, b) for (a, _), (b, _) in zip(first, second, strict=True)]
    assert pairs == list(zip(range(50), range(50, 100), strict=True))


PROGRAM = """
import itertools, signal, sys, time
from sonodistill.inference.pipeline import overlapped
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
def slow(group):
    time.sleep(0.05)
    return group
results = overlapped(itertools.count(), 1, list, slow, lambda item, output: item)
{use}
"""


def test_ctrl_c_ends_it_at_once():
    program = PROGRAM.format(use="for item in results: print(item, flush=True)")
    running = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert running.stdout.readline().strip() == "0"
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=WAIT)
    assert running.returncode != 0 and "KeyboardInterrupt" in said


def test_an_iterator_left_open_does_not_keep_the_interpreter():
    program = PROGRAM.format(use="next(results); kept = [results]")
    subprocess.run([sys.executable, "-c", program], timeout=WAIT, check=True)
