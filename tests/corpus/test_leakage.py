"""The leakage audit: planted copies are found in whatever guise, and other data sets raise no alarm."""

from __future__ import annotations

import csv
import functools

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sonodistill_training.corpus.embedding import embed, load_embedder
from sonodistill_training.corpus.leakage import (
    WINDOWS,
    Embeddings,
    Leak,
    LeakageError,
    audit,
    leaked_rows,
    windows,
)
from sonodistill_training.corpus.signatures import Signature, signatures


@functools.cache
def speckle_frame(seed: int) -> NDArray[np.uint8]:
    """(300, 400) tissue of its own layers and lesions, with speckle."""
    rng = np.random.default_rng(seed)
    frame = 90 + rng.normal(0, 10, (300, 400)).astype(np.float32)
    for rows, columns in ((6, 8), (12, 16), (30, 40)):
        coarse = rng.normal(0, 18, (rows, columns)).astype(np.float32)
        frame += cv2.resize(coarse, (400, 300), interpolation=cv2.INTER_CUBIC)
    return np.clip(frame, 0, 255).astype(np.uint8)


def trimmed(gray: NDArray[np.uint8], fraction: float) -> NDArray[np.uint8]:
    height, width = gray.shape
    y, x = round(height * fraction), round(width * fraction)
    return np.ascontiguousarray(gray[y : height - y, x : width - x])


def with_text(gray: NDArray[np.uint8]) -> NDArray[np.uint8]:
    gray = gray.copy()
    cv2.putText(gray, "TIRADS 4C", (10, 40), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)
    return gray


GUISES = {
    "as it is": lambda gray: gray,
    "re-encoded": lambda gray: cv2.imdecode(cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0),
    "half as large": lambda gray: cv2.resize(gray, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "brighter": lambda gray: np.clip(gray * 1.25, 0, 255).astype(np.uint8),
    "darker": lambda gray: (gray * 0.7).astype(np.uint8),
    "mirrored": lambda gray: np.ascontiguousarray(gray[:, ::-1]),
    "trimmed by 2 %": lambda gray: trimmed(gray, 0.02),
    "written on": with_text,
    "mirrored, trimmed and re-encoded": lambda gray: GUISES["re-encoded"](trimmed(gray[:, ::-1], 0.02)),
}


def found_at(leaks: list[Leak]) -> set[tuple[int, str, int]]:
    return {(leak.corpus_row, leak.evaluation_set, leak.evaluation_row) for leak in leaks}


@pytest.mark.parametrize("guise", GUISES)
def test_a_planted_copy_is_found_and_nothing_else(guise):
    held_out = [speckle_frame(seed) for seed in range(20)]
    corpus = [speckle_frame(seed) for seed in range(100, 150)]
    corpus[7], corpus[42] = GUISES[guise](held_out[3]), GUISES[guise](held_out[19])
    leaks = audit(*signatures(corpus), {"held out": signatures(held_out)})
    assert found_at(leaks) == {(7, "held out", 3), (42, "held out", 19)}
    assert all(leak.mirrored == ("mirrored" in guise) and leak.how == "hash" for leak in leaks)
    assert leaked_rows(leaks).tolist() == [7, 42]


def test_the_same_frame_in_two_sets_is_a_leak_of_both():
    frame = signatures([speckle_frame(0)])
    leaks = audit(*frame, {"b": frame, "a": frame})
    assert found_at(leaks) == {(0, "a", 0), (0, "b", 0)}
    assert leaks[0] == Leak(0, "a", 0, 0, leaks[0].cosine, False, "hash")
    assert leaks[0].cosine == pytest.approx(1)


def test_a_corpus_or_an_evaluation_set_without_frames_has_no_leak():
    some, none = signatures([speckle_frame(0)]), signatures([])
    assert audit(*none, {"a": some}) == audit(*some, {"a": none}) == audit(*some, {}) == []
    assert leaked_rows([]).shape == (0,)


CROPS = {
    "10 % a side": lambda gray: trimmed(gray, 0.1),
    "15 % a side": lambda gray: trimmed(gray, 0.15),
    "15 % of two sides": lambda gray: np.ascontiguousarray(
        gray[: int(gray.shape[0] * 0.85), int(gray.shape[1] * 0.15) :]
    ),
    "10 % a side, mirrored": lambda gray: trimmed(gray[:, ::-1], 0.1),
}


@pytest.mark.parametrize("crop", CROPS)
def test_a_cropped_copy_is_found_by_the_windows_of_the_evaluation_frame(crop):
    held_out = [speckle_frame(seed) for seed in range(8)]
    corpus = [speckle_frame(seed) for seed in range(100, 120)]
    corpus[7] = CROPS[crop](held_out[3])
    signed, whole = signatures(corpus), {"held out": signatures(held_out)}
    assert audit(*signed, whole) == []
    (leak,) = audit(*signed, whole, parts={"held out": windows(held_out)})
    assert (leak.corpus_row, leak.evaluation_row, leak.how) == (7, 3, "window")
    assert leak.mirrored == ("mirrored" in crop)


def test_every_frame_has_its_windows_one_after_the_other():
    two = windows([speckle_frame(0), speckle_frame(1)])
    assert two.hash.shape == (2 * WINDOWS, 32)
    np.testing.assert_array_equal(two.appearance[WINDOWS:], windows([speckle_frame(1)]).appearance)


def unlike(rows: int) -> Signature:
    """Signatures that are like nothing: what is found then, the embeddings found."""
    return Signature(np.zeros((rows, 32), np.uint8), np.zeros((rows, 256), np.int8))


def test_embeddings_find_what_the_hash_does_not_and_say_so():
    units = np.eye(8, dtype=np.float16)
    embeddings = Embeddings(units[[0, 1, 2]], {"a": units[[5, 1]]}, {"a": units[[2, 6]]})
    leaks = audit(*unlike(3), {"a": unlike(2)}, embeddings=embeddings)
    assert leaks == [Leak(1, "a", 1, None, 1.0, False, "embedding"), Leak(2, "a", 0, None, 1.0, True, "embedding")]


def test_a_pair_that_both_find_is_listed_once_with_its_bits():
    frame = signatures([speckle_frame(0)])
    unit = np.eye(4, dtype=np.float16)[:1]
    (leak,) = audit(*frame, {"a": frame}, embeddings=Embeddings(unit, {"a": unit}, {"a": unit}))
    assert (leak.bits, leak.how) == (0, "hash")


def test_the_error_counts_frames_by_evaluation_set_and_says_what_to_do(tmp_path):
    leaks = [
        Leak(0, "ddti", 4, 3, 0.99, False, "hash"),
        Leak(1, "ddti", 4, 9, 0.98, False, "hash"),
        Leak(1, "busi", 2, None, 0.99, True, "embedding"),
    ]
    error = LeakageError(leaks, path=tmp_path)
    assert error.message == (
        "2 frames of the corpus show what an evaluation set shows "
        "(busi: 1 frames show 1 of its own; ddti: 2 frames show 1 of its own)"
    )
    assert "--on-leak drop" in error.remedy
    assert "--on-leak allow" in error.remedy
    assert error.path == tmp_path


def read(folder, step=1, most=None):
    with (folder / "index.csv").open() as file:
        rows = list(csv.DictReader(file))[::step][:most]
    return [cv2.imread(str(folder.parent / row["file"]), cv2.IMREAD_GRAYSCALE) for row in rows]


def test_real_data_sets_raise_no_alarm_and_planted_busi_frames_do(shared):
    folder = shared / "data" / "frames"
    held_out = read(folder / "busi", 4)
    guises = list(GUISES.values())
    planted = [guises[i % len(guises)](held_out[i]) for i in range(0, 195, 5)]
    others = [frame for name in ("hc18", "aul", "pocus_lung", "muscle_timtrack") for frame in read(folder / name, 12)]
    parts = {"busi": windows(held_out[::2])}
    assert audit(*signatures(others), {"busi": signatures(held_out[::2])}, parts=parts) == []
    leaks = audit(*signatures(others + planted), {"busi": signatures(held_out)})
    expected = {(len(others) + k, "busi", i) for k, i in enumerate(range(0, 195, 5))}
    assert expected <= found_at(leaks)


@pytest.fixture(scope="module")
def untrained():
    torch = pytest.importorskip("torch")
    from sonodistill_training.distill.teacher import load_teacher

    torch.manual_seed(0)
    return load_teacher("vit_tiny_patch16_224", blocks=1, random=True)


def test_embeddings_are_unit_vectors_whatever_the_batches(untrained):
    some = [speckle_frame(seed)[: 200 + 20 * seed] for seed in range(5)]
    vectors = embed(some, untrained, batch=2)
    assert vectors.dtype == np.float16
    assert vectors.shape == (5, 192)
    np.testing.assert_allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    np.testing.assert_allclose(embed(some, untrained, batch=5), vectors, atol=2e-3)


def test_mirrored_embeddings_are_those_of_mirrored_frames(untrained):
    some = [speckle_frame(seed) for seed in range(2)]
    turned = [np.ascontiguousarray(frame[:, ::-1]) for frame in some]
    np.testing.assert_allclose(embed(some, untrained, mirror=True), embed(turned, untrained), atol=2e-3)


def test_an_encoder_of_ours_embeds_as_well(tmp_path):
    torch = pytest.importorskip("torch")
    from sonodistill.networks.encoder import Encoder
    from sonodistill.weights import WeightsInfo, save_weights

    torch.manual_seed(0)
    encoder = Encoder("resnet18").eval()
    path = tmp_path / "encoder.safetensors"
    info = WeightsInfo(kind="encoder", architecture="resnet18", normalisation=encoder.input.normalisation)
    save_weights(path, encoder.model.state_dict(), info)
    some = [speckle_frame(0)]
    np.testing.assert_allclose(embed(some, path), embed(some, encoder), atol=2e-3)


def test_no_frames_have_no_embeddings(untrained):
    assert len(embed([], untrained)) == 0


def test_busi_cropped_by_10_percent_is_found(shared):
    held_out = read(shared / "data" / "frames" / "busi", 26)
    corpus = [trimmed(frame, 0.1) for frame in held_out]
    leaks = audit(*signatures(corpus), {"busi": signatures(held_out)}, parts={"busi": windows(held_out)})
    assert {(i, "busi", i) for i in range(len(held_out))} <= found_at(leaks)


@pytest.mark.slow
def test_the_offline_teacher_knows_a_re_encoded_frame_and_confuses_no_data_sets(shared):
    network = load_embedder(
        shared / "weights" / "dinov2_vits14.fp16.safetensors", architecture="vit_small_patch14_dinov2.lvd142m"
    )
    held_out = read(shared / "data" / "frames" / "busi", 26)
    corpus = [*read(shared / "data" / "frames" / "aul", 25), *(GUISES["re-encoded"](frame) for frame in held_out)]
    embeddings = Embeddings(
        embed(corpus, network), {"busi": embed(held_out, network)}, {"busi": embed(held_out, network, mirror=True)}
    )
    leaks = audit(*unlike(len(corpus)), {"busi": unlike(len(held_out))}, embeddings=embeddings)
    first = len(corpus) - len(held_out)
    planted = {(first + i, "busi", i) for i in range(len(held_out))}
    assert leaked_rows(leaks).min() >= first
    assert len(planted & found_at(leaks)) >= 0.9 * len(planted)
