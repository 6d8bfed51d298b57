"""The survey of a clip: what is static, what moves, and a thumbnail of every frame."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydicom import examples

from sonodistill import frames
from sonodistill.errors import EmptyInputError, UnreadableFileError
from sonodistill_training.corpus.survey import Survey, thumbnail


def survey_of(clip, times=None):
    survey = Survey()
    for gray, time in zip(clip, times or [None] * len(clip), strict=True):
        survey.add(gray, time)
    return survey


@pytest.fixture(scope="module")
def cine():
    """(30, 240, 320) uint8: a beating heart, and the times of its frames."""
    found = list(frames.read(examples.get_path("ybr_color")))
    return np.stack([frame.image for frame in found]), [frame.time_ms for frame in found]


@settings(max_examples=40, deadline=None)
@given(
    clip=st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9)).flatmap(lambda s: arrays(np.uint8, s)),
)
def test_extremes_and_mean_are_those_of_the_whole_stack(clip):
    background = survey_of(clip).background()
    assert np.array_equal(background.brightest, clip.max(axis=0))
    assert np.array_equal(background.darkest, clip.min(axis=0))
    assert np.allclose(background.mean, clip.mean(axis=0), atol=1e-4)
    assert background.count == len(clip)
    assert background.change.shape == clip.shape[1:]


def test_the_mean_stays_exact_when_sixteen_bits_are_full():
    white = np.full((4, 4), 255, np.uint8)
    survey = survey_of([white] * 600 + [white * 0] * 200)
    assert np.array_equal(survey.mean, np.full((4, 4), 255 * 0.75, np.float32))


def test_change_is_the_mean_step_from_frame_to_frame_of_two_by_two_blocks():
    clip = np.zeros((3, 7, 9), np.uint8)
    clip[1, 2:4, 4:6] = 90
    clip[:, 6, 8] = 200
    change = survey_of(clip).change
    expected = np.zeros((7, 9), np.float32)
    expected[2:4, 4:6] = 90
    assert np.array_equal(change, expected)


def test_the_odd_last_row_and_column_have_the_change_of_their_neighbours():
    clip = np.zeros((2, 5, 5), np.uint8)
    clip[1] = 40
    assert np.array_equal(survey_of(clip).change, np.full((5, 5), 40, np.float32))


def test_change_of_a_real_cine_agrees_with_every_pixel_compared(cine):
    clip, _ = cine
    full = np.abs(np.diff(clip.astype(np.float32), axis=0)).mean(axis=0)
    change = survey_of(clip).change
    assert np.corrcoef(change.ravel(), cv2.blur(full, (2, 2)).ravel())[0, 1] > 0.95
    assert change[full > 0].mean() <= full[full > 0].mean()


def test_a_still_is_its_own_background_without_change(cine):
    still = cine[0][0]
    background = survey_of([still]).background()
    assert background.count == 1
    assert all(np.array_equal(part, still) for part in (background.brightest, background.darkest, background.mean))
    assert not background.change.any()


def test_count_shape_and_times_are_those_of_the_frames(cine):
    clip, times = cine
    survey = survey_of(clip, times)
    assert (survey.count, survey.shape, survey.times) == (30, (240, 320), times)


@pytest.mark.parametrize("shape", [(240, 320), (480, 640), (1079, 1921), (31, 20)])
def test_thumbnails_are_area_averages_to_two_gray_levels(shape):
    gray = cv2.blur(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), (5, 5))
    gray[shape[0] // 3 :, : shape[1] // 2] //= 4
    exact = cv2.resize(gray.astype(np.float32), (32, 32), interpolation=cv2.INTER_AREA)
    thumb = survey_of([gray]).thumbs[0]
    assert np.array_equal(thumb, thumbnail(gray))
    # A halving may leave out the odd last line: near an edge a thumbnail's pixel then covers other pixels.
    assert np.quantile(np.abs(thumb - exact), 0.95) < 2


def test_the_caller_may_reuse_its_buffer(cine):
    clip, _ = cine
    buffer, survey = clip[0].copy(), Survey()
    for gray in clip:
        buffer[:] = gray
        survey.add(buffer, None)
    expected = survey_of(clip)
    assert np.array_equal(survey.thumbs, expected.thumbs)
    assert np.array_equal(survey.change, expected.change)
    assert np.array_equal(buffer, clip[-1])


def test_a_background_does_not_change_when_more_frames_come(cine):
    survey = survey_of(cine[0][:3])
    background = survey.background()
    before = [background.brightest.copy(), background.mean.copy(), background.change.copy()]
    survey.add(np.full((240, 320), 255, np.uint8), None)
    after = [background.brightest, background.mean, background.change]
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_frame_of_another_size_is_refused_and_the_survey_stays_usable():
    survey = survey_of([np.full((40, 50), 7, np.uint8)] * 2)
    with pytest.raises(UnreadableFileError, match="frame 2 is 40x50 where the first is 50x40"):
        survey.add(np.zeros((50, 40), np.uint8), None)
    assert survey.background().count == survey.count == len(survey.times) == len(survey.thumbs) == 2


def test_without_a_frame_there_is_no_background():
    with pytest.raises(EmptyInputError):
        Survey().background()
    assert Survey().thumbs.shape == (0, 32, 32)
