"""The endless shuffle: complete, seeded, and the same for any number of processes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sonodistill_training.sampling import EndlessShuffle, StepBatches


@given(length=st.integers(1, 50), seed=st.integers(0, 1000), epoch=st.integers(0, 5))
def test_every_epoch_holds_every_sample_once(length, seed, epoch):
    order = EndlessShuffle(length, seed)
    assert sorted(order[epoch * length + i] for i in range(length)) == list(range(length))


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
