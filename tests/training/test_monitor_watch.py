"""What a training's log says of it: healthy curves pass, each sick one is told once, with its cause."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from sonodistill_training.monitor.watch import (
    CLIP_ROWS,
    CLIPPED,
    COLLAPSED,
    DIVERGING,
    FLAT,
    WAITING,
    LossWatch,
    relative_fall,
)

TOTAL, WARMUP = 3000, 300


def rows(level, noise=0.05, seed=0, **columns):
    """A log of every 10th step; ``level`` and the columns are functions of the share of the training that is done."""
    generator = np.random.default_rng(seed)
    for step in range(10, TOTAL + 1, 10):
        done = step / TOTAL
        variance = 7 * math.exp(0.1 * generator.normal())  # mixup makes it vary from batch to batch
        row = {
            "step": step,
            "loss": variance * level(done) * math.exp(noise * generator.normal()),
            "target_variance": variance,
            "learning_rate": 1e-3,
            "gradient_norm": float(generator.uniform(0.3, 3)),
            "data_wait": 0.9 if step == 10 else 0.02,  # workers start
        }
        yield row | {name: value(done) for name, value in columns.items()}


def warnings_of(log, clip=1.0):
    watch = LossWatch(TOTAL, WARMUP, clip)
    texts = [text for row in log if (text := watch.update(row))]
    return watch.told, texts


HEALTHY = {
    "fast": lambda done: 0.2 + 0.9 * math.exp(-20 * done),
    "slow": lambda done: 0.3 + 0.75 * math.exp(-2 * done),
    "slow and straight": lambda done: 1 - 0.3 * done,
    "on a low plateau": lambda done: 0.1 + math.exp(-100 * done),
    "on a high plateau": lambda done: 0.75 + 0.3 * math.exp(-50 * done),
    "from far above": lambda done: 0.3 + 5 * math.exp(-30 * done),
}


@pytest.mark.parametrize("noise", [0.01, 0.1, 0.2])
@pytest.mark.parametrize("level", HEALTHY.values(), ids=HEALTHY.keys())
def test_a_healthy_training_is_left_alone(level, noise):
    for seed in range(3):
        assert warnings_of(rows(level, noise, seed))[1] == []


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.05])
def test_a_flat_loss_is_told_once_and_early(noise):
    watch = LossWatch(TOTAL, WARMUP, 1.0)
    told_at = [row["step"] for row in rows(lambda done: 0.99, noise) if watch.update(row)]
    assert watch.told == [FLAT]
    assert len(told_at) == 1 and told_at[0] <= 0.6 * TOTAL


def test_a_flat_loss_is_told_with_its_likely_causes():
    _, [text] = warnings_of(rows(lambda done: 1.0, 0.01))
    for cause in ("learning rate", "0.001", "few huge channels", "normalised otherwise", "clipping"):
        assert cause in text


def test_a_flat_loss_under_binding_clipping_names_that_first():
    _, [text] = warnings_of(rows(lambda done: 1.0, 0.01, gradient_norm=lambda done: 4.0))
    assert text.index("clipped at every step, typically at 4.0 times") < text.index("learning rate")


def test_the_token_term_and_not_the_sum_is_held_against_the_variance():
    log = [row | {"token": 0.4 * row["loss"]} for row in rows(lambda done: 1.0, 0.01)]
    assert warnings_of(log)[1] == []


def test_a_loss_of_unknown_scale_is_not_called_flat():
    log = list(rows(lambda done: 1.0, 0.01))
    for row in log:
        row["loss"] /= row.pop("target_variance")
    assert warnings_of(log)[1] == []


@pytest.mark.parametrize("begins", [0.05, 0.5, 0.8])
def test_a_diverging_loss_is_told_once_before_it_has_doubled_twice(begins):
    def level(done):
        return 0.3 + 0.7 * math.exp(-60 * done) + 0.3 * math.expm1(max(0.0, done - begins) * 10)

    watch = LossWatch(TOTAL, WARMUP, 1.0)
    told = [(row, text) for row in rows(level) if (text := watch.update(row))]
    assert watch.told == [DIVERGING]
    [(row, text)] = told
    assert row["loss"] / row["target_variance"] < 4 * 0.3
    assert "learning rate that is too high" in text


def test_a_single_bad_batch_is_no_divergence():
    log = list(rows(HEALTHY["fast"]))
    for place in range(50, len(log), 40):
        log[place]["loss"] *= 50
    assert warnings_of(log)[1] == []


def test_a_gradient_that_is_always_far_over_the_clip_is_told_once():
    told, [text] = warnings_of(rows(HEALTHY["fast"], gradient_norm=lambda done: 1500.0))
    assert told == [CLIPPED]
    assert "1500 times" in text and "sum over channels" in text.replace("\n", " ")


@pytest.mark.parametrize(
    ("norm", "clip"), [(lambda done: 5.0, 1.0), (lambda done: 1500.0, None), (lambda done: 1500 * (done < 0.1), 1.0)]
)
def test_mild_clipping_no_clip_and_a_rough_warmup_are_no_clipping(norm, clip):
    assert warnings_of(rows(HEALTHY["fast"], gradient_norm=norm), clip)[1] == []


def test_features_along_one_line_are_told_once():
    told, [text] = warnings_of(rows(HEALTHY["fast"], rankme=lambda done: 60 if done < 0.5 else 1.2))
    assert told == [COLLAPSED] and "RankMe is 1.20" in text


def test_features_that_stop_moving_are_told_once():
    told, [text] = warnings_of(rows(HEALTHY["fast"], feature_std=lambda done: 0.4 if done < 0.5 else 1e-5))
    assert told == [COLLAPSED] and "0.4 to 1e-05" in text


def test_features_that_gain_and_lose_some_rank_and_spread_are_healthy():
    log = rows(
        HEALTHY["slow"],
        rankme=lambda done: 1.1 if done < 0.05 else 20 + 10 * math.sin(20 * done),
        feature_std=lambda done: 0.02 + 0.3 * abs(math.sin(20 * done)),
    )
    assert warnings_of(log)[1] == []


def test_waiting_for_data_is_told_once():
    told, [text] = warnings_of(rows(HEALTHY["fast"], data_wait=lambda done: 0.45))
    assert told == [WAITING] and "45%" in text and "workers" in text


def test_some_waiting_is_not_told():
    assert warnings_of(rows(HEALTHY["fast"], data_wait=lambda done: 0.8 if int(done * 300) % 3 == 0 else 0.1))[1] == []


def test_two_causes_at_once_are_both_told():
    told, _ = warnings_of(rows(lambda done: 1.0, 0.01, data_wait=lambda done: 0.6, rankme=lambda done: 1.0))
    assert sorted(told) == sorted([FLAT, WAITING, COLLAPSED])


def test_values_that_are_missing_or_not_finite_are_passed_over():
    watch = LossWatch(100, clip=1.0)
    odd = [{}, {"step": 1}, {"step": 2, "loss": math.nan, "gradient_norm": math.inf}, {"step": 3, "loss": None}]
    odd += [{"step": 4, "loss": 0.0, "target_variance": 0.0, "note": "text"}] * 60
    assert [watch.update(row) for row in odd] == [None] * len(odd)


@pytest.mark.parametrize("stop", [1, 33, 150, 299])
@pytest.mark.parametrize("total", [TOTAL, 100_000])
def test_a_watch_that_is_resumed_says_what_one_that_was_not_says(total, stop):
    log = list(
        rows(lambda done: 1.0 + 3 * max(0.0, done - 0.7), 0.02, data_wait=lambda d: d, rankme=lambda d: 30 * (1 - d))
    )
    whole = LossWatch(total, WARMUP, 1.0)
    expected = [whole.update(row) for row in log]
    resumed = LossWatch(total, WARMUP, 1.0)
    for row in json.loads(json.dumps(log[:stop])):
        resumed.update(row)
    assert [resumed.update(row) for row in log[stop:]] == expected[stop:]
    assert any(expected)


def test_what_is_remembered_does_not_grow_with_the_training():
    watch = LossWatch(1_000_000, 0, 1.0)
    for step in range(1, 20_001):
        watch.update({"step": step, "loss": 1.0 - step * 1e-5, "target_variance": 1.0, "gradient_norm": 1.0})
    assert max(len(value) for value in vars(watch).values() if isinstance(value, list)) == CLIP_ROWS


def test_the_error_of_a_fall_is_what_repeated_draws_scatter_by():
    generator = np.random.default_rng(0)
    falls = [relative_fall(generator.normal(10, 1, 200), generator.normal(9, 1, 200)) for _ in range(400)]
    levels, gains, errors = np.transpose(falls)
    assert np.mean(gains) == pytest.approx(0.1, abs=0.002)
    assert np.mean(levels) == pytest.approx(9, abs=0.02)
    assert np.mean(errors) == pytest.approx(np.std(gains), rel=0.15)
