"""Sessions on the real MRML core: what is written where, in which order, and what is never overwritten."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

from server_case import pump
from UltrasoundSegmentLib.backends.carry import carry
from UltrasoundSegmentLib.backends.model import BackendError, Cancel, Model, Prompts, Result
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.build import Facts, build_cine
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.frame import Frame
from UltrasoundSegmentLib.jobs import Jobs
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore
from UltrasoundSegmentLib.session import Session

SHAPE, COUNT = (24, 32), 8


def square(index: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[6:16, 4 + index : 16 + index] = True
    return mask


class Threshold:
    """A backend that finds what is bright, as sure of each frame as it is told; it can be held up."""

    name = "threshold"

    def __init__(self) -> None:
        self.sure: dict[int, float] = {}
        self.asked: list[int] = []
        self.prompts: list[tuple[Prompts, Any]] = []
        self.threads: set[threading.Thread] = set()
        self.go = threading.Event()
        self.go.set()
        self.broken: set[int] = set()

    def models(self, cancel: Cancel) -> list[Model]:
        return [Model("bright", "segmentation", ("lesion",)), Model("clicks", "interactive")]

    def segment(self, frame: Frame, model: str, cancel: Cancel) -> Result:
        self.threads.add(threading.current_thread())
        self.asked.append(frame.index)
        while not self.go.is_set():
            cancel.check()
            time.sleep(0.002)
        if frame.index in self.broken:
            raise BackendError(f"frame {frame.index + 1} cannot be segmented")
        return Result((frame.image > 128).astype(np.uint8), self.sure.get(frame.index, 0.95), model)

    def refine(self, frame: Frame, prompts: Prompts, previous: Any, model: str, cancel: Cancel) -> Result:
        self.prompts.append((prompts, None if previous is None else previous.copy()))
        while not self.go.is_set():
            cancel.check()
            time.sleep(0.002)
        mask = previous.copy()
        for x, y in prompts.positive:
            mask[int(y), int(x)] = prompts.label
        return Result(mask, 0.9, model)

    def propagate(
        self, frames: Sequence[Frame], mask: Any, model: str, cancel: Cancel, on_result: Callable[[int, Result], None]
    ) -> str:
        return carry(frames, mask, lambda frame, _, cancel: self.segment(frame, model, cancel), cancel, on_result)

    def close(self) -> None:
        self.go.set()


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()
    assert made.join(10)


@pytest.fixture
def cine(scene: Any) -> Cine:
    place = np.diag([-0.3, -0.2, 1.0, 1.0])
    frames = [np.where(square(index), 220, 40).astype(np.uint8) for index in range(COUNT)]
    return build_cine(scene, "cine", ((frame, place) for frame in frames), None, Facts())


class Desk:
    def __init__(self, cine: Cine, jobs: Jobs, backend: Any, labels: Sequence[str] = ("lesion",)) -> None:
        self.jobs, self.backend, self.cine = jobs, backend, cine
        self.store = MaskStore.of(cine, labels)
        self.session = Session(cine, self.store, backend, jobs, annotator="anna")
        self.failed: list[Exception] = []
        self.said: list[str] = []
        self.busy: list[bool] = []
        self.session.failed.connect(self.failed.append)
        self.session.said.connect(self.said.append)
        self.session.busy.connect(self.busy.append)
        self.session.fetch_models()
        pump(jobs)
        self.busy.clear()

    def do(self, act: Callable[[], None]) -> None:
        act()
        pump(self.jobs)


@pytest.fixture
def desk(cine: Cine, jobs: Jobs) -> Iterator[Desk]:
    made = Desk(cine, jobs, Threshold())
    yield made
    made.session.close()
    made.backend.close()


def test_all_frames_are_segmented_in_the_worker_and_written_in_the_main_thread(desk: Desk) -> None:
    changed: list[int] = []
    desk.session.changed.connect(changed.append)
    desk.do(lambda: desk.session.segment(range(COUNT), "bright"))
    assert desk.backend.asked == list(range(COUNT)) == changed
    assert threading.current_thread() not in desk.backend.threads
    for index in range(COUNT):
        assert np.array_equal(desk.store.mask(index), square(index))
        assert desk.store.info(index)["confidence"] == pytest.approx(0.95)
    assert set(desk.store.statuses()) == {Status.PREDICTED} and desk.busy == [True, False] and desk.failed == []


def test_what_a_person_labelled_is_not_even_computed(desk: Desk) -> None:
    mine = np.zeros(SHAPE, np.uint8)
    desk.store.write(1, mine, Status.ACCEPTED, annotator="anna")
    desk.store.write(2, mine, Status.EDITED, annotator="anna")
    desk.store.mark(3, Status.SKIPPED, "anna")
    desk.do(lambda: desk.session.segment(range(5), "bright"))
    assert desk.backend.asked == [0, 4]
    assert [one.value for one in desk.store.statuses()[:5]] == [
        "predicted",
        "accepted",
        "edited",
        "skipped",
        "predicted",
    ]


def test_a_label_made_while_the_model_computes_stays(desk: Desk) -> None:
    desk.backend.go.clear()
    desk.session.segment([0], "bright")
    desk.store.write(0, np.zeros(SHAPE, np.uint8), Status.ACCEPTED, annotator="anna")
    desk.backend.go.set()
    pump(desk.jobs)
    assert desk.store.status(0) is Status.ACCEPTED and not desk.store.mask(0).any()


def test_a_cancel_keeps_what_is_there_and_asks_for_no_more(desk: Desk) -> None:
    desk.session.changed.connect(lambda index: desk.session.cancel() if index == 2 else None)
    desk.do(lambda: desk.session.segment(range(COUNT), "bright"))
    assert [one is Status.PREDICTED for one in desk.store.statuses()] == [True] * 3 + [False] * 5
    assert desk.failed == [] and desk.busy == [True, False] and not desk.session.is_busy


def test_an_error_is_told_once_and_ends_it(desk: Desk) -> None:
    desk.backend.broken = {2, 3, 4}
    desk.do(lambda: desk.session.segment(range(COUNT), "bright"))
    assert [str(error) for error in desk.failed] == ["frame 3 cannot be segmented"]
    assert desk.store.status(1) is Status.PREDICTED and desk.store.status(2) is Status.EMPTY
    assert desk.busy == [True, False]


def test_numbers_follow_the_names_of_labels_and_new_ones_are_added(cine: Cine, jobs: Jobs) -> None:
    desk = Desk(cine, jobs, Threshold(), ("cyst", "duct"))
    desk.do(lambda: desk.session.segment([0], "bright"))
    assert desk.store.labels == ("cyst", "duct", "lesion")
    assert np.array_equal(desk.store.mask(0) == 3, square(0))
    desk.session.close()


def test_a_click_is_a_persons_edit_and_later_clicks_go_on_from_it(desk: Desk) -> None:
    desk.do(lambda: desk.session.refine(0, Prompts(positive=((3.0, 2.0),)), "clicks"))
    assert desk.store.status(0) is Status.EDITED and desk.store.info(0)["annotator"] == "anna"
    desk.do(lambda: desk.session.refine(0, Prompts(positive=((3.0, 2.0), (5.0, 6.0))), "clicks"))
    assert desk.backend.prompts[1][1][2, 3] == 1
    assert np.argwhere(desk.store.mask(0)).tolist() == [[2, 3], [6, 5]]


def test_a_click_that_is_taken_back_leaves_no_mask(desk: Desk) -> None:
    desk.do(lambda: desk.session.refine(0, Prompts(positive=((3.0, 2.0), (5.0, 6.0))), "clicks"))
    desk.do(lambda: desk.session.refine(0, Prompts(positive=((3.0, 2.0),)), "clicks"))
    assert np.argwhere(desk.store.mask(0)).tolist() == [[2, 3]]


def test_prompts_can_be_undone_to_what_was_there(desk: Desk) -> None:
    desk.do(lambda: desk.session.segment([0], "bright"))
    desk.do(lambda: desk.session.refine(0, Prompts(positive=((31.0, 2.0),)), "clicks"))
    desk.session.end_prompts(undo=True)
    assert desk.store.status(0) is Status.PREDICTED and np.array_equal(desk.store.mask(0), square(0))
    assert desk.store.info(0)["confidence"] == pytest.approx(0.95) and desk.store.info(0)["annotator"] == ""
    desk.do(lambda: desk.session.refine(1, Prompts(positive=((3.0, 2.0),)), "clicks"))
    desk.session.end_prompts(undo=True)
    assert desk.store.status(1) is Status.EMPTY and not desk.store.mask(1).any()


def test_of_many_clicks_the_newest_counts(desk: Desk) -> None:
    desk.backend.go.clear()
    for count in range(1, 6):
        desk.session.refine(0, Prompts(positive=tuple((float(x), 2.0) for x in range(count))), "clicks")
        time.sleep(0.01)
    desk.backend.go.set()
    pump(desk.jobs)
    assert len(desk.backend.prompts) == 2 and desk.store.mask(0).sum() == 5 and desk.failed == []


def test_an_answer_that_comes_after_accept_or_another_edit_is_dropped(desk: Desk) -> None:
    desk.backend.go.clear()
    desk.session.refine(0, Prompts(positive=((3.0, 2.0),)), "clicks")
    desk.session.accept(0)
    desk.session.refine(1, Prompts(positive=((3.0, 2.0),)), "clicks")
    drawn = square(5).astype(np.uint8)
    desk.store.write(1, drawn, Status.EDITED, annotator="anna")  # with the brush, say
    desk.backend.go.set()
    pump(desk.jobs)
    assert desk.store.status(0) is Status.ACCEPTED and not desk.store.mask(0).any()
    assert np.array_equal(desk.store.mask(1), drawn) and "dropped" in desk.said[0] and desk.failed == []


@pytest.mark.parametrize(("start", "direction", "reached"), [(2, 1, [3, 4, 5]), (6, -1, [5, 4, 3])])
def test_a_mask_is_carried_forward_and_backward(desk: Desk, start: int, direction: int, reached: list[int]) -> None:
    desk.store.write(start, square(start), Status.EDITED, annotator="anna")
    changed: list[int] = []
    desk.session.changed.connect(changed.append)
    desk.do(lambda: desk.session.propagate(start, 3, direction, "clicks"))
    assert changed == reached and desk.said == []
    for index in reached:
        assert desk.store.status(index) is Status.PROPAGATED and np.array_equal(desk.store.mask(index), square(index))
    assert desk.store.status(start) is Status.EDITED


def test_it_stops_where_the_backend_is_unsure_and_says_so(desk: Desk) -> None:
    desk.backend.sure = {4: 0.4}
    desk.store.write(2, square(2), Status.EDITED, annotator="anna")
    desk.do(lambda: desk.session.propagate(2, 5, 1, "clicks"))
    assert [desk.store.status(index).value for index in (3, 4, 5)] == ["propagated", "empty", "empty"]
    assert desk.said == ["At frame 5 the confidence is 0.40, below 0.70."]


def test_it_stops_before_a_frame_that_a_person_labelled_and_goes_through_skipped_ones(desk: Desk) -> None:
    desk.store.write(0, square(0), Status.EDITED, annotator="anna")
    desk.store.mark(1, Status.SKIPPED, "anna")
    desk.store.write(3, np.zeros(SHAPE, np.uint8), Status.ACCEPTED, annotator="anna")
    desk.do(lambda: desk.session.propagate(0, COUNT, 1, "clicks"))
    assert [one.value for one in desk.store.statuses()[:5]] == ["edited", "skipped", "propagated", "accepted", "empty"]
    assert desk.said == ["Stopped before frame 4, which a person labelled."]


def test_there_has_to_be_a_mask_and_somewhere_to_carry_it(desk: Desk) -> None:
    with pytest.raises(SegmentError, match="no mask to carry on"):
        desk.session.propagate(0, 3)
    desk.store.write(COUNT - 1, square(0), Status.EDITED, annotator="anna")
    with pytest.raises(SegmentError, match="nothing to carry it to"):
        desk.session.propagate(COUNT - 1, 3)
    assert not desk.session.is_busy


def test_a_propagation_can_be_cancelled(desk: Desk) -> None:
    desk.store.write(0, square(0), Status.EDITED, annotator="anna")
    desk.backend.go.clear()
    desk.session.propagate(0, 5, 1, "clicks")
    pump(desk.jobs, lambda: bool(desk.backend.asked))
    desk.do(desk.session.cancel)
    assert desk.store.status(1) is Status.EMPTY and desk.failed == [] and not desk.session.is_busy


def test_the_next_uncertain_frame_goes_round_and_ends_with_the_least_sure(desk: Desk) -> None:
    assert desk.session.next_uncertain(0) is None
    desk.backend.sure = {1: 0.5, 5: 0.6, 6: 0.85}
    desk.do(lambda: desk.session.segment(range(COUNT), "bright"))
    assert [desk.session.next_uncertain(at) for at in (0, 1, 5, 7)] == [1, 5, 1, 1]
    desk.session.accept(1)
    desk.session.skip(5)
    assert desk.session.next_uncertain(0) == 6
    assert desk.store.info(1)["annotator"] == "anna" and desk.store.status(5) is Status.SKIPPED


def test_the_region_alone_is_sent_and_its_mask_lands_in_its_place(desk: Desk) -> None:
    desk.cine.set_region((2, 3, 14, 20))
    seen: list[tuple[int, ...]] = []
    segment = desk.backend.segment
    desk.backend.segment = lambda frame, model, cancel: (seen.append(frame.image.shape), segment(frame, model, cancel))[
        1
    ]
    desk.do(lambda: desk.session.segment([0], "bright"))
    expected = square(0).copy()
    expected[:, 14:] = False
    assert seen == [(17, 12)] and np.array_equal(desk.store.mask(0), expected)
    desk.do(lambda: desk.session.refine(1, Prompts(positive=((4.0, 6.0),)), "clicks"))
    assert desk.backend.prompts[-1][0].positive == ((2.0, 3.0),) and desk.store.mask(1)[6, 4] == 1


def test_quick_work_shows_no_progress_and_slow_work_does(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, int, str]] = []
    desk.session.progress.connect(lambda *said: told.append(said))
    desk.do(lambda: desk.session.segment([0], "bright"))
    assert told == []
    monkeypatch.setattr("UltrasoundSegmentLib.tasks.PROGRESS_AFTER_S", 0.0)
    desk.do(lambda: desk.session.segment(range(3), "bright"))
    assert told == [(1, 3, "Segmenting"), (2, 3, "Segmenting"), (3, 3, "Segmenting")]


def test_a_real_model_in_a_process_segments_and_follows_a_cine(cine: Cine, jobs: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    from onnx_case import write_model
    from UltrasoundSegmentLib.backends.local import LocalBackend

    path = write_model(tmp_path / "bright.onnx", ("lesion",))
    desk = Desk(cine, jobs, LocalBackend(path, threads=1, python=[sys.executable]))
    try:
        desk.do(lambda: desk.session.segment([0], "bright.onnx"))
        desk.session.accept(0)
        desk.do(lambda: desk.session.propagate(0, COUNT, 1, "parts of bright.onnx"))
        assert desk.failed == [] and desk.said == []
        assert [one.value for one in desk.store.statuses()] == ["accepted"] + ["propagated"] * (COUNT - 1)
        last = desk.store.mask(COUNT - 1)
        both = (last > 0) & square(COUNT - 1)
        assert both.sum() / ((last > 0) | square(COUNT - 1)).sum() > 0.8
    finally:
        desk.session.close()
        desk.backend.close()
