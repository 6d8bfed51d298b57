"""Thinning: which frames of a clip are kept, and what is said about the others."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import examples

from sonodistill import frames
from sonodistill.errors import SonoDistillError
from sonodistill_training.corpus.survey import Survey
from sonodistill_training.corpus.thinning import Thinning, select

ROUNDING = 1e-4


def textures(count, seed=0):
    """(N, 32, 32) uint8: pictures that have little in common."""
    return np.random.default_rng(seed).integers(20, 230, (count, 32, 32), dtype=np.uint8)


def unknown(count):
    return [None] * count


def survey_of(path):
    survey = Survey()
    for frame in frames.read(path):
        survey.add(frame.image, frame.time_ms)
    return survey


@pytest.fixture(scope="module")
def heart():
    """30 frames of one second of a beating heart."""
    return survey_of(examples.get_path("ybr_color"))


@st.composite
def clips(draw):
    """Frames drawn from a few pictures and blends of them, some black, with or without times."""
    sources = textures(4, draw(st.integers(0, 3))).astype(np.float32)
    count = draw(st.integers(1, 40))
    picks = draw(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.floats(0, 1)), min_size=count, max_size=count)
    )
    thumbs = np.array([sources[a] * (1 - mix) + sources[b] * mix for a, b, mix in picks]).astype(np.uint8)
    thumbs[draw(st.lists(st.integers(0, count - 1), max_size=3))] = 0
    steps = draw(st.lists(st.floats(0, 400), min_size=count, max_size=count))
    times = draw(st.sampled_from([unknown(count), list(np.cumsum(steps))]))
    thinning = Thinning(
        draw(st.sampled_from([0.5, 2.0, 30.0])), draw(st.sampled_from([0.0, 0.03, 0.3])), draw(st.integers(1, 8))
    )
    return thumbs, times, thinning


def assert_apart(thumbs, times, thinning, kept):
    """Kept frames respect the gap in time, where times are known, and the least difference."""
    shown = [i for i in range(len(thumbs)) if thumbs[i].any()]
    if len(kept) > 1:
        if is_timed(times, shown):
            assert np.diff([times[i] for i in kept]).min() >= 1000 / thinning.per_second - 1 - 1e-6
        likeness = np.corrcoef(thumbs[kept].reshape(len(kept), -1)) - 2 * np.eye(len(kept))
        assert likeness.max() <= 1 - thinning.different + ROUNDING


def is_timed(times, shown):
    return bool(shown) and times[0] is not None and times[shown[-1]] > times[shown[0]]


@settings(max_examples=80, deadline=None)
@given(clips())
def test_kept_frames_are_far_enough_apart_in_time_and_look(clip):
    thumbs, times, thinning = clip
    kept = select(thumbs, times, thinning).kept
    assert len(kept) <= thinning.per_clip and (np.diff(kept) > 0).all()
    assert_apart(thumbs, times, thinning, kept)


@settings(max_examples=80, deadline=None)
@given(clips())
def test_a_dropped_frame_is_blank_or_too_soon_or_too_like_a_kept_one_unless_the_clip_is_full(clip):
    thumbs, times, thinning = clip
    selection = select(thumbs, times, thinning)
    shown = [i for i in range(len(thumbs)) if thumbs[i].any()]
    gap = 1000 / thinning.per_second
    for i in range(len(thumbs)):
        reason = selection.reason(i)
        assert (reason is None) == (i in selection.kept)
        assert (reason == "blank") == (i not in shown)
        if reason == "redundant" and len(selection.kept) < thinning.per_clip:
            earlier = selection.kept[selection.kept < i]
            too_soon = is_timed(times, shown) and times[i] - times[earlier[-1]] < gap
            assert too_soon or selection.difference[i] <= max(thinning.different, ROUNDING) + ROUNDING


@settings(max_examples=40, deadline=None)
@given(clips())
def test_each_frame_names_the_kept_one_it_is_most_like(clip):
    thumbs, times, thinning = clip
    selection = select(thumbs, times, thinning)
    shown = [i for i in range(len(thumbs)) if thumbs[i].any()]
    if not shown:
        assert len(selection.kept) == 0
        return
    assert selection.kept[0] == shown[0]
    likeness = np.corrcoef(thumbs[shown].reshape(len(shown), -1)).reshape(len(shown), len(shown))
    for row, i in enumerate(shown):
        to_kept = [likeness[row, shown.index(k)] for k in selection.kept]
        assert selection.resembles[i] in selection.kept
        assert abs((1 - selection.difference[i]) - max(to_kept)) < 1e-3
        assert abs(likeness[row, shown.index(selection.resembles[i])] - max(to_kept)) < 1e-3


@settings(max_examples=40, deadline=None)
@given(clips())
def test_the_same_clip_gives_the_same_selection(clip):
    one, other = select(*clip), select(*clip)
    assert np.array_equal(one.kept, other.kept) and np.array_equal(one.resembles, other.resembles)


def test_of_equal_frames_one_is_kept_wherever_they_stand():
    a, b = textures(2)
    for order in ([a, a, b, b], [a, b, a, b], [a, b, b, a]):
        kept = select(np.array(order), unknown(4), Thinning(different=0)).kept
        assert [order[i] is picture for i, picture in zip(kept, (a, b), strict=True)] == [True, True]


def test_a_still_is_kept_unless_it_is_blank():
    assert select(textures(1), [0.0], Thinning()).kept.tolist() == [0]
    for level in (0, 5, 255):
        blank = select(np.full((1, 32, 32), level, np.uint8), [0.0], Thinning())
        assert len(blank.kept) == 0 and blank.reason(0) == "blank"
    assert len(select(textures(0), [], Thinning()).kept) == 0


def test_a_picture_that_comes_back_much_later_is_not_kept_again():
    a, b, c = textures(3)
    selection = select(np.array([a, b, c, a, b]), [0, 5000, 10_000, 60_000, 90_000], Thinning())
    assert selection.kept.tolist() == [0, 1, 2]
    assert selection.resembles.tolist() == [0, 1, 2, 0, 1]


def test_a_change_of_gain_is_not_a_new_picture():
    a = textures(1)[0]
    assert len(select(np.array([a, a // 2, (a * 1.1).astype(np.uint8)]), unknown(3), Thinning()).kept) == 1


def test_noise_is_not_a_new_picture():
    rng = np.random.default_rng(0)
    clip = np.clip(textures(1) + rng.normal(0, 4, (300, 32, 32)), 0, 255).astype(np.uint8)
    assert len(select(clip, unknown(300), Thinning()).kept) == 1


def test_frames_that_move_only_in_the_black_corners_beside_the_sector_are_compared_inside_it():
    clip = np.zeros((2, 32, 32), np.uint8)
    clip[:, 12:20, 12:20] = textures(2)[:, :8, :8]
    assert len(select(clip, unknown(2), Thinning(different=0.5)).kept) == 2


@pytest.mark.parametrize(
    "times", [[None] * 6, [0.0, 1.0, None, 3.0, 4.0, 5.0], [5.0, 4.0, 3.0, 2.0, 1.0, 0.0], [7.0] * 6]
)
def test_times_that_say_nothing_leave_the_choice_to_the_difference(times):
    assert len(select(textures(6), times, Thinning()).kept) == 6


def test_the_rate_is_met_in_spite_of_rounded_frame_times():
    times = [round(i * 1000 / 30, 2) for i in range(90)]
    assert select(textures(90), times, Thinning(per_second=2)).kept.tolist() == [0, 15, 30, 45, 60, 75]


def test_a_full_clip_keeps_its_most_different_frames():
    a, b, c = textures(3).astype(np.float32)
    near_a, near_b = (0.8 * a + 0.2 * c).astype(np.uint8), (0.8 * b + 0.2 * c).astype(np.uint8)
    clip = np.array([a, near_a, b, near_b, c]).astype(np.uint8)
    assert select(clip, unknown(5), Thinning(different=0.01)).kept.tolist() == [0, 1, 2, 3, 4]
    assert select(clip, unknown(5), Thinning(different=0.01, per_clip=3)).kept.tolist() == [0, 2, 4]


def test_embeddings_decide_in_place_of_the_thumbnails():
    embeddings = np.array([[1, 0], [0.999, 0.001], [0, 3], [0, 1]], np.float16)
    selection = select(textures(4), unknown(4), Thinning(different=0.1), embeddings=embeddings)
    assert selection.kept.tolist() == [0, 2]
    assert selection.resembles.tolist() == [0, 0, 2, 2]


@pytest.mark.parametrize("setting", [{"per_second": 0}, {"different": -0.1}, {"different": 3}, {"per_clip": 0}])
def test_settings_that_cannot_work_are_refused(setting):
    with pytest.raises(SonoDistillError, match="What to do"):
        Thinning(**setting)


def test_one_second_of_a_beating_heart_gives_two_frames_and_all_its_phases_without_a_rate(heart):
    assert len(select(heart.thumbs, heart.times, Thinning()).kept) == 2
    assert 8 <= len(select(heart.thumbs, heart.times, Thinning(per_second=1000)).kept) < 30


def test_a_clip_with_every_frame_doubled_keeps_the_same_pictures(heart):
    doubled = np.repeat(heart.thumbs, 2, axis=0)
    times = [time + shift for time in heart.times for shift in (0.0, 16.7)]
    for thinning in (Thinning(), Thinning(per_second=1000, different=0), Thinning(per_second=1000, per_clip=5)):
        plain = select(heart.thumbs, heart.times, thinning).kept
        twice = select(doubled, times, thinning).kept
        assert np.array_equal(doubled[twice], heart.thumbs[plain])


def test_real_clips_are_thinned_by_their_movement(shared):
    folder = shared / "data" / "raw" / "video"
    frozen = survey_of(folder / "sonosite-anon-eye1-video.mp4")
    assert len(select(frozen.thumbs, frozen.times, Thinning()).kept) == 1
    moving = survey_of(folder / "clarius-ocular-short.mp4")
    assert len(select(moving.thumbs, moving.times, Thinning()).kept) == 4


def test_ten_thousand_frames_are_thinned_quickly():
    thumbs = textures(10_000)
    start = time.process_time()
    kept = select(thumbs, [i * 1000 / 30 for i in range(10_000)], Thinning()).kept
    assert len(kept) == 64
    # About 0.6 s on a quiet core.
    assert time.process_time() - start < 10
