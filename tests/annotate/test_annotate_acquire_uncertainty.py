"""How unsure the ensemble is: of what it has not seen, not of what it has."""

from __future__ import annotations

import numpy as np
import pytest

from sonodistill.annotate.acquire.features import CHANNELS, GRID, pooled, summarise
from sonodistill.annotate.acquire.uncertainty import MEMBERS, Ensemble, cell_targets

CELLS = GRID * GRID


def frames(count: int, kind: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Maps (n, 49, 24) and targets (n, 49, 1): a structure shows in a feature that depends on the kind of frame."""
    generator = np.random.default_rng(seed)
    inside = generator.random((count, CELLS, 1)) < 0.3
    maps = 0.1 * generator.standard_normal((count, CELLS, 24))
    maps[..., kind] += inside[..., 0]
    maps[..., 12 + kind] += 1.0
    return maps.astype(np.float32), inside.astype(np.float32)


def test_a_mask_is_its_share_of_each_cell():
    mask = np.zeros((70, 140), np.uint8)
    mask[:10, :20] = 1
    mask[10:15, 20:40] = 2
    shares = cell_targets(mask, 3, (7, 7)).reshape(7, 7, 3)
    assert shares[0, 0].tolist() == [1, 0, 0] and shares[1, 1].tolist() == [0, 0.5, 0]
    assert shares.sum() == pytest.approx(1.5) and shares.dtype == np.float32


def test_it_learns_what_is_where():
    maps, targets = frames(20, 0, 0)
    more, truth = frames(5, 0, 1)
    said = Ensemble.fit(maps, targets, [str(at) for at in range(20)]).predict(more)
    assert said.shape == (MEMBERS, 5, CELLS, 1) and said.min() >= 0 and said.max() <= 1
    assert ((said.mean(axis=0) > 0.5) == (truth > 0)).mean() > 0.98


def test_it_is_less_sure_of_frames_of_a_kind_with_few_labels():
    known, targets = frames(30, 0, 0)
    rare, rare_targets = frames(2, 1, 1)
    groups = [f"known {at}" for at in range(30)] + ["rare 0", "rare 1"]
    ensemble = Ensemble.fit(np.concatenate([known, rare]), np.concatenate([targets, rare_targets]), groups)
    sure, unsure = ensemble.score(frames(20, 0, 2)[0]), ensemble.score(frames(20, 1, 3)[0])
    assert unsure.min() > sure.max() and sure.min() >= 0 and unsure.max() <= 1


def test_frames_of_one_patient_are_drawn_together():
    maps, targets = frames(12, 0, 0)
    alone = Ensemble.fit(maps, targets, ["p"] * 12)
    said = alone.predict(maps)
    assert np.ptp(said, axis=0).max() < 1e-4, "with one patient every member sees the same"
    several = Ensemble.fit(maps, targets, [f"p{at // 3}" for at in range(12)])
    assert np.ptp(several.predict(maps), axis=0).max() > 1e-4


def test_it_follows_from_the_seed_and_reads_half_precision():
    maps, targets = frames(10, 0, 0)
    groups = [str(at) for at in range(10)]
    first = Ensemble.fit(maps.astype(np.float16), targets, groups, seed=3).score(maps.astype(np.float16))
    again = Ensemble.fit(maps.astype(np.float16), targets, groups, seed=3).score(maps.astype(np.float16))
    np.testing.assert_array_equal(first, again)
    assert (first != Ensemble.fit(maps, targets, groups, seed=4).score(maps)).any()


def test_several_labels_are_learnt_side_by_side():
    maps, one = frames(20, 0, 0)
    targets = np.concatenate([one, 1 - one], axis=2)
    said = Ensemble.fit(maps, targets, [str(at) for at in range(20)]).predict(maps).mean(axis=0)
    assert said.shape == (20, CELLS, 2) and np.abs(said.sum(axis=2) - 1).mean() < 0.05


def test_cells_are_means_over_equal_areas():
    level = np.arange(2 * 3 * 14 * 21, dtype=np.float32).reshape(2, 3, 14, 21)
    np.testing.assert_allclose(pooled(level), level.reshape(2, 3, 7, 2, 7, 3).mean(axis=(3, 5)), rtol=1e-5)
    uneven = pooled(np.random.default_rng(0).random((1, 2, 9, 5)).astype(np.float32))
    assert uneven.shape == (1, 2, GRID, GRID)
    np.testing.assert_allclose(pooled(np.full((1, 1, 16, 8), 3, np.float32)), 3, rtol=1e-5)


def test_a_frame_is_kept_as_a_vector_and_a_map():
    generator = np.random.default_rng(0)
    fine, coarse = generator.random((2, 256, 14, 14)), generator.random((2, 512, 7, 7))
    vectors, maps = summarise([fine, coarse])
    assert vectors.shape == (2, 512) and maps.shape == (2, CELLS, CHANNELS) and maps.dtype == np.float32
    np.testing.assert_allclose(vectors, coarse.mean(axis=(2, 3)), rtol=1e-5)
    _, louder = summarise([100 * fine, coarse])
    np.testing.assert_allclose(maps, louder, rtol=1e-3, atol=1e-4)
    assert summarise([generator.random((1, 20, 4, 4))])[1].shape == (1, CELLS, 20)
