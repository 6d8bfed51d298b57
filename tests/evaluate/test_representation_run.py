"""The whole analysis: a fair draw, embeddings that are computed once, files that stay, and refusals by name."""

from __future__ import annotations

import csv
import json
from collections import Counter

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sonodistill.errors import BundleConfigError, DatasetError, UnreadableFileError
from sonodistill.networks.encoder import Encoder
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, MANIFEST, table, write_table
from sonodistill_training.corpus.shards import ShardWriter
from sonodistill_training.evaluate.representation.frames import draw
from sonodistill_training.evaluate.representation.numbers import linear_cka
from sonodistill_training.evaluate.representation.run import analyse
from sonodistill_training.monitor.features import NotFiniteError, embeddings, read_gray, shrink

SETTINGS = {"input_size": 32, "neighbours": 3, "projections": ("tsne",)}


class Counting(torch.nn.Module):
    """Quadrant means of the image, mixed by random weights; counts the frames that it has seen."""

    def __init__(self, seed=0, channels=6):
        super().__init__()
        weight = np.random.default_rng(seed).normal(size=(channels, 4))
        self.weight = torch.nn.Parameter(torch.from_numpy(weight).float())
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        quadrants = torch.nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)
        return (quadrants @ self.weight.T)[:, :, None, None]


def picture(number):
    return cv2.resize(np.random.default_rng(number).integers(0, 256, (5, 6), dtype=np.uint8), (40, 36))


def labelled(folder, frames, dataset="", anatomy="", first=0):
    """A labelled folder of two frames a patient; a column that says nothing is left out."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(frames):
        cv2.imwrite(str(folder / f"{number}.png"), picture(first + number))
        row = {"file": f"{number}.png", "group": f"p{number // 2}", "dataset": dataset, "anatomy": anatomy}
        rows.append({name: value for name, value in row.items() if value})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder


def corpus(folder, datasets):
    """A corpus of one shard; patients have two frames each."""
    with ShardWriter(folder / "shards/0.arrow") as writer:
        rows = [
            {"id": str(n), "dataset": name, "group": f"g{n // 2}", "status": "kept", "shard": "shards/0.arrow"}
            | {"row": writer.append(picture(500 + n))}
            for n, name in enumerate(datasets)
        ]
    write_table(folder / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "ab" * 32, "short_side": "36"})
    return folder


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    return {"busi": labelled(folder / "a", 12), "lung": labelled(folder / "b", 8, "pocus", "lung", first=100)}


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_run_calls_no_encoder_and_changes_no_byte(sources, tmp_path):
    encoders = {"R50-Rand": Counting(1), "R50 Distill/US": Counting(2, channels=9)}
    first = analyse(encoders, sources, tmp_path, **SETTINGS)
    assert [encoder.seen for encoder in encoders.values()] == [20, 20]
    files = content(tmp_path)
    assert {"tsne.svg", "tsne.png", "points.parquet", "points.csv", "numbers.json", "numbers.md"} < {
        str(path) for path in files
    }
    assert analyse(encoders, sources, tmp_path, **SETTINGS) == first == json.loads(files_text(tmp_path))
    assert [encoder.seen for encoder in encoders.values()] == [20, 20] and content(tmp_path) == files


def files_text(folder):
    return (folder / "numbers.json").read_text()


def test_what_is_lost_is_written_again_without_a_call_and_with_the_same_bytes(sources, tmp_path):
    encoder = Counting()
    analyse({"a": encoder}, sources, tmp_path, **SETTINGS)
    files = content(tmp_path)
    for name in ("tsne.svg", "tsne.png", "points.csv", "numbers.md"):
        (tmp_path / name).unlink()
    analyse({"a": encoder}, sources, tmp_path, **SETTINGS)
    assert encoder.seen == 20 and content(tmp_path) == files


def test_an_encoder_more_is_embedded_alone_and_other_weights_anew(sources, tmp_path):
    old, new = Counting(1), Counting(2)
    analyse({"old": old}, sources, tmp_path, **SETTINGS)
    found = analyse({"old": old, "new": new}, sources, tmp_path, **SETTINGS)
    assert (old.seen, new.seen) == (20, 20) and list(found["encoders"]) == ["old", "new"]
    with torch.no_grad():
        old.weight += 1
    analyse({"old": old, "new": new}, sources, tmp_path, **SETTINGS)
    assert (old.seen, new.seen) == (40, 20)


def test_an_encoder_with_a_key_is_made_only_when_it_is_needed(sources, tmp_path):
    made = []

    def make():
        made.append(Counting())
        return made[-1]

    for _ in range(2):
        analyse({"a": make}, sources, tmp_path, keys={"a": "sha of the file"}, **SETTINGS)
    assert [encoder.seen for encoder in made] == [20]
    analyse({"a": make}, sources, tmp_path, keys={"a": "another file"}, **SETTINGS)
    assert len(made) == 2


def test_a_changed_frame_is_embedded_anew(tmp_path):
    sources = {"busi": labelled(tmp_path / "a", 12), "lung": labelled(tmp_path / "b", 8, "pocus", "lung")}
    encoder = Counting()
    analyse({"a": encoder}, sources, tmp_path / "out", **SETTINGS)
    cv2.imwrite(str(tmp_path / "a/0.png"), picture(999))
    analyse({"a": encoder}, sources, tmp_path / "out", **SETTINGS)
    assert encoder.seen == 40


def test_embeddings_are_those_of_the_monitors_and_points_and_numbers_are_of_them(sources, tmp_path):
    encoders = {"a": Counting(1), "b": Counting(2)}
    found = analyse(encoders, sources, tmp_path, **SETTINGS)
    frames = draw(sources, 400)
    images = shrink((read_gray(frame.load()) for frame in frames), 32)
    expected = {name: embeddings(encoder, images, torch.device("cpu"), "fp32") for name, encoder in encoders.items()}
    for name, values in expected.items():
        (stored,) = [path for path in (tmp_path / "embeddings").glob(f"{name}-*.npz") if "tsne" not in path.name]
        with np.load(stored, allow_pickle=False) as file:
            assert np.array_equal(file["values"], values)
    assert found["cka"]["a"]["b"] == pytest.approx(linear_cka(expected["a"], expected["b"]))
    points = pq.read_table(tmp_path / "points.parquet").to_pylist()
    assert [row["group"] for row in points] == [frame.group for frame in frames] * 2
    assert Counter(row["dataset"] for row in points) == {"busi": 24, "pocus": 16}


def test_the_table_tells_each_encoder_and_that_anatomy_and_data_set_are_one(sources, tmp_path):
    found = analyse({"R50|US": Counting()}, sources, tmp_path, **SETTINGS)
    text = (tmp_path / "numbers.md").read_text()
    purity = found["encoders"]["R50|US"]["purity"]["anatomy"]
    assert f"{purity['value']:.3f} ({purity['chance']:.3f})" in text and "R50\\|US" in text
    assert found["confounded"] and "Every anatomy comes from one data set" in text
    assert found["data_sets"]["busi"] == {"frames": 12, "groups": 6, "anatomies": ["breast"]}
    assert found["encoders"]["R50|US"]["shortcut"] is None


def test_two_data_sets_of_one_anatomy_have_a_shortcut(sources, tmp_path):
    sources = {**sources, "c": labelled(tmp_path / "c", 12, "clinic", "breast", first=300)}
    found = analyse({"a": Counting()}, sources, tmp_path / "out", **SETTINGS)
    assert not found["confounded"]
    of_breast = found["encoders"]["a"]["shortcut_by_anatomy"]["breast"]
    assert found["encoders"]["a"]["shortcut"] == pytest.approx(of_breast["value"] - of_breast["chance"])


@pytest.mark.parametrize("limit", [1, 4, 6, 9, 12, 99])
def test_a_draw_takes_as_many_of_each_data_set_from_as_many_patients_as_there_are(sources, limit):
    frames = draw(sources, limit, seed=1)
    for dataset, of_set in (("busi", 12), ("pocus", 8)):
        groups = Counter(frame.group for frame in frames if frame.dataset == dataset)
        assert groups.total() == min(limit, of_set) and len(groups) == min(limit, of_set // 2)
        assert max(groups.values()) - min(groups.values()) <= 1
    assert [frame.sha256 for frame in draw(sources, limit, seed=1)] == [frame.sha256 for frame in frames]


def test_the_seed_draws_others(sources):
    assert [f.sha256 for f in draw(sources, 3, seed=1)] != [f.sha256 for f in draw(sources, 3, seed=2)]


def test_a_corpus_is_a_source_of_its_data_sets_with_the_registrys_anatomies(tmp_path):
    sources = {"ours": corpus(tmp_path / "corpus", ["busi"] * 6 + ["muscle_timtrack"] * 6)}
    found = analyse({"a": Counting()}, sources, tmp_path / "out", **SETTINGS)
    assert found["data_sets"]["busi"] == {"frames": 6, "groups": 3, "anatomies": ["breast"]}
    assert found["data_sets"]["muscle_timtrack"]["anatomies"] == ["muscle"]


def test_an_anatomy_that_nothing_tells_is_refused_unless_it_is_given(tmp_path):
    sources = {"ours": corpus(tmp_path / "corpus", ["busi"] * 6 + ["local"] * 6)}
    with pytest.raises(DatasetError, match="of which anatomy local is"):
        analyse({"a": Counting()}, sources, tmp_path / "out", **SETTINGS)
    found = analyse({"a": Counting()}, sources, tmp_path / "out", anatomies={"local": "Thyroid"}, **SETTINGS)
    assert found["data_sets"]["local"]["anatomies"] == ["thyroid"]


def test_one_data_set_few_frames_and_a_data_set_in_two_sources_are_refused(sources, tmp_path):
    encoder = Counting()
    with pytest.raises(DatasetError, match="one data set, busi"):
        analyse({"a": encoder}, {"busi": sources["busi"]}, tmp_path, **SETTINGS)
    with pytest.raises(DatasetError, match="6 frames, .* 10 neighbours"):
        analyse({"a": encoder}, sources, tmp_path, **SETTINGS | {"limit": 3, "neighbours": 10})
    with pytest.raises(DatasetError, match="holds busi, which busi holds too"):
        analyse({"a": encoder}, {**sources, "again": labelled(tmp_path / "b", 4, "busi")}, tmp_path, **SETTINGS)
    assert encoder.seen == 0


def test_an_encoder_that_gives_nan_is_named_and_leaves_nothing(sources, tmp_path):
    broken = Counting()
    torch.nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(NotFiniteError, match="R50-US: 100"):
        analyse({"R50-US": broken}, sources, tmp_path, **SETTINGS)
    assert not content(tmp_path)


def test_settings_that_cannot_work_are_refused(sources, tmp_path):
    with pytest.raises(BundleConfigError, match="no encoder"):
        analyse({}, sources, tmp_path)
    with pytest.raises(BundleConfigError, match="limit is 0"):
        analyse({"a": Counting()}, sources, tmp_path, **SETTINGS | {"limit": 0})
    patches = Counting()
    patches.input_multiple = 14
    with pytest.raises(BundleConfigError, match="multiples of 14, not 32"):
        analyse({"a": patches}, sources, tmp_path, **SETTINGS)


def test_a_damaged_cache_is_named(sources, tmp_path):
    analyse({"a": Counting()}, sources, tmp_path, **SETTINGS)
    (stored,) = (tmp_path / "embeddings").glob("a-tsne-*.npz")
    stored.write_bytes(stored.read_bytes()[:60])
    (tmp_path / "tsne.svg").unlink()
    with pytest.raises(UnreadableFileError, match="remove it and run again"):
        analyse({"a": Counting()}, sources, tmp_path, **SETTINGS)


def test_real_frames_by_a_tiny_network(shared, tmp_path):
    names = ("aul", "busi", "hc18", "muscle_timtrack", "pocus_lung")
    torch.manual_seed(0)
    encoders = {"R10-Rand": Encoder("resnet10t"), "R10-Other": Encoder("resnet10t")}
    sources = {name: shared / "data/frames" / name for name in names} | {"ddti": shared / "data/raw/ddti"}
    found = analyse(encoders, sources, tmp_path, limit=12, input_size=64, projections=("tsne",))
    assert found["frames"] == 72 and set(found["data_sets"]) == {*names, "ddti"}
    assert found["data_sets"]["hc18"] == {"frames": 12, "groups": 12, "anatomies": ["fetal head"]}
    for of in found["encoders"].values():
        assert of["purity"]["dataset"]["value"] > of["purity"]["dataset"]["chance"] + 0.1
        assert 1 < of["rankme"] < 72 and of["channels"] == 512
    assert 0 < found["cka"]["R10-Rand"]["R10-Other"] < 1
