"""The health of features: RankMe, spread and dead channels against closed forms and the paper's formula."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sonodistill.errors import BundleConfigError, DatasetError, EmptyInputError, UnreadableFileError
from sonodistill.networks.encoder import Encoder
from sonodistill.transforms.geometry import to_input
from sonodistill_training.corpus.pack import build_pack
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.monitor.features import NotFiniteError
from sonodistill_training.monitor.health import Health, feature_health, rankme

CPU = torch.device("cpu")


def of_paper(features):
    """Garrido et al. 2023, Eq. 1 and 2, with their epsilon."""
    singular = np.linalg.svd(features, compute_uv=False)
    share = singular / np.abs(singular).sum() + 1e-7
    return np.exp(-(share * np.log(share)).sum())


def pictures(count, shape=(70, 90)):
    generator = np.random.default_rng(count)
    coarse = generator.integers(0, 256, (count, 7, 9), dtype=np.uint8)
    return [cv2.resize(image, shape[::-1], interpolation=cv2.INTER_LINEAR) for image in coarse]


@pytest.mark.parametrize("shape", [(40, 16), (16, 40), (200, 3)])
def test_rankme_is_the_papers(shape):
    features = np.random.default_rng(0).normal(2, 1, shape) * np.geomspace(1, 100, shape[1])
    assert rankme(features) == pytest.approx(of_paper(features), rel=1e-4)


@given(rank=st.integers(1, 12), images=st.integers(12, 30), channels=st.integers(12, 30), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_rankme_of_r_equal_directions_is_r(rank, images, channels, seed):
    generator = np.random.default_rng(seed)
    left = np.linalg.qr(generator.normal(size=(images, rank)))[0]
    right = np.linalg.qr(generator.normal(size=(channels, rank)))[0]
    assert rankme(3.7 * left @ right.T) == pytest.approx(rank, rel=1e-6)


@given(images=st.integers(2, 20), channels=st.integers(1, 20), seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
@settings(max_examples=25, deadline=None)
def test_rankme_lies_between_one_and_the_smaller_side_and_has_no_unit(images, channels, seed, scale):
    features = np.random.default_rng(seed).normal(size=(images, channels))
    value = rankme(features)
    assert 1 - 1e-9 <= value <= min(images, channels) + 1e-9
    assert rankme(scale * features) == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 0.1, -1e6])
def test_equal_features_have_rank_one_no_spread_and_no_living_channel(value):
    health = feature_health(np.full((33, 7), value))
    assert health == {"rankme": pytest.approx(1, abs=1e-6), "feature_std": 0, "dead_channels": 1}


def test_spread_is_the_mean_standard_deviation_and_a_still_channel_is_dead():
    features = np.random.default_rng(0).normal(size=(50, 4))
    features[:, 1] = 5.0
    features[:, 2] = 3 + 1e-6 * features[:, 2]
    health = feature_health(features)
    assert health["dead_channels"] == 0.5
    assert health["feature_std"] == pytest.approx(features.std(axis=0).mean())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_features_that_are_not_finite_are_a_named_error(bad):
    features = np.ones((5, 3))
    features[2, 1] = bad
    with pytest.raises(NotFiniteError, match="6.7%"):
        feature_health(features)
    with pytest.raises(NotFiniteError):
        rankme(features)


def test_the_health_of_an_encoder_is_that_of_its_mean_pooled_map():
    torch.manual_seed(0)
    encoder, images = Encoder("resnet18").eval(), pictures(70)
    batch = torch.from_numpy(np.stack([to_input(image, (64, 64)) for image in images]))
    with torch.no_grad():
        features = encoder(batch).mean((2, 3)).double().numpy()
    found = Health(images, count=70, input_size=64)(encoder, CPU)
    assert found == pytest.approx(feature_health(features), rel=1e-3)
    assert found["rankme"] == pytest.approx(of_paper(features), rel=1e-2)


def test_an_encoder_that_sees_no_difference_has_rank_one():
    encoder = Encoder("resnet18").eval()
    torch.nn.init.zeros_(encoder.model.conv1.weight)
    found = Health(pictures(70), input_size=64)(encoder, CPU)
    assert found == {"rankme": pytest.approx(1, abs=0.01), "feature_std": 0, "dead_channels": 1}


def test_count_images_are_drawn_by_the_seed_alone():
    images = pictures(30)
    first, again, other = (Health(images, count=10, input_size=32, seed=seed).images for seed in (0, 0, 1))
    assert first.shape == (10, 1, 32, 32)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_generators_of_a_training_are_left_alone():
    encoder = Encoder("resnet18").eval()
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    Health(pictures(8), input_size=32)(encoder, CPU)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)


def test_files_and_corpora_are_read_like_arrays(tmp_path):
    images = pictures(5)
    for number, image in enumerate(images):
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    files = sorted(tmp_path.glob("*.png"))
    build_pack([tmp_path], tmp_path / "pack", short_side=256)
    expected = Health(images, input_size=48).images
    assert torch.equal(Health(files, input_size=48).images, expected)
    assert torch.equal(Health(Corpus(tmp_path / "pack"), input_size=48).images, expected)
    assert torch.equal(Health(Corpus(f"file://{tmp_path / 'pack'}"), input_size=48).images, expected)


def test_what_cannot_be_used_is_a_named_error(tmp_path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(EmptyInputError, match="1 images"):
        Health(pictures(1))
    with pytest.raises(UnreadableFileError):
        Health([tmp_path / "broken.png"] * 2)
    with pytest.raises(DatasetError, match="float64"):
        Health([np.zeros((5, 5))] * 2)
    with pytest.raises(BundleConfigError, match="count"):
        Health(pictures(3), count=1)
