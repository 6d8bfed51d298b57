"""A mask is carried on for as long as it can be trusted; where it ends is said."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pytest
from click_case import SIDE, ellipse, picture, trained_network
from pydicom import examples

from sonodistill.annotate.clicks.interactive import Interactive
from sonodistill.annotate.clicks.propagate import Reason, prompts_of, propagate, propagate_in
from sonodistill.annotate.errors import ConflictError, InvalidPromptError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Item
from sonodistill.frames import Frame, read
from sonodistill.frames.frame import Calibration, Provenance

ITEM = Item("cine", "a cine", "video", 20, Path("cine.mp4"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Interactive:
    path = tmp_path_factory.getbasetemp() / "interactive.safetensors"
    return Interactive(path if path.is_file() else trained_network(path))


def frame(image: np.ndarray, index: int) -> Frame:
    return Frame(image, index, None, Calibration(None), Provenance(Path("cine.mp4"), "video", 20))


def truth(index: int) -> np.ndarray:
    """An ellipse that goes to the right by a pixel and a half a frame."""
    return ellipse((14 + 1.5 * index, 30), (8, 9))


def cine(count: int = 20) -> list[Frame]:
    """The moving ellipse, and one of the same brightness that stands still."""
    still = ellipse((50, 54), (5, 5))
    return [frame(picture([truth(index), still], seed=index), index) for index in range(count)]


class Folder:
    """A catalogue of one cine; remembers what was read."""

    def __init__(self, frames: list[Frame]) -> None:
        self.frames, self.asked = frames, []  # type: tuple[list[Frame], list[int]]

    def read(self, item: Item, only: Collection[int] | None = None) -> Iterator[Frame]:
        for one in self.frames:
            if only is None or one.index in only:
                self.asked.append(one.index)
                yield one

    def frame(self, id: FrameId) -> Frame:
        return self.frames[id.index]


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


def test_a_mask_follows_what_moves_and_leaves_out_what_stands_still(engine: Interactive) -> None:
    frames = cine(16)
    moving = propagate(engine, frames[1:], "cine", truth(0), count=15, least_confidence=0.3)
    found = dict(moving)
    assert list(found) == list(range(1, 16))
    assert min(dice(refined.mask, truth(index)) for index, refined in found.items()) > 0.8
    assert (moving.reason, moving.last) == (Reason.END, 15) or (moving.reason, moving.last) == (Reason.COUNT, 15)


def test_the_threshold_is_the_one_that_gives_back_the_mask_of_the_annotator(engine: Interactive) -> None:
    frames = cine(8)
    tight, wide = ellipse((14, 30), (6, 7)), ellipse((14, 30), (10, 11))  # of two annotators; the truth is between
    ends = {}
    for name, first in (("tight", tight), ("wide", wide)):
        moving = propagate(engine, frames[1:], "cine", first, count=7, least_confidence=0.2, origin=frames[0])
        ends[name] = (moving.threshold, np.mean([refined.mask.sum() for _, refined in moving]))
    assert propagate(engine, frames[1:], "cine", tight, count=7).threshold == 0.5
    assert ends["tight"][0] > 0.5 > ends["wide"][0]
    assert ends["tight"][1] < truth(0).sum() < ends["wide"][1]


def test_it_reads_no_further_than_it_is_asked_to(engine: Interactive) -> None:
    catalogue = Folder(cine())
    moving = propagate_in(engine, catalogue, ITEM, 2, truth(2), count=4, least_confidence=0.3)
    assert [index for index, _ in moving] == [3, 4, 5, 6] and catalogue.asked == [3, 4, 5, 6]
    assert moving.reason is Reason.COUNT and "asked for" in moving.stopped
    assert next(moving, None) is None and catalogue.asked == [3, 4, 5, 6]


def test_backward_goes_through_the_frames_in_falling_order(engine: Interactive) -> None:
    limits = {"count": 40, "backward": True, "least_confidence": 0.2}
    moving = propagate_in(engine, Folder(cine()), ITEM, 19, truth(19), **limits)
    found = dict(moving)
    assert list(found) == list(range(18, 18 - len(found), -1)) and len(found) >= 17
    assert all(dice(found[index].mask, truth(index)) > 0.75 for index in range(4, 16))


def test_it_says_that_there_are_no_more_frames(engine: Interactive) -> None:
    moving = propagate_in(engine, Folder(cine(6)), ITEM, 3, truth(3), count=9, least_confidence=0.3)
    assert [index for index, _ in moving] == [4, 5] and moving.reason is Reason.END and "no more" in moving.stopped


def test_it_stops_where_the_structure_is_gone_and_names_the_frame(engine: Interactive) -> None:
    gone = picture([np.zeros((SIDE, SIDE), bool)], seed=3)
    frames = [frame(gone, index) if index >= 5 else one for index, one in enumerate(cine(9))]
    moving = propagate(engine, frames[1:], "gone", truth(0), count=8, least_confidence=0.3)
    assert [index for index, _ in moving] == [1, 2, 3, 4] and moving.last == 4
    assert moving.reason in (Reason.EMPTY, Reason.CONFIDENCE, Reason.AREA) and "frame 6" in moving.stopped


def test_it_stops_where_confidence_falls_below_the_limit(engine: Interactive) -> None:
    moving = propagate(engine, cine()[1:], "cine", truth(0), count=9, least_confidence=1.0)
    assert list(moving) == [] and moving.reason is Reason.CONFIDENCE
    assert "below 1.00" in moving.stopped and "frame 2" in moving.stopped and moving.last is None


def test_it_stops_where_the_area_jumps(engine: Interactive) -> None:
    huge = [frame(picture([ellipse((32, 32), (26, 26))]), 1)]
    moving = propagate(engine, huge, "huge", ellipse((32, 32), (7, 7)), count=1, least_confidence=0.0)
    assert list(moving) == [] and moving.reason is Reason.AREA and "times" in moving.stopped


def test_it_stops_where_the_area_drifts_away_in_small_steps(engine: Interactive) -> None:
    radii = [6 * 1.13**index for index in range(14)]
    frames = [frame(picture([ellipse((32, 32), (r, r))], seed=int(r)), at) for at, r in enumerate(radii)]
    first = ellipse((32, 32), (6, 6))
    moving = propagate(engine, frames[1:], "drift", first, count=13, least_confidence=0.0, largest_change=1.7)
    assert 2 <= len(list(moving)) < 13 and moving.reason is Reason.AREA and "began with" in moving.stopped


def test_it_stops_at_an_image_of_another_size(engine: Interactive) -> None:
    moving = propagate(engine, [frame(np.zeros((32, 48), np.uint8), 1)], "sizes", truth(0), count=1)
    assert list(moving) == [] and moving.reason is Reason.SHAPE


def test_what_cannot_be_carried_on_is_refused(engine: Interactive) -> None:
    still = Item("still", "a still", "image", 1, Path("still.png"))
    with pytest.raises(ConflictError, match="still"):
        propagate_in(engine, Folder([]), still, 0, truth(0), count=1)
    with pytest.raises(InvalidPromptError, match="frame 20 of 20"):
        propagate_in(engine, Folder([]), ITEM, 20, truth(0), count=1)
    with pytest.raises(InvalidPromptError, match="not of the size"):
        propagate_in(engine, Folder(cine(2)), ITEM, 0, np.ones((8, 8), bool), count=1)
    with pytest.raises(InvalidPromptError, match="no mask"):
        propagate(engine, [], "cine", np.zeros((SIDE, SIDE), bool), count=1)
    for count in (0, -1, 100_000, True, "3", 2.5):
        with pytest.raises(InvalidPromptError, match="count"):
            propagate_in(engine, Folder([]), ITEM, 0, truth(0), count=count)
    for limits in ({"least_confidence": float("nan")}, {"least_confidence": 1.5}, {"largest_change": 1.0}):
        with pytest.raises(InvalidPromptError, match="limits"):
            propagate(engine, [], "cine", truth(0), count=1, **limits)


def test_every_part_of_a_mask_gets_a_click_and_crumbs_do_not() -> None:
    mask = ellipse((14, 14), (8, 6)) | ellipse((44, 40), (10, 9))
    mask[60, 2] = True
    prompts = prompts_of(mask)
    assert np.allclose(prompts.positive, [(44, 40), (14, 14)], atol=1.5) and prompts.mask is mask
    x0, y0, x1, y1 = prompts.box
    assert 0 <= x0 < 2 and y0 < 9 and x1 > 54 and 60 < y1 <= SIDE - 1


def test_it_goes_through_a_real_cine(engine: Interactive) -> None:
    path = Path(examples.get_path("ybr_color"))
    frames = list(read(path, only=range(6)))
    first = np.zeros(frames[0].image.shape, bool)
    first[100:140, 120:180] = True
    moving = propagate(engine, frames[1:], "real", first, count=5, least_confidence=0.0, largest_change=1e6)
    found = list(moving)
    assert moving.reason is not None and moving.stopped
    assert all(refined.mask.shape == first.shape for _, refined in found)
