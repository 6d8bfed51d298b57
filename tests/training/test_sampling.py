"""The endless orders: complete, seeded, in their shares, and the same for any number of processes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest

from sonodistill_training.sampling import BalancedShuffle, BlockShuffle, EndlessShuffle, StepBatches, uniform

CODES = [0] * 900 + [1] * 90 + [2] * 10
sizes_of_sets = st.lists(st.integers(1, 60), min_size=1, max_size=6)


def orders(seed):
    blocks = np.arange(1000) // 8
    return [
        EndlessShuffle(1000, seed),
        BlockShuffle(blocks, seed, window=4),
        BalancedShuffle(CODES, seed, 0.5),
        BalancedShuffle(CODES, seed, 0.5, blocks),
    ]


@given(length=st.integers(1, 50), seed=st.integers(0, 1000), epoch=st.integers(0, 5))
def test_every_epoch_holds_every_sample_once(length, seed, epoch):
    order = EndlessShuffle(length, seed)
    assert sorted(order[epoch * length + i] for i in range(length)) == list(range(length))


@given(sizes=sizes_of_sets, seed=st.integers(0, 1000), epoch=st.integers(0, 5))
def test_by_blocks_every_epoch_holds_every_sample_once(sizes, seed, epoch):
    blocks = np.repeat(np.arange(len(sizes)), sizes)
    assert sorted(BlockShuffle(blocks, seed, window=2).epoch(epoch)) == list(range(len(blocks)))


@given(window=st.integers(1, 7), seed=st.integers(0, 1000))
def test_by_blocks_a_window_is_finished_before_the_next_one_begins(window, seed):
    blocks = np.arange(300) // 10
    visited = blocks[BlockShuffle(blocks, seed, window).epoch(0)]
    for first in range(0, 300, 10 * window):
        assert len(set(visited[first : first + 10 * window])) == min(window, 30 - first // 10)


def test_by_blocks_frames_of_a_window_are_mixed():
    blocks = np.arange(1000) // 10
    visited = blocks[BlockShuffle(blocks, 0, window=10).epoch(0)]
    assert (np.diff(visited) == 0).mean() < 0.15  # a tenth by chance


@given(sizes=sizes_of_sets, alpha=st.floats(0, 1), seed=st.integers(0, 1000))
def test_data_sets_get_their_shares_of_every_epoch(sizes, alpha, seed):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    order = BalancedShuffle(codes, seed, alpha)
    exact = len(codes) * np.array(sizes) ** alpha / (np.array(sizes) ** alpha).sum()
    for epoch in (0, 3):
        dealt = np.bincount(codes[order.epoch(epoch)], minlength=len(sizes))
        assert dealt.sum() == len(codes) and (np.abs(dealt - exact) < 1).all()


@given(sizes=sizes_of_sets, alpha=st.floats(0, 1), blocks=st.booleans())
def test_no_sample_of_a_data_set_comes_again_before_all_others_have_come(sizes, alpha, blocks):
    codes = np.repeat(np.arange(len(sizes)), sizes)
    order = BalancedShuffle(codes, 5, alpha, np.arange(len(codes)) // 4 if blocks else None)
    sequence = order.span(0, 3 * len(codes))
    for code, size in enumerate(sizes):
        visits = sequence[codes[sequence] == code]
        for first in range(0, len(visits) - size + 1, size):
            assert len(set(visits[first : first + size].tolist())) == size


def test_alpha_1_is_every_sample_once_and_alpha_0_the_same_share_for_all():
    assert sorted(BalancedShuffle(CODES, 0, 1.0).epoch(2)) == list(range(1000))
    assert BalancedShuffle(CODES, 0, 0.0).shares.tolist() == [334, 333, 333]


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_other_powers_are_refused(alpha):
    with pytest.raises(ValueError, match="alpha"):
        BalancedShuffle(CODES, 0, alpha)


@pytest.mark.parametrize("kind", range(4))
def test_an_order_is_a_function_of_seed_and_position(kind):
    whole = orders(7)[kind].span(0, 2500).tolist()
    positions = [2400, 3, 1999, 1000, 999]
    assert [orders(7)[kind][position] for position in positions] == [whole[position] for position in positions]
    assert orders(7)[kind].span(990, 2100).tolist() == whole[990:2100]
    assert orders(8)[kind].span(0, 2500).tolist() != whole
    assert whole[:1000] != whole[1000:2000]


@given(length=st.integers(1, 40), batch=st.integers(1, 6), ranks=st.integers(1, 4), steps=st.integers(1, 6))
def test_the_ranks_together_see_what_one_process_sees(length, batch, ranks, steps):
    order = EndlessShuffle(length, 7)
    alone = list(StepBatches(order, batch * ranks, 0, steps))
    shared = [list(StepBatches(order, batch, 0, steps, rank, ranks)) for rank in range(ranks)]
    for step in range(steps):
        assert sorted(alone[step]) == sorted(sample for rank in shared for sample in rank[step])


def test_a_later_start_is_the_tail_of_the_sequence():
    order = EndlessShuffle(11, 3)
    assert list(StepBatches(order, 4, 5, 9)) == list(StepBatches(order, 4, 0, 9))[5:]


def test_random_numbers_are_uniform_and_differ_by_seed_position_and_draw():
    numbers = uniform(3, range(2000), 8)
    assert numbers.min() >= 0 and numbers.max() < 1
    assert all(kstest(column, "uniform").pvalue > 0.001 for column in numbers.T)
    assert np.abs(np.corrcoef(numbers.T) - np.eye(8)).max() < 0.09  # 4 standard deviations
    assert np.abs(np.corrcoef(numbers[:-1, 0], numbers[1:, 0])[0, 1]) < 0.09
    assert len(np.unique(np.concatenate([numbers, uniform(4, range(2000), 8)]))) == 32_000


@given(seed=st.integers(0, 2**63), positions=st.lists(st.integers(0, 2**50), min_size=1, max_size=20))
def test_random_numbers_do_not_depend_on_their_batch(seed, positions):
    alone = [uniform(seed, [position], 5)[0] for position in positions]
    assert np.array_equal(uniform(seed, positions, 5), alone)
