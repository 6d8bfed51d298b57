"""Signatures: the same picture is recognised after harmless changes, another patient's on the same scanner is not."""

from __future__ import annotations

import csv
import itertools

import cv2
import numpy as np
import pytest
from pydicom import examples

from sonodistill import frames
from sonodistill_training.corpus.signatures import (
    NEAR_COSINE,
    NEAR_HASH,
    Signature,
    cosine,
    hamming,
    mirrored,
    near,
    signature,
    signatures,
    unit,
)


def recompressed(gray):
    return cv2.imdecode(cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_GRAYSCALE)


def scaled(factor):
    return lambda gray: cv2.resize(gray, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)


def amplified(gain):
    return lambda gray: np.clip(gray * gain, 0, 255).astype(np.uint8)


def trimmed(gray):
    rows, columns = max(1, gray.shape[0] // 100), max(1, gray.shape[1] // 100)
    return gray[rows:-rows, columns:-columns]


def noisy(gray):
    return np.clip(gray + np.random.default_rng(0).normal(0, 4, gray.shape), 0, 255).astype(np.uint8)


HARMLESS = {
    "JPEG at quality 60": recompressed,
    "half the size": scaled(0.5),
    "twice the size": scaled(2),
    "90 % gain": amplified(0.9),
    "110 % gain": amplified(1.1),
    "1 % off every side": trimmed,
    "noise": noisy,
}


def read(folder, every):
    with (folder / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))[::every]
    return [cv2.imread(str(folder.parent / row["file"]), cv2.IMREAD_GRAYSCALE) for row in rows]


def fan(seed, shape=(240, 320)):
    """A sector of made-up tissue: the outline is the same for every seed, the tissue is not."""
    rng = np.random.default_rng(seed)
    small = rng.uniform(20, 200, (14, 18)).astype(np.float32)
    tissue = cv2.resize(small, shape[::-1], interpolation=cv2.INTER_CUBIC) * rng.gamma(4, 0.25, shape)
    row, column = np.mgrid[: shape[0], : shape[1]]
    depth, angle = np.hypot(row + 40, column - shape[1] / 2), np.arctan2(column - shape[1] / 2, row + 40)
    inside = (depth > 60) & (depth < shape[0] + 30) & (np.abs(angle) < 0.6)
    return np.where(inside, np.clip(tissue, 13, 255), 0).astype(np.uint8)


@pytest.fixture(scope="module")
def heart():
    return next(iter(frames.read(examples.get_path("ybr_color")))).image


@pytest.mark.parametrize("name", HARMLESS)
def test_a_harmless_change_leaves_a_near_duplicate(heart, name):
    for gray in (heart, fan(0)):
        assert near(signature(HARMLESS[name](gray)), signature(gray))


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_changes_of_real_frames_leave_near_duplicates(shared, name):
    for folder in ("hc18", "aul", "busi", "pocus_lung"):
        images = read(shared / "data" / "frames" / folder, 30)
        found = near(signatures(map(HARMLESS[name], images)), signatures(images))
        assert found.mean() > 0.95


def test_one_scanners_fan_does_not_make_its_patients_near_duplicates():
    many = signatures(fan(seed) for seed in range(60))
    pairs = np.array(list(itertools.combinations(range(60), 2)))
    bits = hamming(many.hash[pairs[:, 0]], many.hash[pairs[:, 1]])
    likeness = cosine(many.appearance[pairs[:, 0]], many.appearance[pairs[:, 1]])
    assert bits.min() > NEAR_HASH and likeness.max() < NEAR_COSINE
    assert abs(np.median(bits) - 128) < 6 and abs(np.median(likeness)) < 0.1


def test_one_scanners_women_in_hc18_are_not_near_duplicates(shared):
    many = signatures(read(shared / "data" / "frames" / "hc18", 4))
    first, second = np.triu_indices(len(many.hash), 1)
    one, other = (Signature(many.hash[rows], many.appearance[rows]) for rows in (first, second))
    assert near(one, other).sum() <= 1
    assert np.median(hamming(one.hash, other.hash)) > 120


def test_the_duplicates_that_busi_is_known_for_are_found(shared):
    many = signatures(read(shared / "data" / "frames" / "busi", 1))
    likeness = unit(many.appearance) @ unit(many.appearance).T
    first, second = np.nonzero(np.triu(likeness >= NEAR_COSINE, 1))
    found = (hamming(many.hash[first], many.hash[second]) <= NEAR_HASH).sum()
    assert 150 < found < 250


@pytest.mark.parametrize("shape", [(240, 320), (256, 256), (151, 333)])
def test_the_mirrored_signature_is_that_of_the_mirrored_frame(shape):
    for seed in range(5):
        gray = fan(seed, shape)
        direct, derived = signature(np.ascontiguousarray(gray[:, ::-1])), mirrored(signature(gray))
        assert hamming(direct.hash, derived.hash) <= 2
        assert cosine(direct.appearance, derived.appearance) > 0.999
        assert not near(derived, signature(gray))


def test_mirroring_twice_gives_the_signature_back():
    many = signatures(fan(seed) for seed in range(3))
    twice = mirrored(mirrored(many))
    assert np.array_equal(twice.hash, many.hash) and np.array_equal(twice.appearance, many.appearance)


def test_what_the_mask_excludes_does_not_count():
    gray = fan(1)
    mask = gray > 0
    screen = np.random.default_rng(2).integers(0, 256, (12, 16)).repeat(20, axis=0).repeat(20, axis=1)
    dirty = np.where(mask, gray, screen).astype(np.uint8)
    assert near(signature(dirty, mask), signature(gray, mask))
    assert not near(signature(dirty), signature(gray))


@pytest.mark.parametrize("level", [0, 3, 99, 255])
def test_a_frame_without_contrast_is_near_nothing_not_even_itself(level):
    flat = signature(np.full((40, 60), level, np.uint8))
    assert not flat.appearance.any()
    assert not near(flat, flat)


def test_hash_and_appearance_are_the_two_halves_of_a_signature(heart):
    both = signature(heart)
    assert both.hash.shape == (32,) and both.hash.dtype == np.uint8
    assert both.appearance.shape == (256,) and both.appearance.dtype == np.int8


def test_many_signatures_are_those_of_each_frame():
    images = [fan(seed, (100 + seed, 130)) for seed in range(3)]
    many = signatures(images)
    assert all(np.array_equal(many.hash[i], signature(image).hash) for i, image in enumerate(images))
    assert [part.shape for part in signatures([])] == [(0, 32), (0, 256)]


def test_hamming_counts_bits_and_broadcasts():
    rng = np.random.default_rng(3)
    first, second = rng.integers(0, 256, (4, 1, 32), np.uint8), rng.integers(0, 256, (5, 32), np.uint8)
    expected = np.unpackbits(first ^ second, axis=-1).sum(axis=-1)
    assert np.array_equal(hamming(first, second), expected)


def test_eight_bits_keep_the_cosine():
    rng = np.random.default_rng(4)
    a, b = rng.integers(-127, 128, (2, 50, 256)).astype(np.int8)
    x, y = a.astype(float), b.astype(float)
    expected = (x * y).sum(axis=1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
    assert np.allclose(cosine(a, b), expected, atol=1e-6)
