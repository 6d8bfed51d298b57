"""Projections are the seed's alone, and the figure has one colour for each data set and anatomy in every panel."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
from matplotlib import image

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill_training.evaluate.representation.projection import (
    MissingPackageError,
    colours,
    figure,
    points_table,
    project,
    require_kind,
    write_figure,
    write_points,
)
from sonodistill_training.monitor.features import NotFiniteError

DATASETS = ["busi"] * 20 + ["ddti"] * 15 + ["aul"] * 10
ANATOMIES = ["breast"] * 20 + ["thyroid"] * 15 + ["liver"] * 10
GROUPS = [str(row // 2) for row in range(45)]


def clusters(seed=0):
    centres = dict(zip(sorted(set(DATASETS)), np.eye(8), strict=False))
    return np.stack([centres[name] for name in DATASETS]) + 0.05 * np.random.default_rng(seed).normal(size=(45, 8))


def points(seed):
    return np.random.default_rng(seed).normal(size=(45, 2))


def require_clusters_apart(found):
    distance = np.linalg.norm(found[:, None] - found[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    assert [DATASETS[row] for row in distance.argmin(axis=1)] == DATASETS


def test_tsne_is_the_seeds_alone_and_keeps_clusters_apart():
    first, again = project(clusters()), project(clusters())
    assert first.shape == (45, 2) and first.dtype == np.float64 and np.array_equal(first, again)
    require_clusters_apart(first)


def test_tsne_does_not_depend_on_the_length_of_embeddings():
    lengths = 2.0 ** np.arange(45)[:, None] % 7 + 1
    assert np.allclose(project(clusters()), project(clusters() * np.ldexp(1.0, lengths.astype(int))))


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_is_the_seeds_alone_and_keeps_clusters_apart():
    first, again = project(clusters(), "umap", seed=3), project(clusters(), "umap", seed=3)
    assert first.shape == (45, 2) and np.array_equal(first, again)
    require_clusters_apart(first)


def test_umap_without_its_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingPackageError, match="pip install umap-learn"):
        project(clusters(), "umap")


def test_few_frames_and_equal_embeddings_can_be_projected():
    assert np.isfinite(project(clusters()[:5])).all()
    assert np.array_equal(project(np.full((9, 4), 0.3)), np.zeros((9, 2)))


def test_what_cannot_be_projected_is_refused():
    with pytest.raises(DatasetError, match="4 frames"):
        project(clusters()[:4])
    with pytest.raises(NotFiniteError):
        project(np.full((9, 4), np.nan))
    with pytest.raises(BundleConfigError, match="choose one of tsne, umap"):
        require_kind("pca")


def test_every_name_has_a_colour_of_its_own():
    for count in (1, 9, 20, 45):
        for of in ("dataset", "anatomy"):
            names = [f"set {number}" for number in range(count)]
            found = colours(names, of)
            assert list(found) == sorted(names) and len(set(found.values())) == count
    assert colours(["b", "a", "b"]) == colours(["a", "b"])


def shades(place):
    """The colour of each point of a panel, by where the point lies."""
    offsets, faces = place.collections[0].get_offsets(), place.collections[0].get_facecolors()
    return {tuple(np.round(offset, 9)): tuple(face[:3]) for offset, face in zip(offsets, faces, strict=True)}


def test_a_data_set_and_an_anatomy_have_the_same_colour_for_every_encoder_and_in_the_one_legend():
    encoders = {"R50-Rand": points(1), "R50-Distill-US": points(2), "DINOv3": points(3)}
    drawn = figure(encoders, DATASETS, ANATOMIES)
    assert len(drawn.axes) == 2 * 4
    for row, (of, names) in enumerate((("dataset", DATASETS), ("anatomy", ANATOMIES))):
        palette = colours(names, of)
        *panels, legend = drawn.axes[4 * row : 4 * row + 4]
        for place, found in zip(panels, encoders.values(), strict=True):
            expected = {tuple(np.round(point, 9)): palette[name] for point, name in zip(found, names, strict=True)}
            assert shades(place) == expected
        texts = [text.get_text() for text in legend.get_legend().get_texts()]
        handles = [handle.get_color() for handle in legend.get_legend().legend_handles]
        assert dict(zip(texts, handles, strict=True)) == palette
        assert not any(place.get_legend() for place in panels)
    assert [place.get_title() for place in drawn.axes[:3]] == list(encoders)


def test_points_are_drawn_in_one_shuffled_order_in_every_panel():
    same = points(1)
    drawn = figure({"a": same, "b": same}, DATASETS, ANATOMIES, seed=5)
    panels = [place for place in drawn.axes if place.collections]
    orders = [np.asarray(place.collections[0].get_offsets()) for place in panels]
    assert len(orders) == 4 and all(np.array_equal(order, orders[0]) for order in orders)
    assert not np.array_equal(orders[0], same)
    assert np.array_equal(np.sort(orders[0], axis=0), np.sort(same, axis=0))


def test_pictures_are_written_and_equal_figures_are_equal_files(tmp_path):
    for name in ("one.svg", "two.svg", "one.png"):
        write_figure(figure({"R50-Rand": points(1)}, DATASETS, ANATOMIES), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    assert (tmp_path / "one.svg").read_text().lstrip().startswith("<?xml")
    assert image.imread(tmp_path / "one.png").std() > 0.01


def test_a_picture_that_cannot_be_drawn_or_written_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="R50"):
        figure({"R50": points(1)[:-1]}, DATASETS, ANATOMIES)
    with pytest.raises(BundleConfigError, match="gif"):
        write_figure(figure({"R50": points(1)}, DATASETS, ANATOMIES), tmp_path / "one.gif")
    assert not list(tmp_path.iterdir())


def test_points_come_back_from_both_kinds_of_file(tmp_path):
    found = {"tsne": {"a": points(1), "b": points(2)}, "umap": {"a": points(3), "b": points(4)}}
    table = points_table(found, DATASETS, ANATOMIES, GROUPS)
    assert table.column_names == ["projection", "encoder", "dataset", "anatomy", "group", "x", "y"]
    write_points(table, tmp_path / "points.parquet")
    write_points(table, tmp_path / "points.csv")
    assert pyarrow.parquet.read_table(tmp_path / "points.parquet").equals(table)
    rows = pyarrow.csv.read_csv(tmp_path / "points.csv").to_pylist()
    last = {"projection": "umap", "encoder": "b", "dataset": "aul", "anatomy": "liver"}
    assert len(rows) == 180 and last.items() <= rows[-1].items()
    assert (rows[-1]["x"], rows[-1]["y"]) == pytest.approx(tuple(points(4)[-1]))
