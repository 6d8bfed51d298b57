"""The probe: nearest neighbours and logistic regression against scikit-learn's, over folds that divide no group."""

from __future__ import annotations

import csv
from collections import Counter

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_f1_score

from sonodistill.errors import BundleConfigError, DatasetError, UnreadableFileError
from sonodistill.frames import read
from sonodistill.networks.encoder import Encoder
from sonodistill.transforms.geometry import to_input
from sonodistill_training.monitor.features import NotFiniteError
from sonodistill_training.monitor.probe import Probe, knn, spread

CPU = torch.device("cpu")
SIZE = 64


def picture(kind: int, seed: int) -> np.ndarray:
    """(72, 80) uint8 speckle, more or less coarse, with more or less of a bright spot."""
    generator = np.random.default_rng([kind, seed])
    coarse = generator.gamma(2, 20, (12 + 6 * kind, 12)).clip(0, 255).astype(np.uint8)
    image = cv2.resize(coarse, (80, 72), interpolation=cv2.INTER_CUBIC)
    cv2.circle(image, (40, 36), 8, 80 + 70 * kind, -1)
    return image


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """45 frames of three classes; each patient has three, of one class. A further frame has no label."""
    folder = tmp_path_factory.mktemp("labelled")
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "label", "group", "split"])
        for number in range(46):
            kind = number % 3
            cv2.imwrite(str(folder / f"{number}.png"), picture(kind, number))
            label = "" if number == 45 else ("benign", "malignant", "normal")[kind]
            split = "test" if number // 9 == 4 else "train"
            writer.writerow([f"{number}.png", label, f"patient {kind} {number // 9}", split])
    return folder


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return Encoder("resnet18").eval()


def expected(probe, encoder, classifier):
    """Accuracy and macro F1 of scikit-learn's classifier, counted by torchmetrics."""
    with torch.no_grad():
        features = encoder(probe.images.float() / 255).mean((2, 3)).double().numpy()
    pipeline = make_pipeline(StandardScaler(), classifier)
    predicted = torch.from_numpy(cross_val_predict(pipeline, features, probe.labels, cv=probe.folds))
    labels, classes = torch.from_numpy(probe.labels), len(probe.classes)
    return {
        "probe_accuracy": float(multiclass_accuracy(predicted, labels, classes, average="micro")),
        "probe_macro_f1": float(multiclass_f1_score(predicted, labels, classes, average="macro")),
    }


def dino_weights(distances):
    return np.exp((1 - distances) / 0.07)


def reference(kind, neighbours=20):
    if kind == "linear":
        return LogisticRegression(C=0.01, max_iter=1000)
    return KNeighborsClassifier(neighbours, metric="cosine", weights=dino_weights, algorithm="brute")


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_a_probe_scores_as_scikit_learn_and_torchmetrics_do(folder, encoder, kind):
    probe = Probe(folder, SIZE, kind, neighbours=7, precision="fp32")
    found = probe(encoder, CPU)
    assert found == pytest.approx(expected(probe, encoder, reference(kind, 7)), abs=1e-6)
    assert found["probe_accuracy"] > 0.5  # classes differ in grain and brightness, which random filters see


@given(st.integers(5, 40), st.integers(1, 20), st.integers(2, 5), st.integers(1, 60), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_neighbours_vote_as_scikit_learns_do(rows, channels, classes, neighbours, seed):
    generator = np.random.default_rng(seed)
    train, queries = generator.normal(size=(rows, channels + 1)), generator.normal(size=(9, channels + 1))
    labels = np.arange(rows) % classes
    classifier = reference("knn", min(neighbours, rows)).fit(train, labels)
    assert np.array_equal(knn(train, labels, queries, neighbours), classifier.predict(queries))


def test_images_go_in_as_inference_shows_them(folder):
    probe = Probe(folder, SIZE)
    inferred = [to_input(next(iter(read(folder / f"{number}.png"))).image, (SIZE, SIZE)) for number in range(45)]
    assert np.array_equal(probe.images.float() / 255, np.stack(inferred))


def test_no_group_is_divided_and_each_image_is_held_out_once(folder):
    probe = Probe(folder, SIZE, folds=4)
    groups = np.array([f"{number % 3} {number // 9}" for number in range(45)])
    for train, held_out in probe.folds:
        assert not set(groups[train]) & set(groups[held_out])
        assert set(probe.labels[train]) == {0, 1, 2}
    assert sorted(np.concatenate([held_out for _, held_out in probe.folds])) == list(range(45))


def test_frames_without_a_label_are_left_out_and_a_split_can_be_chosen(folder):
    assert len(Probe(folder, SIZE).images) == 45
    assert len(Probe(folder, SIZE, split="train", folds=4).images) == 36


def test_arrays_paths_and_a_folder_give_the_same(folder, encoder):
    names = ("benign", "malignant", "normal")
    arrays = [(picture(n % 3, n), names[n % 3], f"patient {n % 3} {n // 9}") for n in range(45)]
    paths = [(folder / f"{number}.png", label, group) for number, (_, label, group) in enumerate(arrays)]
    assert Probe(folder, SIZE)(encoder, CPU) == Probe(arrays, SIZE)(encoder, CPU) == Probe(paths, SIZE)(encoder, CPU)


def test_images_without_a_group_stand_alone():
    probe = Probe([(picture(n % 2, n), n % 2) for n in range(10)], SIZE, folds=5)
    assert [len(held_out) for _, held_out in probe.folds] == [2] * 5


def test_a_probe_repeats_itself_and_leaves_the_generators_and_the_encoder_alone(folder, encoder):
    probe = Probe(folder, SIZE, "linear")
    before, state = torch.get_rng_state(), {name: value.clone() for name, value in encoder.state_dict().items()}
    assert probe(encoder, CPU) == probe(encoder, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())


def test_an_encoder_can_be_trained_after_a_probe(folder):
    encoder = Encoder("resnet18").eval()
    Probe(folder, SIZE)(encoder, CPU)
    encoder.train()(torch.rand(2, 1, SIZE, SIZE)).mean().backward()
    assert encoder.model.conv1.weight.grad.abs().sum() > 0


class _Constant(nn.Module):
    """All images alike, whatever they show."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        return torch.full((len(images), 3, 2, 2), self.value)


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_features_that_tell_nothing_score_no_better_than_one_class(kind):
    pairs = [(picture(0, n), "rare" if n % 4 == 0 else "common") for n in range(40)]
    found = Probe(pairs, SIZE, kind)(_Constant(0.3), CPU)
    assert found == {"probe_accuracy": 0.75, "probe_macro_f1": pytest.approx(0.75 / 1.75)}


def test_features_that_are_not_finite_are_a_named_error(folder):
    with pytest.raises(NotFiniteError, match="100.0%"):
        Probe(folder, SIZE)(_Constant(float("nan")), CPU)


def test_bf16_sees_much_what_fp32_sees(folder, encoder):
    full, half = (Probe(folder, SIZE, precision=precision)(encoder, CPU) for precision in ("fp32", "bf16"))
    assert half == pytest.approx(full, abs=0.15)


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_a_limit_keeps_the_shares_of_the_classes(labels, limit, seed):
    chosen = spread(labels, limit, seed)
    assert chosen == sorted(set(chosen)) and len(chosen) == min(limit, len(labels))
    for label, count in Counter(labels).items():
        taken = sum(labels[index] == label for index in chosen)
        assert abs(taken - count * len(chosen) / len(labels)) <= 1.5


def test_a_limit_is_drawn_by_the_seed(folder):
    first, again, other = (Probe(folder, SIZE, limit=30, folds=3, seed=seed).images for seed in (0, 0, 1))
    assert len(first) == 30
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_cannot_be_probed_is_said_before_the_training_begins(folder, tmp_path):
    pairs = [(picture(0, n), "one") for n in range(8)]
    with pytest.raises(DatasetError, match="only the class one"):
        Probe(pairs, SIZE)
    with pytest.raises(DatasetError, match="the class two has 3 groups .* 5 folds"):
        Probe(pairs + [(picture(1, n), "two") for n in range(3)], SIZE)
    with pytest.raises(DatasetError, match="the class two has 1 groups"):
        Probe(pairs + [(picture(1, n), "two", "the same patient") for n in range(9)], SIZE)
    with pytest.raises(DatasetError, match="no index.csv"):
        Probe(tmp_path, SIZE)
    with pytest.raises(DatasetError, match="no labelled frame"):
        Probe(folder, SIZE, split="validation")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(UnreadableFileError, match="broken.png"):
        Probe([(tmp_path / "broken.png", n % 2) for n in range(10)], SIZE)
    with pytest.raises(DatasetError, match=r"\(9, 9, 3\)"):
        Probe([(np.zeros((9, 9, 3), np.uint8), n % 2) for n in range(10)], SIZE)


@pytest.mark.parametrize("setting", [{"kind": "svm"}, {"folds": 1}, {"neighbours": 0}, {"limit": 0}])
def test_a_setting_that_cannot_work_is_a_named_error(folder, setting):
    with pytest.raises(BundleConfigError, match=next(iter(setting)) if setting != {"kind": "svm"} else "svm"):
        Probe(folder, SIZE, **setting)


@pytest.mark.parametrize("kind", ["knn", "linear"])
def test_breast_lesions_are_probed_as_scikit_learn_does(shared, encoder, kind):
    probe = Probe(shared / "data" / "frames" / "busi", SIZE, kind, folds=3, limit=60, precision="fp32")
    assert list(probe.classes) == ["benign", "malignant", "normal"]
    assert probe(encoder, CPU) == pytest.approx(expected(probe, encoder, reference(kind)), abs=1e-6)
