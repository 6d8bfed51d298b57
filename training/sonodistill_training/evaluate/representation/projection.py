"""Embeddings in two dimensions (t-SNE, UMAP), and the figure that shows several encoders in the same colours."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import BundleConfigError, DatasetError, SonoDistillError
from sonodistill.files import atomic_path
from sonodistill_training.monitor.features import require_finite
from sonodistill_training.report.curves import KINDS as PICTURES

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure

KINDS = {"tsne": "t-SNE", "umap": "UMAP"}
LEAST_FRAMES = 5
PERPLEXITY, UMAP_NEIGHBOURS = 30.0, 15  # the methods' own defaults
# Otherwise a file tells when it was drawn, and no two are equal.
_UNDATED: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}

Points = NDArray[np.float64]
"""(N, 2)."""


class MissingPackageError(SonoDistillError):
    """An optional package is needed and not installed."""


def require_kind(kind: str) -> None:
    """Raise BundleConfigError for an unknown projection and MissingPackageError for one that cannot be computed."""
    if kind not in KINDS:
        raise BundleConfigError(f"no projection is called {kind}", remedy=f"choose one of {', '.join(KINDS)}")
    if kind == "umap":
        _umap()


def project(embeddings: NDArray[np.float64], kind: str = "tsne", seed: int = 0) -> Points:
    """(N, C) embeddings to (N, 2). Rows are brought to length 1 first, so that distances go by cosine.

    t-SNE starts from the principal components, with perplexity min(30, (N - 1) / 3); UMAP takes min(15, N - 1)
    neighbours. Both run in one thread: on one machine the same seed gives the same points. Embeddings that are all
    equal stay in one point.

    Raises:
        BundleConfigError: another kind.
        MissingPackageError: "umap" without umap-learn.
        NotFiniteError: a feature is not a finite number.
        DatasetError: fewer than five frames.
    """
    from sklearn.preprocessing import normalize
    from threadpoolctl import threadpool_limits

    require_kind(kind)
    count = len(embeddings)
    if count < LEAST_FRAMES:
        raise DatasetError(f"{count} frames cannot be projected", remedy=f"give {LEAST_FRAMES} or more")
    rows = normalize(require_finite(embeddings))
    if np.ptp(rows, axis=0).max() <= np.finfo(np.float32).eps:
        return np.zeros((count, 2))
    # Sums over threads come out in any order, and t-SNE makes a difference in the last bit a picture of its own.
    with threadpool_limits(1):
        return (_tsne(rows, seed) if kind == "tsne" else _umap_points(rows, seed)).astype(np.float64)


def _tsne(rows: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    return TSNE(2, init="pca", perplexity=perplexity, random_state=seed).fit_transform(rows)


def _umap_points(rows: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    neighbours = min(UMAP_NEIGHBOURS, len(rows) - 1)
    return _umap().UMAP(n_neighbors=neighbours, random_state=seed, n_jobs=1).fit_transform(rows)


def _umap() -> Any:
    try:
        import umap
    except ImportError as error:
        raise MissingPackageError(
            "UMAP needs the package umap-learn", remedy="pip install umap-learn, or ask for tsne alone"
        ) from error
    return umap


def colours(names: Iterable[str], of: str = "dataset") -> dict[str, tuple[float, float, float]]:
    """RGB in [0, 1] for each name, by its place in the sorted names; anatomies have other colours than data sets."""
    from matplotlib import colormaps

    listed = sorted(set(names))
    maps = ("tab20",) if of == "dataset" else ("Dark2", "Set1")
    palette = [tuple(map(float, colour)) for name in maps for colour in colormaps[name].colors]  # type: ignore[attr-defined]
    if of == "dataset":
        palette = palette[::2] + palette[1::2]  # the pale half only where the strong one does not suffice
    if len(listed) > len(palette):
        palette = [colorsys.hsv_to_rgb(i / len(listed), 0.9 - 0.4 * (i % 2), 0.85) for i in range(len(listed))]
    return dict(zip(listed, palette, strict=False))


def figure(
    points: Mapping[str, Points], datasets: Sequence[str], anatomies: Sequence[str], kind: str = "tsne", seed: int = 0
) -> Figure:
    """A column for each encoder, coloured by data set above and by anatomy below, with one legend a row.

    Points are drawn in the same order everywhere, shuffled by the seed, so that no data set is painted over another.

    Args:
        points: (N, 2) of each encoder.
        datasets, anatomies: of each frame.

    Raises:
        DatasetError: no encoder, or not a point for each frame.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    wrong = [name for name, found in points.items() if found.shape != (len(datasets), 2)]
    if wrong or not points or len(anatomies) != len(datasets):
        raise DatasetError(
            f"not a point, a data set and an anatomy for each frame ({', '.join(wrong) or 'labels'})",
            remedy="project the embeddings of every encoder first",
        )
    order = np.random.default_rng(seed).permutation(len(datasets))
    size = float(np.clip(6000 / len(datasets), 3, 25))
    columns = len(points)
    drawn = Figure(figsize=(3.2 * columns + 2.0, 6.6), layout="constrained")
    grid = drawn.subplots(2, columns + 1, squeeze=False, width_ratios=[3.2] * columns + [1.8])
    rows = (("data set", datasets, colours(datasets)), ("anatomy", anatomies, colours(anatomies, "anatomy")))
    for axes, (title, names, palette) in zip(grid, rows, strict=True):
        shades = np.array([palette[names[index]] for index in order])
        for place, (encoder, found) in zip(axes, points.items(), strict=False):
            # Thousands of vector circles make a page slow; the points alone are pixels, all else stays vector.
            place.scatter(*found[order].T, s=size, c=shades, linewidths=0, rasterized=True)
            place.set(xticks=[], yticks=[])
            if title == "data set":
                place.set_title(encoder, fontsize=10)
        axes[0].set_ylabel(f"{KINDS.get(kind, kind)}, by {title}")
        handles = [Line2D([], [], marker="o", linestyle="", color=c, label=name) for name, c in palette.items()]
        axes[-1].axis("off")
        axes[-1].legend(handles=handles, title=title, loc="center left", fontsize=8, frameon=False)
    return drawn


def write_figure(drawn: Figure, out: str | Path) -> None:
    """Write .svg, .png or .pdf; the same figure gives the same bytes.

    Raises:
        BundleConfigError: another kind of picture.
    """
    import matplotlib

    kind = Path(out).suffix.lower().lstrip(".")
    if kind not in PICTURES:
        raise BundleConfigError(
            f"a picture cannot be written as {kind or 'a file without a suffix'}",
            path=out,
            remedy=f"choose one of {', '.join(PICTURES)}",
        )
    with matplotlib.rc_context({"svg.hashsalt": "sonodistill"}), atomic_path(out) as path:
        drawn.savefig(path, dpi=150, format=kind, metadata=_UNDATED[kind])


def points_table(
    points: Mapping[str, Mapping[str, Points]],
    datasets: Sequence[str],
    anatomies: Sequence[str],
    groups: Sequence[str],
) -> pa.Table:
    """A row for each frame of each encoder and projection: projection, encoder, dataset, anatomy, group, x, y.

    Args:
        points: by projection, then by encoder, (N, 2) in the order of the labels.
    """
    import pyarrow as pa

    parts = [(kind, encoder, found) for kind, encoders in points.items() for encoder, found in encoders.items()]
    columns: dict[str, Any] = {
        "projection": [kind for kind, _, found in parts for _ in found],
        "encoder": [encoder for _, encoder, found in parts for _ in found],
        "dataset": list(datasets) * len(parts),
        "anatomy": list(anatomies) * len(parts),
        "group": list(groups) * len(parts),
    }
    together = np.concatenate([found for _, _, found in parts]) if parts else np.zeros((0, 2))
    return pa.table({**columns, "x": together[:, 0], "y": together[:, 1]})


def write_points(table: pa.Table, out: str | Path) -> None:
    """Write the points as Parquet, or as CSV where the name ends so."""
    from pyarrow import csv, parquet

    with atomic_path(out) as path:
        csv.write_csv(table, path) if Path(out).suffix.lower() == ".csv" else parquet.write_table(table, path)
