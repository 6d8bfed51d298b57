"""Which frames are chosen: covering, typical, unsure, unlike each other, and not twenty of one cine."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from sonodistill.annotate.acquire.cluster import SAMPLE, clusters, typicality
from sonodistill.annotate.acquire.pool import Pool, prepare
from sonodistill.annotate.acquire.strategies import ENOUGH, STRATEGIES, select
from sonodistill.annotate.acquire.taken import Limits, Taken, brought_up
from sonodistill.annotate.errors import UnknownIdError

NONE = np.zeros(0, np.int64)


def blobs(sizes: tuple[int, ...], width: int = 32, spread: float = 0.05, seed: int = 0) -> NDArray[np.float32]:
    """Points around as many centres, one after the other."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((len(sizes), width))
    parts = [
        centre + spread * generator.standard_normal((size, width)) for centre, size in zip(centres, sizes, strict=True)
    ]
    return np.concatenate(parts).astype(np.float32)


def stills(vectors: NDArray[np.float32], uncertainty: NDArray[np.float32] | None = None) -> Pool:
    return Pool(prepare(vectors), np.arange(len(vectors)), np.zeros(len(vectors), np.int64), uncertainty)


def cines(clips: int = 40, frames: int = 50, *, blind: bool = False, seed: int = 0) -> Pool:
    """Clips of nearly identical frames; clip 0 is the one that a model is least sure of, all through."""
    generator = np.random.default_rng(seed)
    of_clip = generator.standard_normal((clips, 64)).repeat(frames, axis=0)
    vectors = of_clip + 0.02 * generator.standard_normal((clips * frames, 64))
    items = np.arange(clips).repeat(frames)
    unsure = (0.2 * generator.random(clips * frames) + 0.7 * (items == 0)).astype(np.float32)
    return Pool(prepare(vectors), items, np.tile(np.arange(frames), clips), None if blind else unsure)


def rows(strategy: str, pool: Pool, labelled: NDArray[np.int64] = NONE, n: int = 1, seed: int = 0) -> list[int]:
    left = np.setdiff1d(np.arange(len(pool)), labelled)
    return [pick.row for pick in select(strategy, pool, labelled, left, n, seed=seed)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_choice_follows_from_the_seed_and_holds_no_frame_twice(strategy):
    pool = stills(blobs((20, 30, 10)), np.random.default_rng(1).random(60, np.float32))
    labelled = np.arange(0, 60, 7)
    first = rows(strategy, pool, labelled, 12, seed=5)
    assert first == rows(strategy, pool, labelled, 12, seed=5)
    assert len(set(first)) == 12 and not set(first) & set(labelled.tolist())
    assert sorted(rows(strategy, pool, labelled, 1000)) == sorted(set(range(60)) - set(labelled.tolist()))


def test_only_candidates_are_chosen_and_an_unknown_strategy_is_refused():
    pool = stills(blobs((10,)))
    assert {pick.row for pick in select("kcenter", pool, NONE, np.array([2, 5]), 9)} == {2, 5}
    assert select("auto", pool, NONE, NONE, 3) == []
    with pytest.raises(UnknownIdError, match="no strategy 'best'"):
        select("best", pool, NONE, NONE)


def test_first_goes_by_order_and_random_by_seed():
    pool = stills(blobs((50,)))
    assert rows("first", pool, np.array([0, 2]), 3) == [1, 3, 4]
    assert rows("random", pool, n=10, seed=1) != rows("random", pool, n=10, seed=2)
    drawn = Counter(row for seed in range(200) for row in rows("random", pool, n=5, seed=seed))
    assert len(drawn) == 50 and max(drawn.values()) < 50, "each has the same chance"


def test_kcenter_leaves_no_frame_farther_than_twice_the_best_possible():
    pool = stills(np.random.default_rng(0).standard_normal((12, 3)).astype(np.float32))
    chosen = rows("kcenter", pool, n=3)

    def radius(of: tuple[int, ...]) -> float:
        return float(brought_up(None, pool, np.array(of), Limits()).distance.max())

    best = min(radius(some) for some in itertools.combinations(range(12), 3))
    assert radius(tuple(chosen)) <= 2 * best + 1e-6


def test_kcenter_begins_in_the_middle_and_covers_what_is_not_labelled():
    pool = stills(blobs((30, 30, 30)))
    first, *_ = rows("kcenter", pool)
    assert pool.embeddings[first] @ pool.embeddings.mean(axis=0) == pytest.approx(
        (pool.embeddings @ pool.embeddings.mean(axis=0)).max()
    )
    chosen = rows("kcenter", pool, np.array([3]), 2)
    assert {row // 30 for row in chosen} == {1, 2}


def test_typicality_takes_one_of_each_group_and_no_outlier():
    outliers = np.random.default_rng(9).standard_normal((4, 32)).astype(np.float32)
    pool = stills(np.concatenate([blobs((60, 40, 30)), outliers]))
    groups = np.repeat([0, 1, 2, 3], [60, 40, 30, 4])
    assert sorted(groups[rows("typicality", pool, n=3)]) == [0, 1, 2]
    assert (groups[rows("kcenter", pool, n=7)] == 3).sum() == 4, "the core-set goes for outliers"
    assert groups[rows("typicality", pool, np.array([0, 61]), 1)].tolist() == [2], "what has a label already waits"


def test_uncertainty_takes_what_is_least_sure_and_random_before_there_is_a_model():
    unsure = np.linspace(0, 1, 40).astype(np.float32)
    unsure[39] = np.nan
    pool = stills(blobs((20, 20)), unsure)
    assert rows("uncertainty", pool, n=3) == [38, 37, 36]
    assert select("uncertainty", pool, NONE, np.arange(40), 1)[0].why.startswith("the model is unsure")
    blind = stills(blobs((20, 20)))
    assert rows("uncertainty", blind, n=3) == rows("random", blind, n=3)
    unknown = stills(blobs((20, 20)), np.full(40, np.nan, np.float32))
    assert rows("uncertainty_diversity", unknown, n=3) == rows("random", blind, n=3)


def test_uncertainty_diversity_takes_unsure_frames_that_are_not_alike():
    unsure = np.concatenate([np.full(30, 0.9), np.full(30, 0.8), np.full(200, 0.1)]).astype(np.float32)
    pool = stills(blobs((30, 30, 200)), unsure)
    assert {row // 30 for row in rows("uncertainty", pool, np.array([100]), 4)} == {0}
    chosen = rows("uncertainty_diversity", pool, np.array([100]), 4)
    assert {row // 30 for row in chosen[:2]} == {0, 1} and max(chosen) < 60


def test_spread_draws_files_and_is_random_where_each_has_one_frame():
    pool = stills(blobs((20, 20)))
    assert rows("spread", pool, np.array([3]), 9, seed=4) == rows("random", pool, np.array([3]), 9, seed=4)
    items = np.concatenate([np.zeros(200, np.int64), np.arange(1, 10)])  # a cine of 200 frames and nine stills
    mixed = Pool(prepare(blobs((200, *[1] * 9))), items, np.concatenate([np.arange(200), np.zeros(9, np.int64)]))
    first = [rows("spread", mixed, seed=seed)[0] for seed in range(300)]
    of_cine = [row for row in first if row < 200]
    assert 10 < len(of_cine) < 60, "a tenth, as of every file"
    assert len(set(of_cine)) > 8, "and any frame of it"
    assert sum(rows("random", mixed, seed=seed)[0] < 200 for seed in range(300)) > 270


def test_auto_goes_from_typical_to_unsure_when_enough_is_labelled():
    pool = stills(blobs((30, 30, 30)), np.random.default_rng(3).random(90, np.float32))
    few, enough = np.arange(ENOUGH - 1), np.arange(ENOUGH)
    assert rows("auto", pool, few, 5) == rows("typicality", pool, few, 5)
    assert rows("auto", pool, enough, 5) == rows("uncertainty_diversity", pool, enough, 5)
    blind = stills(blobs((30, 30, 30)))
    assert rows("auto", blind, enough, 5) == rows("typicality", blind, enough, 5)


@pytest.mark.parametrize(
    "strategy", ["spread", "kcenter", "typicality", "uncertainty", "uncertainty_diversity", "auto"]
)
def test_a_batch_is_spread_over_cines(strategy):
    pool = cines()
    labelled = np.array([50, 75, 120]) if strategy != "auto" else np.arange(50, 50 + 45 * 50, 100)[:ENOUGH]
    items = pool.items[rows(strategy, pool, labelled, 20)]
    assert max(Counter(items.tolist()).values()) <= 4, "a fifth of a batch at most"
    assert len(set(items.tolist())) >= 10


def test_without_it_the_least_sure_cine_would_fill_the_batch():
    pool = cines()
    alone = Pool(pool.embeddings, np.arange(len(pool)), np.zeros(len(pool), np.int64), pool.uncertainty)
    assert set(pool.items[rows("uncertainty", alone, n=20)]) == {0}
    assert len(set(pool.items[rows("uncertainty", pool, n=20)])) > 10


def test_labels_of_the_same_number_tell_more_of_the_clips_than_random_ones():
    pool = cines(blind=True)
    seen = {
        s: len(set(pool.items[rows(s, pool, n=20)].tolist()))
        for s in ("random", "spread", "typicality", "kcenter", "auto")
    }
    assert seen["spread"] == seen["typicality"] == seen["kcenter"] == seen["auto"] == 20 > seen["random"]


def test_frames_near_a_labelled_one_of_their_cine_wait_in_time_and_in_looks():
    generator = np.random.default_rng(0)
    vectors = generator.standard_normal((100, 64)).astype(np.float32)  # of one cine, none like another
    vectors[90] = vectors[0] + 0.01  # but for a heart that is back in the same phase
    unsure = np.full(100, 0.5, np.float32)
    unsure[[1, 90]] = 1
    pool = Pool(prepare(vectors), np.zeros(100, np.int64), np.arange(100), unsure)
    found = rows("uncertainty", pool, np.array([0]), 1)
    assert found not in ([1], [90]) and found[0] >= 10
    assert rows("uncertainty", stills(vectors, unsure), np.array([0]), 1) == [1], "two patients may look alike"


def test_one_cine_alone_is_labelled_all_the_same():
    pool = cines(clips=1, frames=30)
    chosen = rows("uncertainty", pool, n=5)
    gaps = np.diff(sorted(chosen))
    assert len(chosen) == 5 and gaps.min() >= 2
    assert len(rows("typicality", pool, np.arange(29), 5)) == 1


def test_limits_are_a_choice():
    pool = cines()
    left = np.arange(len(pool))
    free = Limits(span=1, alike=1e-6, least=0, share=1)
    assert set(pool.items[[pick.row for pick in select("uncertainty", pool, NONE, left, 20, limits=free)]]) == {0}


def test_what_is_taken_is_kept_up_as_labels_come_and_go():
    pool = cines(clips=12)
    some = np.arange(0, 600, 2)
    kept = brought_up(None, pool, some[:100], Limits())
    grown, anew = brought_up(kept, pool, some, Limits()), Taken(pool, Limits())
    anew.add(some)
    assert grown.rows == anew.rows == set(some.tolist()) and kept.rows == set(some[:100].tolist())
    np.testing.assert_allclose(grown.distance, anew.distance, atol=1e-5)
    np.testing.assert_array_equal(grown.novelty, anew.novelty)
    fewer = brought_up(grown, pool, some[:5], Limits())
    exact = np.linalg.norm(pool.embeddings[:, None] - pool.embeddings[some[:5]], axis=2).min(axis=1)
    np.testing.assert_allclose(fewer.distance, exact, atol=2e-3)
    assert fewer.novelty[50:].min() == 1 and fewer.novelty[:10].max() < 1
    left = np.setdiff1d(np.arange(600), some)
    first, second = (select("kcenter", pool, some, left, 9, taken=given) for given in (None, kept))
    assert [pick.row for pick in first] == [pick.row for pick in second]


def test_embeddings_are_compared_about_their_mean():
    vectors = 100 + np.random.default_rng(0).standard_normal((50, 8))
    made = prepare(vectors)
    assert made.dtype == np.float32 and np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5)
    assert (made @ made.T)[np.triu_indices(50, 1)].min() < -0.5, "not all of them point the same way"
    assert np.isfinite(prepare(np.ones((3, 4)))).all() and len(prepare(np.zeros((0, 4)))) == 0


def test_wide_embeddings_keep_their_distances():
    vectors = np.random.default_rng(0).standard_normal((40, 2048)) @ np.diag(np.linspace(0.1, 3, 2048))
    narrow = prepare(vectors)
    assert narrow.shape == (40, 512)
    centred = vectors - vectors.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    wide = np.linalg.norm(centred[:, None] - centred, axis=2)[np.triu_indices(40, 1)]
    found = np.linalg.norm(narrow[:, None] - narrow, axis=2)[np.triu_indices(40, 1)]
    assert np.abs(found / wide - 1).max() < 0.2 and np.abs(found / wide - 1).mean() < 0.05


def test_clusters_find_groups_in_many_frames():
    sizes = (SAMPLE, 600, 300)
    number = clusters(prepare(blobs(sizes)), 3, np.random.default_rng(0))
    groups = np.repeat(range(3), sizes)
    assert len({(group, cluster) for group, cluster in zip(groups.tolist(), number.tolist(), strict=True)}) == 3
    assert set(clusters(np.ones((5, 3), np.float32), 5, np.random.default_rng(0))) <= set(range(5))


def test_the_middle_of_a_group_is_most_typical():
    points = prepare(np.stack([np.cos(np.linspace(0, 1, 41)), np.sin(np.linspace(0, 1, 41))], axis=1) + 0.0)
    members, typical = typicality(points, np.arange(41), np.random.default_rng(0))
    assert len(members) == 41 and typical[0] < typical.max() and typical[40] < typical.max()
    assert typicality(points, np.array([7]), np.random.default_rng(0))[0].tolist() == [7]
