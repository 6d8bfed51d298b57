"""Jobs: results come by ``pump`` alone, waiting jobs are replaced and cancelled, work asks the main thread for MRML."""

from __future__ import annotations

import gc
import importlib.util
import threading
import time
from collections.abc import Callable, Iterator
from typing import ClassVar

import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

from UltrasoundSegmentLib.backends.model import Cancel
from UltrasoundSegmentLib.errors import Cancelled, SegmentError
from UltrasoundSegmentLib.jobs import FIRST, Jobs


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()
    assert made.join(5)


def pump(jobs: Jobs, until: Callable[[], bool] | None = None, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while jobs.busy if until is None else not until():
        assert time.monotonic() < end, "it did not come to its end"
        jobs.pump()
        time.sleep(0.002)


class Gate:
    """Work that begins, says so, and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, cancel: Cancel, progress: object) -> str:
        self.begun.set()
        while not self.open.is_set():
            cancel.check()
            time.sleep(0.002)
        return "through"


def test_a_result_is_handed_over_by_pump_in_the_thread_that_pumps(jobs: Jobs) -> None:
    seen: list[object] = []
    jobs.submit(
        lambda cancel, progress: (progress("half", 1), threading.current_thread())[1],
        lambda worker: seen.append((worker is not threading.current_thread(), threading.current_thread())),
        progress=lambda *said: seen.append(said),
    )
    time.sleep(0.05)
    assert seen == [] and jobs.busy
    pump(jobs)
    assert seen == [("half", 1), (True, threading.current_thread())]


def test_an_error_is_handed_over_and_the_thread_goes_on(jobs: Jobs) -> None:
    failed, done = [], []
    jobs.submit(lambda cancel, progress: 1 / 0, failed=failed.append)
    jobs.submit(lambda cancel, progress: 2, done.append, failed.append)
    pump(jobs)
    assert [type(error) for error in failed] == [ZeroDivisionError] and done == [2]


def test_a_callback_that_raises_keeps_no_other_from_its_turn(jobs: Jobs) -> None:
    done: list[int] = []
    jobs.submit(lambda cancel, progress: 1, lambda value: 1 / 0)
    jobs.submit(lambda cancel, progress: 2, done.append)
    pump(jobs)
    assert done == [2] and not jobs.busy


def test_the_newest_of_a_group_replaces_those_that_wait(jobs: Jobs) -> None:
    gate, done, failed = Gate(), [], []
    jobs.submit(gate, group="live")
    assert gate.begun.wait(5)
    for number in range(5):
        jobs.submit(lambda cancel, progress, number=number: number, done.append, failed.append, group="live")
    gate.open.set()
    pump(jobs)
    assert done == [4] and len(failed) == 4 and all(isinstance(error, Cancelled) for error in failed)


def test_what_is_first_goes_before_what_waits(jobs: Jobs) -> None:
    gate, order = Gate(), []
    jobs.submit(gate)
    assert gate.begun.wait(5)
    for name in "ab":
        jobs.submit(lambda cancel, progress, name=name: name, order.append)
    jobs.submit(lambda cancel, progress: "click", order.append, priority=FIRST)
    gate.open.set()
    pump(jobs)
    assert order == ["click", "a", "b"]


def test_a_job_that_runs_is_cancelled_and_its_result_is_not_delivered(jobs: Jobs) -> None:
    gate, done, failed = Gate(), [], []
    job = jobs.submit(gate, done.append, failed.append)
    assert gate.begun.wait(5) and job.state == "running"
    jobs.cancel(job)
    pump(jobs)
    assert done == [] and [type(error) for error in failed] == [Cancelled] and job.state == "cancelled"


def test_a_result_that_comes_after_the_cancel_is_dropped(jobs: Jobs) -> None:
    begun, go, done, failed = threading.Event(), threading.Event(), [], []
    job = jobs.submit(lambda cancel, progress: (begun.set(), go.wait(5), "late")[2], done.append, failed.append)
    assert begun.wait(5)
    jobs.cancel(job)
    go.set()
    pump(jobs)
    assert done == [] and [type(error) for error in failed] == [Cancelled]


def test_a_result_that_waits_for_its_delivery_is_dropped_by_a_cancel(jobs: Jobs) -> None:
    done, failed = [], []
    job = jobs.submit(lambda cancel, progress: progress(1), done.append, failed.append, done.append)
    end = time.monotonic() + 5
    while not job.over:
        assert time.monotonic() < end
        time.sleep(0.002)
    jobs.cancel(job)
    pump(jobs)
    assert done == [] and [type(error) for error in failed] == [Cancelled]


def test_a_job_that_waits_is_over_when_it_is_cancelled(jobs: Jobs) -> None:
    gate, ran, failed = Gate(), [], []
    jobs.submit(gate)
    job = jobs.submit(lambda cancel, progress: ran.append(1), failed=failed.append)
    jobs.cancel(job)
    assert job.over
    gate.open.set()
    pump(jobs)
    assert ran == [] and len(failed) == 1


def test_work_asks_the_main_thread_and_gets_its_answer_or_its_error(jobs: Jobs) -> None:
    threads, done = [], []

    def work(cancel: Cancel, progress: object) -> str:
        threads.append(jobs.on_main(threading.current_thread, cancel))
        with pytest.raises(SegmentError, match="no such frame"):
            jobs.on_main(_refuse, cancel)
        return "asked"

    jobs.submit(work, done.append)
    pump(jobs)
    assert threads == [threading.current_thread()] and done == ["asked"]


def _refuse() -> None:
    raise SegmentError("no such frame")


def test_work_that_waits_for_the_main_thread_can_be_cancelled(jobs: Jobs) -> None:
    asked, failed, begun = [], [], threading.Event()

    def work(cancel: Cancel, progress: object) -> None:
        begun.set()
        jobs.on_main(lambda: asked.append(1), cancel)

    job = jobs.submit(work, failed=failed.append)
    assert begun.wait(5)
    jobs.cancel(job)
    pump(jobs)
    assert asked == [] and [type(error) for error in failed] == [Cancelled]


def test_pump_leaves_the_rest_for_the_next_time(jobs: Jobs) -> None:
    done: list[int] = []
    for number in range(5):
        jobs.submit(lambda cancel, progress, number=number: number, done.append)
    end = time.monotonic() + 5
    while len(done) < 5:
        assert time.monotonic() < end
        before = len(done)
        jobs.pump(budget_s=0)
        assert len(done) <= before + 1
    assert done == [0, 1, 2, 3, 4]


def test_close_cancels_what_runs_and_calls_nothing_back() -> None:
    jobs, gate, told = Jobs(), Gate(), []
    jobs.submit(gate, told.append, told.append)
    jobs.submit(lambda cancel, progress: None, told.append, told.append)
    assert gate.begun.wait(5)
    jobs.close()
    assert jobs.join(5)
    with pytest.raises(SegmentError, match="closed"):
        jobs.submit(gate)
    assert told == []


def test_whoever_listens_to_a_cancel_is_told_once_and_when_late_at_once() -> None:
    cancel, told = Cancel(), []
    cancel.connect(lambda: told.append("early"))
    cancel.connect(lambda: 1 / 0)
    cancel.cancel()
    cancel.cancel()
    cancel.connect(lambda: told.append("late"))
    assert told == ["early", "late"] and cancel.wait(10)
    with pytest.raises(Cancelled):
        cancel.check()


def test_what_is_asked_for_later_is_called_by_pump_and_not_twice_in_one(jobs: Jobs) -> None:
    called: list[int] = []

    def again() -> None:
        called.append(len(called))
        if len(called) < 3:
            jobs.later(0, again)

    jobs.later(0, again)
    jobs.later(3600, lambda: called.append(-1))
    assert jobs.busy and called == []
    jobs.pump()
    assert called == [0]
    pump(jobs)
    assert called == [0, 1, 2]


class Mine:
    """What only the main thread may destroy."""

    destroyed_in: ClassVar[list[threading.Thread]] = []

    def __del__(self) -> None:
        Mine.destroyed_in.append(threading.current_thread())


def test_what_belongs_to_the_main_thread_is_destroyed_there(jobs: Jobs) -> None:
    Mine.destroyed_in.clear()

    def submit(fails: bool) -> None:
        mine, cycle = Mine(), Mine()
        cycle.itself = cycle  # type: ignore[attr-defined]

        def work(cancel: Cancel, progress: object) -> None:
            assert mine is not None
            assert [[] for _ in range(20_000)]  # enough for a collection
            if fails:
                raise SegmentError("it failed")

        jobs.submit(work, lambda _: mine, lambda _: mine)

    for fails in (False, True) * 5:
        submit(fails)
    pump(jobs)
    gc.collect()
    assert len(Mine.destroyed_in) == 20 and set(Mine.destroyed_in) == {threading.current_thread()}
    assert gc.isenabled()
