"""Muscle data sets on miniatures of their published layouts, and TimTrack on real files."""

from __future__ import annotations

import numpy as np

import sonodistill.frames as frames
from sonodistill_training.corpus.registry.muscle import MUSCLE_TIMTRACK, STMUS


def test_miniature_stmus(folder, conforms, notices):
    """Layout as several public loaders of STMUS_NDA describe it: MUSCLE/{Healthy,Pathological}/{Images,Masks}."""
    top = "Polito-Radboud-DeepLearningUS"
    for muscle, state, name in (
        ("BB", "Healthy", "anon_1001_1"),
        ("TA", "Healthy", "anon_1001_2"),
        ("TA", "Pathological", "anon_7_1"),
    ):
        folder.image(f"{top}/{muscle}/{state}/Images/{name}.png", colour=True)
        folder.mask(f"{top}/{muscle}/{state}/Masks/{name}.png", box=(8, 8, 30, 40))
    folder.image(f"{top}/Segmentation_models/data/MuscleCNN/train/anon_1001_1.png")
    folder.text(f"{top}/readme.txt", "see the article")
    items = conforms(STMUS, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("anon_1001", "healthy"),
        ("anon_1001", "healthy"),
        ("anon_7", "pathological"),
    ]
    mask = items[0].mask.load((40, 48))
    assert (mask[8:30, 8:40] == 255).all() and np.count_nonzero(mask) == 22 * 32
    notices(STMUS, folder.root / top, "TA/Healthy/Masks/anon_1001_2.png", "anon_1001_2.png")


def timtrack(folder, blank="_"):
    """Layout of data sets 1 and 4 seen on the data, of 2 and 3 from names of their frames."""
    for name in (
        "1/S1/S1_L20_step_025.png",
        "1/S1/S1_R20_step_025.png",
        "1/S2/S2_L20_step_025.png",
        "2/jumping/gastroc_jumping_048.png",
        "3/030/p6_isokinetic030_01_push_01_10.png",
        "3/120/p6_isokinetic120_01_push_01_43.png",
        "4/SampleB/GM_P_1.bmp",
    ):
        folder.image(f"dataset{blank}{name}")
    folder.text("Readme.md", "# 4 datasets included in the TimTrack paper")


def test_miniature_muscle_timtrack(folder, conforms, notices):
    timtrack(folder)
    items = conforms(MUSCLE_TIMTRACK, folder.root)
    assert [item.group for item in items] == ["1/S1", "1/S1", "1/S2", "2/jumping", "3/p6", "3/p6", "4/SampleB"]
    assert items[0].label == "vastus lateralis" and items[-1].label == "gastrocnemius medialis"
    for name in ("S1/S1_L20_step_025.png", "S1/S1_R20_step_025.png"):
        (folder.root / "dataset_1" / name).unlink()
    notices(MUSCLE_TIMTRACK, folder.root, "dataset_1/S2/S2_L20_step_025.png", "files like")


def test_folders_with_a_blank_are_the_same_data_set(folder):
    timtrack(folder, blank=" ")
    assert len(MUSCLE_TIMTRACK.items(folder.root)) == 7


def test_timtrack_as_it_lies(shared):
    root = shared / "data" / "raw" / "muscle_timtrack"
    items = MUSCLE_TIMTRACK.items(root)
    assert [item.group for item in items] == ["1/S1", "1/S1", "4/SampleB"]
    assert [next(iter(frames.read(item.file))).image.shape for item in items] == [(458, 514), (458, 514), (600, 800)]
    report = MUSCLE_TIMTRACK.check(root)
    assert report.ok and report.unexpected == ()
