"""The loader's benchmark: its figures, its JSON, and that both sides make the same views."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sonodistill_training.bench.commands import app
from sonodistill_training.bench.formats import measure
from sonodistill_training.bench.loader import bench_loader, monai_chain
from sonodistill_training.bench.report import one_core
from sonodistill_training.corpus.pack import build_pack
from sonodistill_training.distill.augment import UltrasoundAugmentation


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four PNG files of 120 x 160."""
    folder = tmp_path_factory.mktemp("png")
    for number in range(4):
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (120, 160), dtype=np.uint8)).save(
            folder / f"{number}.png"
        )
    return folder


def test_the_last_line_is_json_with_the_figures_that_matter(folder, tmp_path):
    build_pack([folder], tmp_path / "corpus")
    options = ["loader", "--corpus", str(tmp_path / "corpus"), "--rounds", "1", "--batch-size", "64", "--json"]
    result = CliRunner().invoke(app, options)
    figures = json.loads(result.stdout.splitlines()[-1])
    ratio = figures["frames_per_second_per_core"] / figures["monai_frames_per_second"]
    assert figures["ratio_vs_monai"] == pytest.approx(ratio, rel=0.01)
    assert figures["settings"]["stored_size"] == figures["settings"]["png_size"] == [120, 160]


def test_ultrasound_files_are_made_into_a_corpus_for_it(folder):
    figures = bench_loader(folder, rounds=1, batch_size=16, images=2)
    assert figures["settings"]["corpus_frames"] >= 2048


def test_monais_chain_makes_the_views_that_ours_makes(folder):
    ramp = np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1))
    Image.fromarray(ramp).save(folder / "ramp.png")
    chain = monai_chain(64, UltrasoundAugmentation(blur=0.0)).set_random_state(0)
    views = np.stack([np.asarray(chain({"image": folder / "ramp.png"})["image"])[0] for _ in range(200)])
    assert views.shape == (200, 64, 64) and views.min() >= 0 and 0.95 < views.max() <= 1
    # MONAI's first axis is the horizontal one: along it the ramp rises, or falls where it is mirrored.
    spans = views[:, -1].mean(1) - views[:, 0].mean(1)
    assert 72 < (spans < 0).sum() < 128  # half of them, 4 standard deviations
    assert np.abs(spans).min() > 0.6 and np.ptp(views, axis=2).max() < 0.01


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system cannot bind a process to a core")
def test_one_core_is_one_core_and_is_given_back():
    before = os.sched_getaffinity(0), torch.get_num_threads()
    with one_core():
        assert len(os.sched_getaffinity(0)) == 1 and torch.get_num_threads() == 1
    assert (os.sched_getaffinity(0), torch.get_num_threads()) == before


def test_every_format_that_is_installed_is_measured(tmp_path):
    frames = [np.random.default_rng(n).integers(0, 256, (40, 50 + n % 3), dtype=np.uint8) for n in range(70)]
    figures = measure(frames, tmp_path, rounds=1)
    assert {"arrow", "raw_memmap", "arrow_zstd"} <= set(figures)
    assert all(row["sequential_frames_per_second"] > 0 for row in figures.values())
    assert figures["raw_memmap"]["bytes_per_pixel"] == pytest.approx(1, abs=0.02)
