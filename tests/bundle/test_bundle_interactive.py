"""Training of the interactive segmenter through the bundle, and the annotator that it simulates."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from bundle_case import CONFIGS, SMALL, config, labelled_folder
from monai.bundle import ConfigWorkflow, verify_net_in_out

from sonodistill.annotate.clicks.interactive import Interactive
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.model import Prompts
from sonodistill.errors import BundleConfigError, DatasetError, WeightsError
from sonodistill.inference.predictor import Predictor
from sonodistill.networks.click import PROMPTS
from sonodistill.weights import read_info
from sonodistill_training.finetune.clicks import OracleClicks, RandOneStructured, SimulatedClicks, interactive_items
from sonodistill_training.finetune.clicks_draw import Annotation, begin, bounding_box, jittered, moved, spoilt
from sonodistill_training.finetune.clicks_paint import RandPaintedStructured, RandSectord, random_blob
from sonodistill_training.workflow import run_bundle

OVERLAY = ["train.yaml", "interactive.yaml"]
TINY = {**SMALL, "encoder": "test_convnext", "width": 16}
MASKS = slice(5, 6)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return labelled_folder(tmp_path_factory.mktemp("frames") / "simulated")


def train(data, folder, **more):
    return run_bundle(OVERLAY, dataset_dir=data, ckpt_dir=folder, output_dir=folder, **{**TINY, **more})


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(data, folder, max_epochs=3)
    return folder


def disc(centre=(32, 24), radius=10, shape=(48, 64)):
    mask = np.zeros(shape, np.uint8)
    cv2.circle(mask, centre, radius, 1, -1)
    return mask.astype(bool)


# --- the bundle -------------------------------------------------------------------------------------------------------


def test_training_leaves_weights_that_the_engine_opens_and_a_log_of_the_dice_after_three_clicks(trained):
    info = read_info(trained / "model.safetensors")
    assert (info.kind, info.architecture, info.input_size) == ("interactive", "test_convnext", (64, 64))
    rows = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3] and all(0 <= row["val_dice"] <= 1 for row in rows)
    engine = Interactive(trained / "model.safetensors")
    image = np.random.default_rng(0).integers(0, 255, (90, 120)).astype(np.uint8)
    assert engine.refine(FrameId("a", 0), image, Prompts(positive=((50, 40),))).mask.shape == (90, 120)
    with pytest.raises(WeightsError, match="interactive"):
        Predictor(trained / "model.safetensors")  # which has no prompts to give


def test_interrupted_after_an_epoch_and_resumed_it_reaches_the_same_weights(data, trained, tmp_path):
    train(data, tmp_path, max_epochs=1)
    train(data, tmp_path, max_epochs=3)
    whole, resumed = (torch.load(folder / "last.pt", weights_only=True) for folder in (trained, tmp_path))
    assert resumed["epoch"] == 3 and resumed["best"] == whole["best"]
    assert all(torch.equal(resumed["network"][name], value) for name, value in whole["network"].items())
    assert (tmp_path / "log.jsonl").read_text() == (trained / "log.jsonl").read_text()


def test_it_goes_on_from_its_own_weights_with_the_encoder_frozen(data, trained, tmp_path):
    weights = trained / "model.safetensors"
    train(data, tmp_path, max_epochs=1, freeze_encoder=True, encoder_weights=weights)
    before, after = (torch.load(path, weights_only=True) for path in (trained / "model.pt", tmp_path / "model.pt"))
    changed = {name.split(".")[0] for name in after if not torch.equal(after[name], before[name])}
    assert "encoder" not in changed and "prompts" in changed


def test_evaluation_is_the_usual_overlay_with_as_many_clicks_as_asked_for(data, trained, tmp_path):
    given = {key: TINY[key] for key in ("encoder", "input_size", "device", "width")} | {"clicks": 2, "box": True}
    names = [*OVERLAY, "evaluate.yaml"]
    workflow = run_bundle(names, dataset_dir=data, ckpt_dir=trained, output_dir=tmp_path, batch_size=8, **given)
    inferer = workflow.parser.get_parsed_content("validate#inferer")
    assert (inferer.clicks, inferer.box) == (2, True)
    assert (tmp_path / "val_dice_raw.csv").read_text().count("\n") > 2


def test_the_overlay_has_every_property_of_a_training(data, tmp_path):
    folders = {"dataset_dir": str(data), "ckpt_dir": str(tmp_path), "output_dir": str(tmp_path)}
    workflow = ConfigWorkflow(config(*OVERLAY), workflow_type="train", logging_file=False, **folders, **TINY)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_the_network_fits_the_metadata():
    files = config(*OVERLAY)
    verify_net_in_out("network_def", meta_file=str(CONFIGS / "metadata.json"), config_file=files, device="cpu")


@pytest.mark.slow
def test_the_command_line_trains_from_any_folder(data, tmp_path):
    file = os.path.relpath(CONFIGS / "interactive_args.yaml", tmp_path)
    settings = ["--encoder", "test_convnext", "--width", "8", "--input_size", "[32,32]", "--max_epochs", "1"]
    folders = ["--dataset_dir", data, "--ckpt_dir", tmp_path, "--output_dir", tmp_path, "--device", "cpu"]
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--args_file", file, *settings, *folders]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    assert read_info(tmp_path / "model.safetensors").kind == "interactive"


def test_a_misspelt_setting_is_refused_by_name(data):
    with pytest.raises(BundleConfigError, match="--clikcs .did you mean --clicks"):
        run_bundle(OVERLAY, dataset_dir=data, clikcs=3)


def test_frames_without_the_structure_are_left_out_and_a_split_of_nothing_else_is_refused(data, tmp_path):
    folder = tmp_path / "empty"
    shutil.copytree(data, folder)
    shown = interactive_items(folder, "train")
    assert shown and all(cv2.imread(item["label"], 0).any() for item in shown)
    with (folder / "index.csv").open(newline="") as file:
        masks = {row["mask"] for row in csv.DictReader(file) if row["mask"]}
    assert len(shown) < len(masks)
    for path in {Path(item["label"]) for split in ("train", "validation", "test") for item in _items(folder, split)}:
        cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    with pytest.raises(DatasetError, match="every mask of the train split is empty"):
        interactive_items(folder, "train")


def _items(folder, split):
    try:
        return interactive_items(folder, split)
    except DatasetError:
        return []


# --- the simulated annotator ------------------------------------------------------------------------------------------


def test_an_oracle_clicks_at_the_centre_of_the_largest_error_with_its_sign():
    annotation = Annotation(disc((20, 24), 10))
    annotation.correct(np.zeros((48, 64), bool))
    assert annotation.positive == [(20.0, 24.0)] and not annotation.negative
    annotation.correct(disc((20, 24), 10) | disc((50, 12), 6))
    assert annotation.negative == [(50.0, 12.0)] and len(annotation.positive) == 1
    annotation.correct(disc((20, 24), 10))
    assert len(annotation.positive) == len(annotation.negative) == 1  # nothing is wrong: no click
    assert annotation.maps()[MASKS].any() and not annotation.maps(without_mask=True)[MASKS].any()


def test_first_prompts_are_true_of_the_structure_and_of_every_sort():
    truth, rng = disc(), np.random.default_rng(0)
    sorts = set()
    for _ in range(200):
        annotation = begin(truth, rng)
        assert annotation.maps().shape == (len(PROMPTS), 12, 16)
        if annotation.mask is None:
            assert all(truth[int(y), int(x)] for x, y in annotation.positive)
        assert not any(truth[int(y), int(x)] for x, y in annotation.negative)
        if annotation.box is not None:
            x0, y0, x1, y1 = annotation.box
            assert 0 <= x0 < x1 <= 63 and 0 <= y0 < y1 <= 47
        has = (annotation.box, annotation.mask, annotation.positive, annotation.negative)
        assert any(part is not None and len(part) for part in has)
        sorts.add(tuple(bool(part is not None and len(part)) for part in has))
    assert len(sorts) >= 6


def test_without_the_structure_the_first_prompts_are_negative():
    for seed in range(20):
        annotation = begin(np.zeros((48, 64), bool), np.random.default_rng(seed))
        assert annotation.negative and not annotation.positive and annotation.box is None


def test_boxes_are_jittered_inside_the_image_and_masks_are_moved_but_alike():
    truth, rng = disc((10, 10), 9), np.random.default_rng(0)
    box = bounding_box(truth)
    assert box == (1, 1, 19, 19)
    boxes = [jittered(box, rng, truth.shape) for _ in range(50)]
    assert len(set(boxes)) == 50 and all(min(b) >= 0 and np.abs(np.subtract(b, box)).max() <= 4 for b in boxes)
    for change in (moved, spoilt):
        overlaps = [(truth & m).sum() / (truth | m).sum() for m in (change(disc(), rng) for _ in range(3))]
        assert len(overlaps) == 3
    overlaps = [(disc() & m).sum() / (disc() | m).sum() for m in (moved(disc(), rng) for _ in range(50))]
    assert 0.6 < np.mean(overlaps) < 0.95 and max(overlaps) < 1


def test_one_of_several_parts_is_kept_at_random_and_a_mask_of_one_part_is_left_alone():
    both = torch.from_numpy((disc((14, 24), 8) | disc((48, 24), 8))[None]).float()
    transform = RandOneStructured("label", prob=1.0).set_random_state(0)
    sums = {float(transform({"label": both})["label"][0, 24, 14]) for _ in range(20)}
    assert sums == {0.0, 1.0}
    kept = transform({"label": both})["label"]
    assert 0 < kept.sum() < both.sum()
    assert torch.equal(RandOneStructured("label", prob=0.0)({"label": both})["label"], both)
    one = torch.from_numpy(disc()[None]).float()
    assert torch.equal(transform({"label": one})["label"], one)


def test_what_is_painted_is_meant_or_left_out_and_its_edge_is_visible():
    image = torch.from_numpy(np.random.default_rng(0).uniform(0.2, 0.4, (1, 48, 64)).astype(np.float32))
    lesion = torch.from_numpy(disc((32, 24), 6)[None]).float()
    transform = RandPaintedStructured(["image", "label"], prob=1.0).set_random_state(0)
    same = 0
    for _ in range(30):
        made = transform({"image": image, "label": lesion})
        changed = (made["image"] - image).abs()
        assert made["image"].shape == (1, 48, 64) and made["image"].min() >= 0 and made["image"].max() <= 1
        assert changed.max() > 0.05 and made["image"].dtype == made["label"].dtype == torch.float32
        if bool((made["label"] * (1 - lesion)).any()):
            inside = made["label"] > 0
            assert changed[inside].mean() > changed[~inside].mean()
        else:
            same += 1
    assert 3 < same < 27
    empty = transform({"image": image, "label": torch.zeros_like(lesion)})
    assert empty["label"].any()  # where nothing is labelled, what is painted is meant
    kept = RandPaintedStructured(["image", "label"], prob=0.0)({"image": image, "label": lesion})
    assert torch.equal(kept["image"], image) and torch.equal(kept["label"], lesion)


def test_outside_a_sector_all_is_black_and_nothing_is_labelled():
    image, label = torch.ones(1, 48, 64), torch.ones(1, 48, 64)
    made = RandSectord(["image", "label"], prob=1.0).set_random_state(0)({"image": image, "label": label})
    assert torch.equal(made["image"], made["label"]) and 0.2 < made["image"].mean() < 0.98
    assert made["image"][0, -1, 0] == 0 and made["image"][0, 24, 32] == 1


def test_blobs_are_of_many_sizes_and_never_larger_than_a_third():
    areas = [random_blob((96, 96), np.random.default_rng(seed)).mean() for seed in range(100)]
    assert min(areas) < 0.02 and 0.06 < max(areas) < 0.34


class Threshold(torch.nn.Module):
    """Answers with the mask map; counts how often it is asked."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def forward(self, x, prompts):
        maps = prompts(self.refine)
        self.asked.append(maps)
        return torch.nn.functional.interpolate(self.refine(maps), x.shape[-2:])

    def refine(self, maps):
        self.asked.append(maps)
        return maps[:, :1] * 2 - 1  # foreground where a click is


def test_an_oracle_of_n_clicks_gives_n_clicks_and_the_same_ones_each_time():
    truth = torch.from_numpy(disc((32, 24), 12)[None, None]).float()
    for clicks, box in ((1, False), (3, False), (2, True)):
        drawn = []
        for _ in range(2):
            network = Threshold()
            OracleClicks(clicks, box, precision="fp32")(torch.rand(1, 1, 48, 64), network, truth)
            assert len(network.asked) == clicks + 1 + (1 if box else 0)
            drawn.append(network.asked[-1])
        assert torch.equal(*drawn) and drawn[0][0, PROMPTS.index("box")].any() == box


def test_simulated_clicks_follow_the_seed_of_torch_and_speak_from_one_to_n_times():
    truth = torch.from_numpy(np.stack([disc()[None], disc((20, 20), 6)[None]])).float()
    counts, last = set(), {}
    for seed in [*range(12), 0]:
        torch.manual_seed(seed)
        network = Threshold()
        SimulatedClicks(rounds=3, precision="fp32")(torch.rand(2, 1, 48, 64), network, truth)
        counts.add(len(network.asked) - 1)
        if seed in last:
            assert torch.equal(last[seed], network.asked[-1])
        last[seed] = network.asked[-1]
    assert counts == {1, 2, 3}


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(BundleConfigError, match="0 rounds"):
        SimulatedClicks(rounds=0)
    with pytest.raises(BundleConfigError, match="no box"):
        OracleClicks(clicks=0)
