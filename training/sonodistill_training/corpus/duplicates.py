"""Near-duplicate frames: every pair of signatures within a Hamming distance and a cosine, and which frame stays."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_limits

from sonodistill_training.corpus.signatures import APPEARANCE_SIZE, HASH_BYTES, NEAR_COSINE, NEAR_HASH, unit

_PROJECTED = 31  # components: with the length of the rest, 32 floats a row
_SLACK = 1e-4  # more than single precision loses in a product of 32 terms
_TILE = (128, 1024)  # products at a time: half a megabyte, which stays in a core's cache until it is compared
_COSINE_BLOCK = 1 << 13  # pairs whose vectors are multiplied together
_WORKERS = 2

Hashes = NDArray[np.uint8]
Vectors = NDArray[np.int8]


@dataclass(frozen=True, slots=True)
class NearPairs:
    """Pairs of rows, sorted by ``first`` and then ``second``.

    Attributes:
        first: (P,) int64 row of the signatures; smaller than ``second`` unless two sets were compared.
        second: (P,) int64 row of the same signatures, or of the other ones.
        bits: (P,) uint16 Hamming distance of the hashes.
        cosine: (P,) float32 of the appearance vectors.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    bits: NDArray[np.uint16]
    cosine: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.first)

    def rows(self) -> NDArray[np.int64]:
        """(P, 2) int64."""
        return np.stack([self.first, self.second], axis=1)


def near_pairs(
    hashes: Hashes,
    vectors: Vectors,
    *,
    other: tuple[Hashes, Vectors] | None = None,
    bits: int = NEAR_HASH,
    cosine: float = NEAR_COSINE,
) -> NearPairs:
    """Every pair with a Hamming distance <= ``bits`` and a cosine >= ``cosine``; none is missed.

    Banding the hashes would not do: with 48 of 256 bits allowed to differ, only bands of 5 bits are certain to agree,
    and each of their buckets holds a 32nd of all frames. The cosine rules out far more, and cheaply: with unit vectors
    split into a few principal components and the rest, u = a + r and v = b + s, Cauchy and Schwarz give
    u.v <= a.b + |r||s|, a product of short vectors (a, |r|) and (b, |s|). All pairs are put to that bound, those that
    pass to the hash and then to the cosine itself. Time grows with N^2 (about 1 ns a pair), memory with N.

    Rows with one and the same signature are compared once; their pairs are listed all the same, k * (k - 1) / 2 for k
    equal rows: where that may be large, :func:`find_duplicates` does without the list.

    Args:
        hashes: (N, 32) uint8.
        vectors: (N, 256) int8. A vector of zeros (a frame without contrast) has a cosine of 0 with every other.
        other: hashes and vectors of a second set; then pairs are (row of the first set, row of the second).

    Raises:
        ValueError: the shapes do not fit.
    """
    left, left_of = _distinct(hashes, vectors)
    if other is None:
        found = _search(hashes[left], vectors[left], None, None, bits, cosine)
        itself = np.flatnonzero(np.bincount(left_of, minlength=len(left)) > 1)
        found = NearPairs(
            np.concatenate([found.first, itself]),
            np.concatenate([found.second, itself]),
            np.concatenate([found.bits, np.zeros(len(itself), np.uint16)]),
            np.concatenate([found.cosine, np.ones(len(itself), np.float32)]),
        )
        return _spread(found, left_of, left_of, within=True)
    right, right_of = _distinct(*other)
    found = _search(hashes[left], vectors[left], other[0][right], other[1][right], bits, cosine)
    return _spread(found, left_of, right_of, within=False)


def clusters(pairs: NearPairs, n: int, priority: ArrayLike | None = None) -> NDArray[np.int64]:
    """(N,) int64: the row that stands for each row, itself where it stays.

    Rows are taken by priority, the largest first, among equals the earlier row. A row that nothing stands for yet stays
    and then stands for its near rows. So every row left out is near the one that stands for it, and no two rows that
    stay are near each other. Of a chain A ~ B ~ C with A and C apart, C stays where A does. Following chains instead
    would keep one frame of a slow sweep, whose ends show different anatomy.
    """
    ranking = _ranking(n, priority)
    near = np.concatenate([pairs.second, pairs.first])
    source = np.concatenate([pairs.first, pairs.second])
    order = np.argsort(source, kind="stable")
    near, start = near[order], np.searchsorted(source[order], np.arange(n + 1))
    standing = np.full(n, -1, np.int64)
    for row in ranking[np.diff(start)[ranking] > 0].tolist():
        if standing[row] < 0:
            standing[row] = row
            around = near[start[row] : start[row + 1]]
            standing[around[standing[around] < 0]] = row
    return np.where(standing < 0, np.arange(n), standing)


def keep_one(clusters: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(N,) bool: the rows that stand for themselves."""
    return clusters == np.arange(len(clusters))


def find_duplicates(
    hashes: Hashes,
    vectors: Vectors,
    priority: ArrayLike | None = None,
    *,
    bits: int = NEAR_HASH,
    cosine: float = NEAR_COSINE,
) -> NDArray[np.int64]:
    """(N,) int64: :func:`clusters` of :func:`near_pairs`, in memory that does not grow with the square of equal rows.

    Args:
        priority: (N,) the row with the larger one stays, say ``labelled * 2**40 + pixels``; among equals the earlier.
    """
    n = len(hashes)
    _, group = _distinct(hashes, vectors)
    ranking = _ranking(n, priority)
    # The best row of each group of equal signatures, in the groups' order.
    _, at = np.unique(group[ranking], return_index=True)
    best = ranking[at]
    place = np.empty(n, np.int64)
    place[ranking] = np.arange(n)
    pairs = _search(hashes[best], vectors[best], None, None, bits, cosine)
    return best[clusters(pairs, len(best), -place[best])[group]]


def _ranking(n: int, priority: ArrayLike | None) -> NDArray[np.int64]:
    """Rows by falling priority, among equals by rising row."""
    if priority is None:
        return np.arange(n)
    values = np.asarray(priority)
    if values.shape != (n,):
        raise ValueError(f"priority has shape {values.shape}; ({n},) is needed")
    return n - 1 - np.argsort(values[::-1], kind="stable")[::-1]


def _distinct(hashes: Hashes, vectors: Vectors) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the different signatures (their first occurrence), and for each row the number of its signature.

    Rows without contrast count as different: they are like nothing, not even each other.
    """
    if hashes.shape[1:] != (HASH_BYTES,) or vectors.shape != (len(hashes), APPEARANCE_SIZE):
        raise ValueError(f"signatures are (N, 32) and (N, 256), not {hashes.shape} and {vectors.shape}")
    first: dict[bytes | int, int] = {}
    same = np.empty(len(hashes), np.int64)
    for row, some in enumerate(vectors.any(axis=1).tolist()):
        same[row] = first.setdefault(hashes[row].tobytes() + vectors[row].tobytes() if some else row, row)
    rows, of = np.unique(same, return_inverse=True)
    return rows, of.reshape(-1)


def _spread(pairs: NearPairs, left_of: NDArray[np.int64], right_of: NDArray[np.int64], *, within: bool) -> NearPairs:
    """Pairs of signatures -> pairs of the rows that have them."""
    left, left_start = np.argsort(left_of, kind="stable"), _starts(left_of)
    right, right_start = np.argsort(right_of, kind="stable"), _starts(right_of)
    wide = np.diff(right_start)[pairs.second]
    count = np.diff(left_start)[pairs.first] * wide
    pair = np.repeat(np.arange(len(pairs)), count)
    place = np.arange(len(pair)) - np.repeat(np.cumsum(count) - count, count)
    first = left[left_start[pairs.first][pair] + place // wide[pair]]
    second = right[right_start[pairs.second][pair] + place % wide[pair]]
    if within:
        # Of a signature with itself both orders and the diagonal come out; of two signatures either order.
        wanted = (pairs.first[pair] != pairs.second[pair]) | (first < second)
        pair, first, second = pair[wanted], first[wanted], second[wanted]
        first, second = np.minimum(first, second), np.maximum(first, second)
    order = np.lexsort((second, first))
    return NearPairs(first[order], second[order], pairs.bits[pair][order], pairs.cosine[pair][order])


def _starts(of: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(np.bincount(of))]).astype(np.int64)


def _search(
    hashes: Hashes, vectors: Vectors, other: Hashes | None, other_vectors: Vectors | None, bits: int, cosine: float
) -> NearPairs:
    """Near pairs of different signatures, in no order; first < second within one set."""
    within = other is None or other_vectors is None
    words = _words(hashes)
    others, other_vectors = (words, vectors) if within else (_words(other), other_vectors)
    if not len(words) or not len(others):
        return _NONE
    with threadpool_limits(1, "blas"):  # these products are too small to be shared among threads
        axes = _principal_axes(other_vectors)
        right = _project(other_vectors, axes)
        left = right if within else _project(vectors, axes)
    height, width = _TILE

    def columns(start: int) -> list[NearPairs]:
        """Near pairs whose second row is in ``start .. start + width``."""
        block = np.ascontiguousarray(right[start : start + width].T)
        bound = np.empty((height, block.shape[1]), np.float32)
        found = []
        for top in range(0, min(start + width, len(left)) if within else len(left), height):
            rows = left[top : top + height]
            product = np.matmul(rows, block, out=bound[: len(rows)])
            passed = np.flatnonzero(product.ravel() >= cosine - _SLACK)
            a, b = passed // block.shape[1] + top, passed % block.shape[1] + start
            if within:
                a, b = a[a < b], b[a < b]
            distance = _popcount(words[a] ^ others[b]).sum(axis=1, dtype=np.uint16)
            a, b, distance = a[distance <= bits], b[distance <= bits], distance[distance <= bits]
            similar = _cosine(vectors, other_vectors, a, b)
            near = similar >= cosine
            if near.any():
                found.append(NearPairs(a[near], b[near], distance[near], similar[near]))
        return found

    # The last columns have the most rows: first.
    with threadpool_limits(1, "blas"), ThreadPoolExecutor(_WORKERS) as pool:
        parts = [_NONE, *(part for some in pool.map(columns, range(0, len(right), width)[::-1]) for part in some)]
    return NearPairs(*(np.concatenate([getattr(part, name) for part in parts]) for name in NearPairs.__slots__))


_NONE = NearPairs(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, np.float32))


def _words(hashes: Hashes) -> NDArray[np.uint64]:
    """(N, 4) uint64."""
    return np.ascontiguousarray(hashes).view(np.uint64)


def _principal_axes(vectors: Vectors) -> NDArray[np.float32]:
    """(256, 31) float32: the directions that hold most of the vectors' length, from a sample."""
    sample = unit(vectors[:: max(1, len(vectors) // 8192)]).astype(np.float64)
    return np.linalg.eigh(sample.T @ sample)[1][:, : -_PROJECTED - 1 : -1].astype(np.float32)


def _project(vectors: Vectors, axes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, 32) float32: the components on the axes, and the length of what they leave of the unit vector."""
    result = np.empty((len(vectors), _PROJECTED + 1), np.float32)
    for start in range(0, len(vectors), _COSINE_BLOCK):
        part = slice(start, start + _COSINE_BLOCK)
        units = unit(vectors[part])
        result[part, :-1] = components = units @ axes
        rest = np.einsum("ij,ij->i", units, units) - np.einsum("ij,ij->i", components, components)
        result[part, -1] = np.sqrt(np.maximum(rest, 0))
    return result


def _popcount(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Bits set in each value."""
    if hasattr(np, "bitwise_count"):  # NumPy 2
        return np.bitwise_count(values)
    pairs, fours, eights, ones = (
        np.uint64(v) for v in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x0101010101010101)
    )
    values = values - ((values >> np.uint64(1)) & pairs)
    values = (values & fours) + ((values >> np.uint64(2)) & fours)
    values = (values + (values >> np.uint64(4))) & eights
    return ((values * ones) >> np.uint64(56)).astype(np.uint8)


def _cosine(vectors: Vectors, other: Vectors, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float32]:
    """(P,) float32, the same whatever the order and the blocks: sums of 256 int8 products are exact in float32."""
    result = np.empty(len(a), np.float32)
    for start in range(0, len(a), _COSINE_BLOCK):
        part = slice(start, start + _COSINE_BLOCK)
        u, v = vectors[a[part]].astype(np.float32), other[b[part]].astype(np.float32)
        dot, uu, vv = (np.einsum("ij,ij->i", x, y).astype(np.float64) for x, y in ((u, v), (u, u), (v, v)))
        result[part] = dot / np.sqrt(np.maximum(uu * vv, 1))  # integers: a product below 1 is that of a blank frame
    return result


def bench_near_duplicates(n: int = 162_000, seed: int = 0) -> dict[str, float]:
    """Time :func:`near_pairs` and :func:`clusters` on ``n`` made-up signatures: sweeps of 40 frames that drift.

    One row in 20 is a copy of another, with 0 to ``NEAR_HASH`` bits turned, and noise in its vector that leaves the
    cosine above ``NEAR_COSINE``.

    Returns:
        seconds; pairs; planted copies, and how many of those pairs were found; kept rows; peak_mb of the process.
    """
    import resource  # not on Windows

    rng = np.random.default_rng(seed)
    hashes, vectors = _sweeps(rng, n)
    first, second = rng.permutation(n)[: 2 * (n // 20)].reshape(2, -1)
    count = rng.integers(0, NEAR_HASH + 1, (len(first), 1))
    turned = np.argsort(rng.random((len(first), HASH_BYTES * 8)), axis=1) < count
    hashes[second] = hashes[first] ^ np.packbits(turned, axis=1)
    noisy = vectors[first] + rng.normal(0, 8, (len(first), APPEARANCE_SIZE))
    vectors[second] = np.clip(noisy, -127, 127).astype(np.int8)
    start = time.perf_counter()
    pairs = near_pairs(hashes, vectors)
    standing = clusters(pairs, n)
    seconds = time.perf_counter() - start
    planted = np.minimum(first, second) * n + np.maximum(first, second)
    return {
        "n": n,
        "seconds": seconds,
        "pairs": len(pairs),
        "planted": len(planted),
        "found": int(np.isin(planted, pairs.first * n + pairs.second).sum()),
        "kept": int(keep_one(standing).sum()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _sweeps(rng: np.random.Generator, n: int, length: int = 40, factors: int = 48) -> tuple[Hashes, Vectors]:
    """Signatures whose bits and pixels hang together, as in frames: few factors that drift along a sweep."""
    mixing = rng.normal(size=(2, factors, APPEARANCE_SIZE)).astype(np.float32)
    shared = rng.normal(0, 2, (2, APPEARANCE_SIZE)).astype(np.float32)
    hashes, vectors = np.empty((n, HASH_BYTES), np.uint8), np.empty((n, APPEARANCE_SIZE), np.int8)
    for start in range(0, n, length):
        part = slice(start, min(n, start + length))
        drift = rng.normal(0, 0.3, (part.stop - start, factors)).cumsum(axis=0) + rng.normal(size=factors)
        bits, pixels = (drift.astype(np.float32) @ mixing[i] + shared[i] for i in (0, 1))
        hashes[part] = np.packbits(bits > 0, axis=1)
        pixels -= pixels.mean(axis=1, keepdims=True)
        vectors[part] = np.round(pixels * (127 / np.abs(pixels).max(axis=1, keepdims=True))).astype(np.int8)
    return hashes, vectors
