"""Options of an augmentation: what is refused, and what makes two of them the same."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch

from sonodistill.errors import SonoDistillError
from sonodistill_training.distill.augment import UltrasoundAugmentation
from sonodistill_training.distill.augment_imagenet import ImageNetAugmentation
from sonodistill_training.distill.augment_options import AugmentationError
from sonodistill_training.distill.data import CorpusViews

BOTH = pytest.mark.parametrize("kind", [UltrasoundAugmentation, ImageNetAugmentation])


@BOTH
@pytest.mark.parametrize(
    "option",
    [
        {"scale": (1.0, 0.5)},
        {"scale": (0.5, 1.5)},
        {"scale": (0.0, 1.0)},
        {"scale": 0.5},
        {"scale": "12"},
        {"scale": (0.1, 0.5, 1.0)},
        {"scale": (0.5, None)},
        {"ratio": (-1.0, 1.0)},
        {"flip": 1.1},
        {"flip": -0.1},
        {"flip": "0.5"},
        {"blur": float("nan")},
        {"blur_sigma": (0.1, float("inf"))},
    ],
    ids=str,
)
def test_a_probability_or_range_that_cannot_be_is_refused(kind, option):
    with pytest.raises(AugmentationError, match=next(iter(option))) as refused:
        kind(**option)
    assert isinstance(refused.value, SonoDistillError) and refused.value.remedy


@pytest.mark.parametrize(
    "option",
    [{"tgc_points": 1}, {"tgc_points": 2.5}, {"blur_depth": (0.5, 2.0)}, {"speckle_strength": (-0.1, 0.1)}],
    ids=str,
)
def test_options_of_ultrasound_have_ranges_of_their_own(option):
    with pytest.raises(AugmentationError, match=next(iter(option))):
        UltrasoundAugmentation(**option)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(AugmentationError, match=r"scale is \(1, 0\.5\).*flip is 2 .*tgc_gain is 3 "):
        UltrasoundAugmentation(scale=(1, 0.5), flip=2, tgc_gain=3)


@BOTH
def test_an_identity_tells_settings_apart_and_not_how_they_were_written(kind):
    assert kind(scale=[0.5, 1], flip=1).identity == kind(scale=(0.5, 1.0), flip=1.0).identity
    assert kind().identity == kind(scale=kind().scale).identity != kind(scale=(0.4, 1.0)).identity


def test_both_kinds_are_told_apart_by_what_a_training_remembers():
    frames = [np.zeros((8, 8), np.uint8)]
    remembered = [CorpusViews(frames, 8, kind()).identity() for kind in (UltrasoundAugmentation, ImageNetAugmentation)]
    assert remembered[0] != remembered[1]


@BOTH
def test_an_augmentation_reaches_a_worker_that_is_spawned(kind):
    assert pickle.loads(pickle.dumps(kind(flip=0.25))) == kind(flip=0.25)


@BOTH
def test_nothing_is_left_to_the_device_by_what_is_off(kind):
    off = {"blur": 0.0} | ({"jitter": 0.0} if kind is ImageNetAugmentation else {})
    batch = CorpusViews([np.zeros((8, 8), np.uint8)], 8, kind(**off)).__getitems__([(0, 0), (1, 0)])
    assert set(batch) == {"image"}


def test_everything_that_is_on_is_left_to_the_device():
    augmentation = UltrasoundAugmentation(intensity=0.5, depth_blur=0.5, tgc=0.5, speckle=0.5)
    batch = CorpusViews([np.zeros((8, 8), np.uint8)], 8, augmentation).__getitems__([(0, 0), (1, 0)])
    shapes = {name: tuple(values.shape[1:]) for name, values in batch.items() if name != "image"}
    assert shapes == {"blur": (), "blur_depth": (), "intensity": (3,), "tgc": (6,), "speckle": (2,), "speckle_seed": ()}
    assert batch["speckle_seed"].dtype == torch.int64


def test_an_option_that_is_turned_on_changes_no_draw_of_the_others():
    shapes = [(90, 120)] * 50
    plain = UltrasoundAugmentation(intensity=0.5).draw(0, range(50), shapes)
    more = UltrasoundAugmentation(intensity=0.5, depth_blur=0.5, tgc=0.5, speckle=0.5).draw(0, range(50), shapes)
    for name in ("boxes", "flip", "blur", "intensity"):
        assert np.array_equal(getattr(plain, name), getattr(more, name))
