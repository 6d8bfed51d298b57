"""Clicks, boxes and masks become a mask; what cannot be meant is refused; features are computed once."""

from __future__ import annotations

import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click_case import SIDE, ellipse, picture, scene, trained_network

from sonodistill.annotate.clicks.interactive import Interactive, stability
from sonodistill.annotate.clicks.prompts import MAX_POINTS, check_prompts, draw_prompts, parse_prompts
from sonodistill.annotate.errors import InvalidPromptError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Prompts
from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill.weights import load_weights, save_weights
from sonodistill_training.finetune.clicks_draw import Annotation

FRAME = FrameId("a-cine", 3)
LEFT, RIGHT = ellipse((18, 32), (8, 10)), ellipse((46, 32), (8, 10))
TWO = picture([LEFT, RIGHT], seed=1)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.getbasetemp() / "interactive.safetensors"
    return path if path.is_file() else trained_network(path)


@pytest.fixture(scope="module")
def engine(weights: Path) -> Interactive:
    return Interactive(weights)


@pytest.fixture
def encoded(engine: Interactive):
    """The images that the encoder computes, one entry each."""
    calls: list[tuple[int, ...]] = []
    handle = engine._network.encoder.model.register_forward_hook(lambda _, given, __: calls.append(given[0].shape))
    yield calls
    handle.remove()


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / max(1, int(a.sum()) + int(b.sum()))


# --- what it answers --------------------------------------------------------------------------------------------------


def test_dice_grows_with_the_clicks_of_an_oracle(engine: Interactive) -> None:
    rng = np.random.default_rng(7)
    found: list[list[float]] = []
    for index in range(24):
        image, masks = scene(rng)
        annotation = Annotation(masks[0] if index % 2 else np.any(masks, axis=0))
        annotation.correct(np.zeros_like(masks[0]))
        found.append([])
        for _ in range(4):
            said = Prompts(tuple(annotation.positive), tuple(annotation.negative), None, annotation.mask)
            refined = engine.refine(FrameId("scenes", index), image, said)
            found[-1].append(dice(refined.mask, annotation.truth))
            annotation.correct(refined.mask)
    one, two, three, four = np.mean(found, axis=0)
    assert one > 0.6 and two > one + 0.03 and three > two and four > 0.88


def test_a_click_means_the_structure_that_it_is_on(engine: Interactive) -> None:
    left = engine.refine(FRAME, TWO, Prompts(positive=((18, 32),)))
    right = engine.refine(FRAME, TWO, Prompts(positive=((46, 32),)))
    assert dice(left.mask, LEFT) > 0.8 and dice(right.mask, RIGHT) > 0.8
    both = engine.refine(FRAME, TWO, Prompts(positive=((18, 32), (46, 32))))
    assert dice(both.mask, LEFT | RIGHT) > 0.8


def test_a_negative_click_takes_away_what_it_is_on(engine: Interactive) -> None:
    rng = np.random.default_rng(3)
    meant, not_meant = [], []
    for index in range(12):
        image, (first, second, *_) = scene(rng)
        a, b = (tuple(np.argwhere(mask).mean(axis=0)[::-1]) for mask in (first, second))
        so_far = Prompts(positive=(a,), mask=first | second)
        yes = engine.refine(FrameId("signs", index), image, replace(so_far, positive=(a, b)))
        no = engine.refine(FrameId("signs", index), image, replace(so_far, negative=(b,)))
        meant.append(float(yes.probability[second].mean()))
        not_meant.append(float(no.probability[second].mean()))
        assert not_meant[-1] < meant[-1]
    assert np.mean(meant) > 0.7 and np.mean(meant) - np.mean(not_meant) > 0.3


def test_clicks_correct_a_mask_that_came_from_elsewhere(engine: Interactive) -> None:
    wrong = LEFT | ellipse((46, 10), (7, 6))  # there is nothing
    removed = engine.refine(FRAME, TWO, Prompts(negative=((46, 10),), mask=wrong))
    added = engine.refine(FRAME, TWO, Prompts(positive=((46, 32),), mask=LEFT))
    assert dice(removed.mask, LEFT) > max(0.8, dice(wrong, LEFT))
    assert added.probability[RIGHT].mean() > 0.5


def test_a_box_selects_one_of_two_equal_structures(engine: Interactive) -> None:
    for box, meant in (((8, 20, 28, 44), LEFT), ((36, 20, 56, 44), RIGHT)):
        assert dice(engine.refine(FRAME, TWO, Prompts(box=box)).mask, meant) > 0.8


def test_the_answer_is_on_the_pixels_of_the_frame_and_of_the_types_promised(engine: Interactive) -> None:
    masks = [np.kron(mask, np.ones((3, 5))).astype(bool) for mask in (LEFT, RIGHT)]
    refined = engine.refine(FrameId("wide", 0), picture(masks), Prompts(positive=((18 * 5 + 2, 32 * 3 + 1),)))
    assert refined.mask.shape == refined.probability.shape == (3 * SIDE, 5 * SIDE)
    assert (refined.mask.dtype, refined.probability.dtype) == (np.bool_, np.float32)
    assert np.array_equal(refined.mask, refined.probability > 0.5) and 0 <= refined.confidence <= 1
    assert dice(refined.mask, masks[0]) > 0.8


def test_confidence_is_the_overlap_of_a_strict_and_a_lax_mask() -> None:
    sure = np.zeros((10, 10), np.float32)
    sure[2:6, 2:6] = 0.95
    assert stability(sure) == 1
    sure[2:6, 6:10] = 0.5
    assert stability(sure) == pytest.approx(0.5)
    assert stability(np.full((4, 4), 0.1, np.float32)) == 0


def test_confidence_is_higher_for_a_sharp_structure_than_for_noise(engine: Interactive) -> None:
    noise = np.random.default_rng(0).integers(40, 60, (SIDE, SIDE)).astype(np.uint8)
    sharp = engine.refine(FRAME, TWO, Prompts(positive=((18, 32),))).confidence
    nothing = engine.refine(FrameId("noise", 0), noise, Prompts(positive=((18, 32),))).confidence
    assert sharp > nothing


# --- the cache --------------------------------------------------------------------------------------------------------


def test_features_are_computed_once_for_all_the_clicks_on_a_frame(engine: Interactive, encoded: list) -> None:
    id = FrameId("once", 0)
    answers = [engine.refine(id, TWO, Prompts(positive=((float(x), 32),))) for x in (16, 18, 20)]
    assert len(encoded) == 1 and [answer.cached for answer in answers] == [False, True, True]
    assert engine.embed(id, TWO) and len(encoded) == 1
    assert not engine.embed(FrameId("once", 1), TWO) and len(encoded) == 2
    assert engine.refine(FrameId("once", 1), TWO, Prompts(positive=((18, 32),))).cached


def test_the_answer_is_the_same_to_the_bit_with_and_without_the_cache(weights: Path) -> None:
    prompts = Prompts(positive=((18, 32),), negative=((46, 32),), box=(5, 15, 40, 50), mask=LEFT)
    without, with_cache = Interactive(weights, cached=0), Interactive(weights)
    with_cache.embed(FRAME, TWO)
    first, second = without.refine(FRAME, TWO, prompts), with_cache.refine(FRAME, TWO, prompts)
    assert (first.cached, second.cached) == (False, True) and without.cached_bytes == 0
    assert np.array_equal(first.probability, second.probability)


def test_another_image_under_the_same_id_is_not_taken_for_the_one_before(engine: Interactive, encoded: list) -> None:
    id, other = FrameId("replaced", 0), picture([RIGHT])
    engine.refine(id, TWO, Prompts(positive=((46, 32),)))
    again = engine.refine(id, other, Prompts(positive=((46, 32),)))
    assert not again.cached and len(encoded) == 2
    direct = engine.refine(FrameId("replaced", 1), other, Prompts(positive=((46, 32),)))
    assert np.array_equal(again.probability, direct.probability)


def test_the_cache_keeps_what_was_used_last_within_its_bytes(weights: Path) -> None:
    engine = Interactive(weights, cached=1)
    engine.embed(FrameId("a", 0), TWO)
    room = (1 << 20) // engine.cached_bytes
    for index in range(1, room):
        engine.embed(FrameId("a", index), TWO)
    assert engine.embed(FrameId("a", 0), TWO)  # the first is now the one used last
    engine.embed(FrameId("a", room), TWO)
    assert engine.cached_bytes <= 1 << 20
    assert engine.embed(FrameId("a", 0), TWO) and not engine.embed(FrameId("a", 1), TWO)


def test_several_threads_get_the_answers_that_one_gets(engine: Interactive) -> None:
    images = [picture([LEFT, RIGHT], seed=seed) for seed in range(4)]
    asked = Prompts(positive=((18, 32),))
    alone = [engine.refine(FrameId("alone", at), image, asked).probability for at, image in enumerate(images)]
    found: dict[int, np.ndarray] = {}

    def ask(at: int) -> None:
        found[at] = engine.refine(FrameId("together", at % 4), images[at % 4], asked).probability

    threads = [threading.Thread(target=ask, args=(at,)) for at in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(np.array_equal(found[at], alone[at % 4]) for at in range(12))


# --- what is refused --------------------------------------------------------------------------------------------------

BAD = {
    "nothing": Prompts(),
    "an empty mask alone": Prompts(mask=np.zeros((SIDE, SIDE), bool)),
    "a point right of the frame": Prompts(positive=((SIDE, 3),)),
    "a point above the frame": Prompts(negative=((3, -1),)),
    "a point that is no number": Prompts(positive=((float("nan"), 3),)),
    "an infinite point": Prompts(positive=((3, float("inf")),)),
    "a point of three": Prompts(positive=((1, 2, 3),)),  # type: ignore[arg-type]
    "a point of text": Prompts(positive=(("1", "2"),)),  # type: ignore[arg-type]
    "too many points": Prompts(positive=((1, 1),) * MAX_POINTS, negative=((1, 1),)),
    "a box with its corners exchanged": Prompts(box=(20, 20, 10, 30)),
    "an empty box": Prompts(box=(10, 10, 10, 30)),
    "a box beyond the frame": Prompts(box=(10, 10, 30, SIDE + 1)),
    "a box of NaN": Prompts(box=(10, 10, float("nan"), 20)),
    "a mask of another shape": Prompts(mask=np.ones((SIDE, SIDE + 1), bool)),
    "a mask of three dimensions": Prompts(mask=np.ones((SIDE, SIDE, 3), bool)),
    "a mask of floats": Prompts(mask=np.ones((SIDE, SIDE), np.float32)),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("what", BAD)
def test_prompts_that_cannot_be_meant_are_refused_with_422(engine: Interactive, encoded: list, what: str) -> None:
    with pytest.raises(InvalidPromptError) as refused:
        engine.refine(FrameId("bad", 0), TWO, BAD[what])
    assert refused.value.status == 422 and refused.value.remedy and not encoded


def test_points_on_the_outermost_pixels_and_their_edges_are_inside() -> None:
    for point in ((0, 0), (SIDE - 1, SIDE - 1), (-0.5, SIDE - 0.5)):
        check_prompts(Prompts(positive=(point,)), (SIDE, SIDE))
    check_prompts(Prompts(box=(0, 0, SIDE - 1, SIDE - 1)), (SIDE, SIDE))


def test_prompts_are_read_from_json_values() -> None:
    read = parse_prompts({"positive": [[1, 2.5]], "box": [0, 1, 2, 3], "session": "x"}, mask=LEFT)
    assert (read.positive, read.negative, read.box) == (((1.0, 2.5),), (), (0.0, 1.0, 2.0, 3.0)) and read.mask is LEFT
    assert parse_prompts({"positive": None, "box": None}) == Prompts()


@pytest.mark.parametrize(
    "given",
    [
        [],
        {"positive": "12"},
        {"positive": [1, 2]},
        {"positive": [[1]]},
        {"negative": [["1", 2]]},
        {"negative": [[True, 2]]},
        {"box": [1, 2, 3]},
        {"box": {"x0": 1}},
        {"positive": [[10**400, 1]]},
        {"positive": [[float("nan"), 1]]},
        {"positive": [[1, 1]] * 65},
    ],
)
def test_json_of_another_form_is_refused(given: object) -> None:
    with pytest.raises(InvalidPromptError):
        parse_prompts(given)  # type: ignore[arg-type]


def test_a_prompt_is_drawn_where_it_was_on_a_frame_of_any_size() -> None:
    small = draw_prompts(Prompts(positive=((15.5, 31.5),), box=(0, 0, 31, 31)), (64, 64), (64, 64))
    large = draw_prompts(Prompts(positive=((31.5, 191.5),), box=(0, 0, 63, 191)), (384, 128), (64, 64))
    np.testing.assert_allclose(small, large, atol=1e-6)


@pytest.mark.parametrize("image", [TWO.astype(np.float32), TWO[..., None], TWO[:0], [[1]]])
def test_an_image_that_is_no_frame_is_refused(engine: Interactive, image: object) -> None:
    with pytest.raises(InvalidPromptError, match="uint8"):
        engine.refine(FRAME, image, Prompts(positive=((1, 1),)))  # type: ignore[arg-type]
    with pytest.raises(InvalidPromptError, match="uint8"):
        engine.embed(FRAME, image)  # type: ignore[arg-type]


def test_weights_that_cannot_be_used_are_refused(weights: Path, tmp_path: Path) -> None:
    state, info = load_weights(weights)
    with pytest.raises(BundleConfigError, match="cache"):
        Interactive(weights, cached=-1)
    with pytest.raises(WeightsError, match="no such file"):
        Interactive(tmp_path / "none.safetensors")
    save_weights(tmp_path / "sizeless.safetensors", state, replace(info, input_size=None))
    with pytest.raises(WeightsError, match="input size"):
        Interactive(tmp_path / "sizeless.safetensors")
    save_weights(tmp_path / "broken.safetensors", state | {"head.bias": torch.tensor([float("nan")])}, info)
    with pytest.raises(WeightsError, match="NaN"):
        Interactive(tmp_path / "broken.safetensors")


def test_checking_prompts_needs_no_torch() -> None:
    import subprocess

    program = "import sys, sonodistill.annotate.clicks.prompts; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
