"""Near-duplicates: the search finds every pair that comparing all with all finds, and the right frame stays."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sonodistill_training.corpus import duplicates
from sonodistill_training.corpus.duplicates import (
    NearPairs,
    bench_near_duplicates,
    clusters,
    find_duplicates,
    keep_one,
    near_pairs,
)
from sonodistill_training.corpus.signatures import NEAR_COSINE, NEAR_HASH, cosine, hamming, mirrored, signatures


def drifting(n: int, seed: int) -> tuple[NDArray[np.uint8], NDArray[np.int8]]:
    """Sweeps with near frames at every distance, some equal ones and some without contrast."""
    rng = np.random.default_rng(seed)
    hashes, vectors = duplicates._sweeps(rng, n)
    equal = rng.integers(0, n, (2, n // 10))
    hashes[equal[1]], vectors[equal[1]] = hashes[equal[0]], vectors[equal[0]]
    blank = rng.integers(0, n, n // 20)
    hashes[blank], vectors[blank] = 0, 0
    return hashes, vectors


def compare_all(hashes, vectors, other_hashes, other_vectors, bits, least) -> NDArray[np.int64]:
    distance = hamming(hashes[:, None], other_hashes[None])
    similar = cosine(vectors[:, None], other_vectors[None])
    return np.argwhere((distance <= bits) & (similar >= least))


@pytest.mark.parametrize(("bits", "least"), [(NEAR_HASH, NEAR_COSINE), (15, 0.98), (0, 0.999), (90, 0.5), (72, 0.0)])
def test_the_pairs_are_those_of_comparing_all_with_all(bits, least):
    hashes, vectors = drifting(400, seed=1)
    found = near_pairs(hashes, vectors, bits=bits, cosine=least)
    every = compare_all(hashes, vectors, hashes, vectors, bits, least)
    assert len(found) > 20
    np.testing.assert_array_equal(found.rows(), every[every[:, 0] < every[:, 1]])


def test_distances_and_cosines_are_those_of_the_signatures():
    hashes, vectors = drifting(1000, seed=2)
    found = near_pairs(hashes, vectors)
    np.testing.assert_array_equal(found.bits, hamming(hashes[found.first], hashes[found.second]))
    np.testing.assert_allclose(found.cosine, cosine(vectors[found.first], vectors[found.second]), atol=1e-5)


def test_two_sets_are_compared_row_with_row():
    hashes, vectors = drifting(900, seed=3)
    other = (hashes[500:], vectors[500:])
    found = near_pairs(hashes[:600], vectors[:600], other=other)
    np.testing.assert_array_equal(
        found.rows(), compare_all(hashes[:600], vectors[:600], *other, NEAR_HASH, NEAR_COSINE)
    )


@pytest.mark.parametrize(("n", "m"), [(0, 0), (1, 0), (0, 3), (1, 1)])
def test_few_frames_or_none_are_no_special_case(n, m):
    hashes, vectors = drifting(20, seed=4)
    assert len(near_pairs(hashes[:n], vectors[:n])) == 0
    assert len(near_pairs(hashes[:n], vectors[:n], other=(hashes[:m], vectors[:m]))) == min(n, m)
    assert len(find_duplicates(hashes[:n], vectors[:n])) == n


def test_signatures_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(3, 32\)"):
        near_pairs(np.zeros((3, 32), np.uint8), np.zeros((2, 256), np.int8))


def test_popcount_without_numpy_2_is_the_same(monkeypatch):
    hashes, vectors = drifting(500, seed=5)
    expected = near_pairs(hashes, vectors)
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    np.testing.assert_array_equal(near_pairs(hashes, vectors).bits, expected.bits)


def test_thousands_of_equal_frames_leave_one_without_a_list_of_their_pairs():
    hashes, vectors = drifting(30, seed=6)
    some = np.flatnonzero(vectors.any(axis=1))[:1]
    hashes, vectors = np.repeat(hashes[some], 60_000, axis=0), np.repeat(vectors[some], 60_000, axis=0)
    priority = np.zeros(60_000)
    priority[41_234] = 1
    assert set(find_duplicates(hashes, vectors, priority).tolist()) == {41_234}


def test_frames_without_contrast_are_no_duplicates():
    assert keep_one(find_duplicates(np.zeros((50, 32), np.uint8), np.zeros((50, 256), np.int8))).all()


def pairs_of(edges: list[tuple[int, int]]) -> NearPairs:
    rows = np.array(sorted({(min(edge), max(edge)) for edge in edges}), np.int64).reshape(-1, 2)
    return NearPairs(rows[:, 0], rows[:, 1], np.zeros(len(rows), np.uint16), np.ones(len(rows), np.float32))


graphs = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)).filter(lambda edge: edge[0] != edge[1]))


@settings(max_examples=200, deadline=None)
@given(graphs, st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_each_frame_left_out_is_near_its_stand_in_and_no_two_that_stay_are_near(edges, priority):
    near = {frozenset(edge) for edge in edges}
    stands = clusters(pairs_of(edges), 12, priority)
    kept = np.flatnonzero(keep_one(stands)).tolist()
    assert all(frozenset((row, stand)) in near for row, stand in enumerate(stands.tolist()) if row != stand)
    assert not any(frozenset((a, b)) in near for a in kept for b in kept)
    assert all((-priority[stand], stand) < (-priority[row], row) for row, stand in enumerate(stands) if row != stand)


def test_the_ends_of_a_chain_both_stay():
    sweep = pairs_of([(0, 1), (1, 2), (2, 3), (3, 4)])
    assert clusters(sweep, 5).tolist() == [0, 0, 2, 2, 4]
    assert clusters(sweep, 5, [0, 9, 0, 0, 0]).tolist() == [1, 1, 1, 3, 3]


def test_equal_frames_collapsed_first_give_the_clusters_of_all_pairs():
    hashes, vectors = drifting(1200, seed=7)
    priority = np.random.default_rng(0).integers(0, 5, 1200)
    expected = clusters(near_pairs(hashes, vectors), 1200, priority)
    np.testing.assert_array_equal(find_duplicates(hashes, vectors, priority), expected)


def test_the_order_of_frames_does_not_matter_where_priorities_differ():
    hashes, vectors = drifting(800, seed=8)
    order = np.random.default_rng(1).permutation(800)
    priority = np.random.default_rng(2).permutation(800)
    kept = keep_one(find_duplicates(hashes, vectors, priority))
    np.testing.assert_array_equal(
        keep_one(find_duplicates(hashes[order], vectors[order], priority[order])), kept[order]
    )


def test_every_planted_copy_is_found_in_the_benchmark():
    result = bench_near_duplicates(n=6_000, seed=3)
    assert result["found"] == result["planted"] == 300
    assert result["kept"] < 6_000


@pytest.mark.slow
def test_162000_signatures_are_searched_within_two_minutes_and_2_gb():
    result = bench_near_duplicates()
    assert result["found"] == result["planted"]
    assert result["seconds"] < 120
    assert result["peak_mb"] < 2000


def test_different_real_data_sets_share_no_frame_and_clips_shrink(shared):
    import cv2

    found = {}
    for name in ("busi", "aul", "pocus_lung"):
        with (shared / "data" / "frames" / name / "index.csv").open() as file:
            rows = list(csv.DictReader(file))
        images = [cv2.imread(str(shared / "data" / "frames" / row["file"]), cv2.IMREAD_GRAYSCALE) for row in rows[::5]]
        found[name] = signatures(images)
    turned = mirrored(found["busi"])
    for other in ("aul", "pocus_lung"):
        assert len(near_pairs(*found[other], other=found["busi"])) == 0
        assert len(near_pairs(*found[other], other=turned)) == 0
    clips, stills = (keep_one(find_duplicates(*found[name])).mean() for name in ("pocus_lung", "aul"))
    assert clips < 0.8 < 0.95 < stills
