"""The distance against scikit-learn, its threshold, and what a weights file holds of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.decomposition import PCA

from sonodistill.errors import WeightsError
from sonodistill.inference.familiarity import FamiliarityError, fit, from_tensors, to_tensors
from sonodistill.inference.predictor import Predictor
from sonodistill.networks.checkpoint import load_network
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import load_weights, save_weights


def correlated(rows: int, seed: int, width: int = 24) -> np.ndarray:
    mixing = np.random.default_rng(99).normal(size=(width, width)) * np.geomspace(1, 0.05, width)
    return np.random.default_rng(seed).normal(size=(rows, width)) @ mixing + 5


def test_the_distance_is_that_of_scikit_learns_probabilistic_pca():
    known, held, others = correlated(300, 1), correlated(80, 2), correlated(50, 3) * 1.5
    found = fit(known, held, components=6)
    reference = PCA(6).fit((known - known.mean(0)) / known.std(0))
    centred = (others - known.mean(0)) / known.std(0)
    squared = ((centred @ reference.get_precision()) * centred).sum(1)
    np.testing.assert_allclose(found.distance(others), np.sqrt(squared), rtol=1e-4)


@pytest.mark.parametrize(("count", "quantile"), [(20, 0.99), (150, 0.99), (150, 0.9), (101, 0.5)])
def test_at_least_the_share_asked_for_is_familiar_and_no_more_than_needed(count, quantile):
    held = correlated(count, 4)
    scores = fit(correlated(200, 5), held, quantile=quantile).score(held)
    assert np.mean(scores <= 1 + 1e-6) >= quantile
    assert np.mean(scores < 1 - 1e-6) <= max(quantile, 1 - 1 / count) + 1 / count


def test_further_frames_of_the_same_kind_are_as_familiar_as_promised():
    shares = [fit(correlated(200, s), correlated(99, 50 + s)).score(correlated(400, 90 + s)) for s in range(20)]
    assert 0.98 <= np.mean(np.concatenate(shares) <= 1) <= 1


def test_more_features_than_frames_and_channels_that_never_move_have_a_finite_distance():
    known, held = correlated(40, 1, 80), correlated(12, 2, 80)
    known[:, 3] = held[:, 3] = 7.0
    found = fit(known, held)
    assert np.isfinite(found.score(correlated(5, 3, 80))).all()
    assert len(found.components) == 10


@pytest.mark.parametrize(
    ("known", "held", "says"),
    [
        (correlated(31, 1), correlated(20, 2), "31 frames to fit"),
        (correlated(40, 1), correlated(9, 2), "9 to calibrate"),
        (np.full((40, 4), 3.0), np.full((20, 4), 3.0), "same features"),
        (np.full((40, 4), np.nan), np.full((20, 4), 3.0), "not all finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(known, held, says):
    with pytest.raises(FamiliarityError, match=says):
        fit(known, held)


def test_what_is_stored_comes_back_and_damage_is_named(fitted):
    tensors = to_tensors(fitted)
    again = from_tensors(tensors)
    np.testing.assert_array_equal(again.components, fitted.components)
    assert again.threshold == fitted.threshold
    for broken in (
        {**tensors, "familiarity.mean": tensors["familiarity.mean"][:-1]},
        {**tensors, "familiarity.variances": -tensors["familiarity.variances"]},
        {name: value for name, value in tensors.items() if not name.endswith("threshold")},
    ):
        with pytest.raises(FamiliarityError, match="its tensors"):
            from_tensors(broken)


def test_the_graphs_score_is_that_of_the_stored_numbers(checkpoints, fitted, network, images):
    from sonodistill.inference.runtimes import open_runtime
    from sonodistill.inference.scored import features, map_index

    runtime = open_runtime(checkpoints[1], "torch")
    with torch.inference_mode():
        maps = network.encoder.pyramid(torch.from_numpy(images[:7]))
        expected = fitted.score(features(maps, map_index(network.encoder)).numpy())
    np.testing.assert_allclose(runtime.both(images[:7])[1], expected, rtol=1e-4)


def test_a_score_changes_no_mask_and_a_model_without_says_nan(checkpoints, frames):
    plain, scored = (Predictor(path, runtime="torch") for path in checkpoints)
    for without, having in zip(plain(frames[:5]), scored(frames[:5]), strict=True):
        np.testing.assert_array_equal(without.probabilities, having.probabilities)
        assert np.isnan(without.unfamiliarity)
        assert not without.is_unfamiliar
        assert having.unfamiliarity == pytest.approx(scored.predict_one(having.frame).unfamiliarity, rel=1e-5)


def test_noise_is_unfamiliar_and_the_frames_of_the_fit_are_not(checkpoints, frames, strange):
    predictor = Predictor(checkpoints[1], runtime="torch")
    assert not any(prediction.is_unfamiliar for prediction in predictor(frames[1:4:3]))
    noise = [replace(frames[0], image=np.rint(image[0] * 255).astype(np.uint8)) for image in strange]
    assert all(prediction.is_unfamiliar for prediction in predictor(noise))


def test_in_bf16_frames_stay_on_their_side_of_the_threshold(checkpoints, images, strange):
    from sonodistill.inference.runtimes import open_runtime

    exact, rounded = (open_runtime(checkpoints[1], "torch", precision=each) for each in ("fp32", "bf16"))
    for batch in (images[:4], strange):
        one, other = exact.both(batch)[1], rounded.both(batch)[1]
        np.testing.assert_array_equal(one > 1, other > 1)
        np.testing.assert_allclose(other, one, rtol=0.3)


def test_a_file_whose_header_and_tensors_disagree_is_refused(checkpoints, tmp_path):
    tensors, info = load_weights(checkpoints[1])
    save_weights(tmp_path / "a.safetensors", tensors, replace(info, familiarity={}))
    save_weights(tmp_path / "b.safetensors", load_weights(checkpoints[0])[0], info)
    for name, says in (("a", "does not name"), ("b", "tensors lack")):
        with pytest.raises(WeightsError, match=says):
            load_network(tmp_path / f"{name}.safetensors")
    save_weights(tmp_path / "c.safetensors", tensors, replace(info, familiarity={"version": 99}))
    with pytest.raises(WeightsError, match="version is 99"):
        Predictor(tmp_path / "c.safetensors", runtime="torch")


def test_a_score_of_another_width_is_refused(checkpoints, tmp_path):
    tensors, info = load_weights(checkpoints[1])
    for name in ("mean", "scale", "components"):
        tensors[f"familiarity.{name}"] = tensors[f"familiarity.{name}"][..., :-2].clone()
    save_weights(tmp_path / "model.safetensors", tensors, info)
    with pytest.raises(WeightsError, match="254 features are not the 256"):
        Predictor(tmp_path / "model.safetensors", runtime="torch")


def test_training_on_from_a_scored_file_takes_the_network_and_leaves_the_score(checkpoints):
    network = Segmenter("resnet18", weights=checkpoints[1])
    names = set(load_file(checkpoints[0]))
    assert set(network.state_dict()) == names
