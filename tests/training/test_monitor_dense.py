"""The dense probe: its ridge regression, its cells and its Dice against scikit-learn's, arithmetic's and MONAI's."""

from __future__ import annotations

import csv

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import compute_dice
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn import functional

from sonodistill.errors import BundleConfigError, DatasetError, UnreadableFileError
from sonodistill.networks.encoder import Encoder
from sonodistill_training.monitor.dense import DenseProbe, Moments, best_threshold, cells, dice, resized_pyramid
from sonodistill_training.monitor.features import NotFiniteError

CPU = torch.device("cpu")
SIZE, GRID = 64, 16


def lesion(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(96, 112) uint8 speckle with a brighter ellipse, and its mask of 0 and 255."""
    generator = np.random.default_rng(seed)
    image = cv2.resize(generator.integers(0, 120, (24, 28), dtype=np.uint8), (112, 96))
    mask = np.zeros_like(image)
    centre, axes = generator.integers(35, 60, 2).tolist(), generator.integers(10, 25, 2).tolist()
    cv2.ellipse(mask, centre, axes, 0, 0, 360, 255, -1)
    return image + np.where(mask > 0, 100, 0).astype(np.uint8), mask


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty lesions of ten patients, four empty masks, and a frame that nobody has outlined."""
    folder = tmp_path_factory.mktemp("annotated")
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "mask", "group"])
        for number in range(25):
            image, mask = lesion(number)
            cv2.imwrite(str(folder / f"{number}.png"), image)
            cv2.imwrite(str(folder / f"{number}_mask.png"), mask if number < 20 else np.zeros_like(mask))
            writer.writerow([f"{number}.png", f"{number}_mask.png" if number < 24 else "", f"patient {number // 2}"])
    return folder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder("resnet18").eval()


class _Seen(nn.Module):
    """A pyramid of the image itself and something that tells nothing."""

    def __init__(self, gain=1.0):
        super().__init__()
        self.gain = gain

    def pyramid(self, images):
        return [self.gain * images, torch.ones(len(images), 2, 4, 4)]


def reference(probe, encoder, penalty=0.01):
    """Dice by scikit-learn's ridge on the same maps, thresholded at the value that is best among all it gave."""
    with torch.no_grad():
        maps = encoder.pyramid(probe.images.float() / 255)
    resized = [
        functional.adaptive_avg_pool2d(level, GRID)
        if level.shape[-1] >= GRID
        else functional.interpolate(level, (GRID, GRID), mode="bilinear")
        for level in maps
    ]
    features = torch.cat(resized, 1).permute(0, 2, 3, 1).double().numpy()  # (N, G, G, C)
    train = features[probe.train].reshape(-1, features.shape[-1])
    scaler = StandardScaler().fit(train)
    ridge = Ridge(alpha=penalty * len(train)).fit(scaler.transform(train), probe.masks[probe.train].ravel())
    scores = ridge.predict(scaler.transform(features.reshape(-1, features.shape[-1]))).reshape(probe.masks.shape)
    threshold = best_threshold(scores[probe.train], probe.masks[probe.train])
    found, truth = (torch.from_numpy(part[probe.held_out])[:, None] for part in (scores >= threshold, probe.masks))
    return float(compute_dice(found, truth).mean())


def test_a_dense_probe_scores_as_scikit_learns_ridge_and_monais_dice_do(folder, encoder):
    probe = DenseProbe(folder, SIZE, GRID, precision="fp32")
    found = probe(encoder, CPU)["probe_dice"]
    assert found == pytest.approx(reference(probe, encoder), abs=0.01)
    assert found > 0.6  # lesions are brighter, which random filters see


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_moments_of_parts_give_scikit_learns_ridge_of_the_whole(offset):
    generator = np.random.default_rng(0)
    features = generator.normal(size=(300, 12)) @ generator.normal(size=(12, 12)) + offset
    features[:, 3] = 5.0  # tells nothing
    targets = (features[:, 0] - features[:, 0].mean() + generator.normal(size=300) > 0).astype(np.float64)
    moments = Moments()
    for part, wanted in zip(np.split(features, [100, 130]), np.split(targets, [100, 130]), strict=True):
        moments.add(torch.from_numpy(part).float(), torch.from_numpy(wanted).float())
    weight, bias = moments.ridge(0.05)
    ridge = Ridge(alpha=0.05 * 300).fit(StandardScaler().fit_transform(features), targets)
    predicted = (features - moments.shift.numpy()) @ weight + bias
    assert np.allclose(predicted, ridge.predict(StandardScaler().fit_transform(features)), atol=2e-3)


def test_maps_that_show_the_lesion_outline_it():
    pairs = [((mask // 255 * np.uint8(200)), mask) for _, mask in map(lesion, range(9))]
    assert DenseProbe(pairs, SIZE, GRID, precision="fp32")(_Seen(), CPU)["probe_dice"] > 0.95


def test_maps_that_tell_nothing_score_as_a_lesion_everywhere():
    probe = DenseProbe([lesion(seed) for seed in range(9)], SIZE, GRID)
    everywhere = dice(np.ones_like(probe.masks[probe.held_out]), probe.masks[probe.held_out]).mean()
    assert probe(_Seen(gain=0.0), CPU)["probe_dice"] == pytest.approx(everywhere)


def test_maps_that_are_not_finite_are_a_named_error(folder):
    with pytest.raises(NotFiniteError):
        DenseProbe(folder, SIZE, GRID)(_Seen(gain=float("nan")), CPU)


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 99), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_dice_is_monais(images, side, seed, share):
    generator = np.random.default_rng(seed)
    found, truth = generator.random((2, images, side, side)) < share
    truth[:, 0, 0] = True  # no truth is empty
    expected = compute_dice(torch.from_numpy(found)[:, None], torch.from_numpy(truth)[:, None])
    assert np.allclose(dice(found, truth), expected[:, 0])


@given(st.integers(0, 99), st.integers(2, 8), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_a_cell_is_lesion_where_half_of_it_is(seed, grid, zoom):
    mask = (np.random.default_rng(seed).random((grid * zoom, grid * zoom)) < 0.6).astype(np.uint8)
    mask[:zoom, :zoom] = 255
    share = (mask > 0).reshape(grid, zoom, grid, zoom).mean(axis=(1, 3))
    clear = np.abs(share - 0.5) > 1e-3
    assert np.array_equal(cells(mask, grid)[clear], (share > 0.5)[clear])


def test_a_lesion_smaller_than_half_a_cell_is_the_cell_that_holds_most_of_it():
    mask = np.zeros((80, 80), np.uint8)
    mask[10:13, 18:21] = 1  # two columns in the cell (1, 1), one in the next
    found = cells(mask, 8)
    assert found.sum() == 1 and found[1, 1]


def test_a_mask_without_a_lesion_has_no_cells():
    assert cells(np.zeros((20, 30), np.uint8), 8) is None


def test_scores_that_separate_the_lesion_get_a_threshold_between():
    masks = np.stack([cells(lesion(seed)[1], GRID) for seed in range(6)])
    scores = np.where(masks, 0.6, 0.1) + np.random.default_rng(0).uniform(0, 0.3, masks.shape)
    assert dice(scores >= best_threshold(scores, masks), masks).mean() > 0.97


def test_the_pyramid_is_concatenated_on_the_grid(encoder):
    with torch.no_grad():
        images = torch.rand(2, 1, 96, 96)
        resized = resized_pyramid(encoder, images, 12)
        levels = encoder.pyramid(images)
    assert resized.shape == (2, sum(encoder.channels), 12, 12)
    assert torch.equal(resized[:, 128:256], levels[2])  # stride 8 is the grid's own
    assert torch.allclose(resized[:, :64], functional.avg_pool2d(levels[0], 4), atol=1e-5)


def test_only_lesions_are_taken_and_no_group_is_divided(folder):
    probe = DenseProbe(folder, SIZE, GRID)
    assert len(probe.images) == 20 and probe.masks.any(axis=(1, 2)).all()
    assert sorted([*probe.train, *probe.held_out]) == list(range(20))
    order = [number for number in np.random.default_rng(0).permutation(24) if number < 20]
    groups = np.array(order) // 2
    assert not set(groups[probe.train]) & set(groups[probe.held_out])
    assert len(probe.held_out) in (6, 8)


def test_a_limit_takes_so_many_lesions(folder):
    assert len(DenseProbe(folder, SIZE, GRID, limit=9).images) == 9


def test_a_probe_repeats_itself_and_leaves_the_generators_alone(folder, encoder):
    probe = DenseProbe(folder, SIZE, GRID, precision="bf16")
    before = torch.get_rng_state()
    assert probe(encoder, CPU) == probe(encoder, CPU)
    assert torch.equal(torch.get_rng_state(), before)


def test_what_cannot_be_probed_is_said_before_the_training_begins(folder, tmp_path):
    with pytest.raises(DatasetError, match="2 groups .* 3 folds"):
        DenseProbe([(*lesion(seed), f"patient {seed % 2}") for seed in range(8)], SIZE)
    with pytest.raises(DatasetError, match="0 groups"):
        DenseProbe([(lesion(seed)[0], np.zeros((9, 9), np.uint8)) for seed in range(8)], SIZE)
    with pytest.raises(DatasetError, match="no index.csv"):
        DenseProbe(tmp_path, SIZE)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(UnreadableFileError, match="broken.png"):
        DenseProbe([(lesion(seed)[0], tmp_path / "broken.png") for seed in range(8)], SIZE)
    with pytest.raises(BundleConfigError, match="folds"):
        DenseProbe(folder, SIZE, folds=1)


def test_breast_lesions_are_outlined_as_scikit_learn_does(shared, encoder):
    probe = DenseProbe(shared / "data" / "frames" / "busi", SIZE, GRID, limit=24, precision="fp32")
    assert len(probe.images) == 24
    assert probe(encoder, CPU)["probe_dice"] == pytest.approx(reference(probe, encoder), abs=0.02)
