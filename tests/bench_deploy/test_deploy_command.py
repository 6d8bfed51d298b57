"""`sonodistill bench deploy`: what it prints and writes, not how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from sonodistill.networks.unet import Segmenter
from sonodistill.weights import WeightsInfo, save_weights
from sonodistill_training.bench.commands import app
from sonodistill_training.bench.deploy.measure import Effort
from sonodistill_training.bench.deploy.quality import Labelled, dice_of, int8_cost, judge
from sonodistill_training.bench.deploy.run import bench_deploy
from sonodistill_training.bench.deploy.setup import Setup
from sonodistill_training.bench.deploy.table import measured
from sonodistill_training.bench.deploy.write import write_deploy
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.evaluate.data import read_set
from sonodistill_training.evaluate.divide import divide

KEYS = {"student_best_vs_eager", "teacher_eager_vs_student_best", "resnet18_unet_ms", "predictor_overhead", "rows"}


def _run(*words: str) -> dict:
    result = CliRunner().invoke(app, ["deploy", *words, "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    out = tmp_path_factory.mktemp("deploy")
    return _run("--quick", "--runtime", "eager", "--runtime", "onnxruntime", "--out", str(out)), out


def test_the_last_line_is_json_with_the_keys_and_a_row_for_each_runtime(quick):
    found, _ = quick
    assert found.keys() >= KEYS
    assert [row["variant"] for row in found["rows"]] == ["eager", "onnxruntime"]
    assert all(row["reason"] == "" and row["latency_ms_p50"] <= row["latency_ms_p95"] for row in found["rows"])
    assert found["resnet18_unet_ms"] > 0
    assert found["student_best_vs_eager"] is None  # there was no ResNet-50
    assert "student_best_vs_eager" in found["headline"]["missing"]
    assert found["cine"]["frames"] == 12 and found["end_to_end_overlap"] > 0


def test_every_runtime_computes_the_same_network(quick):
    found, _ = quick
    assert all(row["difference_from_eager"] < 1e-4 for row in found["rows"])


def test_memory_without_torch_is_a_fraction_of_that_with_it(quick):
    eager, onnx = quick[0]["rows"]
    assert onnx["peak_rss_mb"] < 0.7 * eager["peak_rss_mb"]


def test_the_files_hold_the_table_and_the_plot(quick):
    found, out = quick
    assert json.loads((out / "deploy.json").read_text()) == found
    page = (out / "deploy.md").read_text()
    assert "| resnet18+unet | onnxruntime | 1 |" in page
    assert "22.80" in page and "not measured here" in page  # of Table 5, whose networks were not asked for
    assert Image.open(out / "deploy.png").size[0] > 500
    assert (out / "deploy.svg").read_text().lstrip().startswith("<?xml")


def test_table_5_takes_eager_float32_at_the_fewest_threads():
    rows = [
        {"network": "resnet50+unet", "variant": variant, "threads": threads, "device": "cpu", "latency_ms_p50": ms}
        | {"images_per_second": {"1": 1e3 / ms}}
        for variant, threads, ms in (("eager", 2, 120.0), ("eager", 1, 187.0), ("openvino", 1, 122.0))
    ]
    cost = {"encoder_millions": 23.5, "millions": 32.5, "gmacs": {"224": 8.17, "256": 10.67}}
    found = measured({"rows": rows, "costs": {"resnet50+unet": cost}}, "R50-Distill-US")
    assert found["cpu_latency_ms"] == 187.0
    assert (found["gflops"], found["parameters_millions"]) == (10.67, 32.5)
    assert measured({"rows": rows, "costs": {}}, "R50-Rand") == {}


@pytest.fixture(scope="module")
def labelled_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_simulated(tmp_path_factory.mktemp("labelled") / "simulated", 40, 0)


def _checkpoint(path: Path) -> Path:
    torch.manual_seed(0)
    network = Segmenter("resnet10t")
    info = WeightsInfo("segmenter", "resnet10t", input_size=(64, 64), labels=("lesion",))
    save_weights(path, network.state_dict(), info)
    return path


@pytest.mark.slow
def test_a_trained_segmenter_is_judged_by_each_runtime(tmp_path: Path, labelled_folder: Path):
    model = _checkpoint(tmp_path / "model.safetensors")
    out = tmp_path / "out"
    found = bench_deploy(
        Setup(
            networks=(),
            runtimes=("eager", "onnxruntime"),
            threads=(1,),
            effort=Effort(rounds=1, turn_seconds=0.01, batches=(1,)),
            trained={"mine": model},
            labelled=("simulated", labelled_folder),
        )
    )
    write_deploy(found, out)
    eager, onnx = (row for row in found["rows"] if row["network"] == "mine")
    assert eager["dice"] == pytest.approx(onnx["dice"], abs=1e-3)
    assert eager["dice_cost_points"] == 0
    assert onnx["dice_cost_points"] == pytest.approx(0, abs=0.1)
    assert found["labelled"]["test_images"] == onnx["images"]
    assert found["calibration"]["mine"]["origin"] == "training split"
    assert "Dice points lost" in (out / "deploy.md").read_text()
    assert (out / "deploy.png").is_file()


def _labelled(folder: Path) -> Labelled:
    data = read_set("simulated", folder, 64)
    division = divide(data, "segmentation")
    return Labelled(data, division.train, division.test, division.way)


def test_dice_of_the_truth_is_high_and_of_its_inverse_low(labelled_folder: Path):
    labelled = _labelled(labelled_folder)
    truth = labelled.data.masks(labelled.test).astype(np.float32)
    right = dice_of(labelled, 20 * truth - 10)
    wrong = dice_of(labelled, 10 - 20 * truth)
    assert right.mean() > 0.9 > 0.1 > wrong.mean()
    found = judge(labelled, wrong, right)
    assert found["dice_cost_points"] == pytest.approx(100 * (right.mean() - wrong.mean()))
    lesion = np.array([labelled.data.truth(row).any() for row in labelled.test.tolist()])
    assert found["dice_cost_points_lesions"] == pytest.approx(100 * (right - wrong)[lesion].mean())
    assert found["dice_cost_interval"][0] > 50


def test_the_calibration_and_the_test_images_are_apart(labelled_folder: Path):
    labelled = _labelled(labelled_folder)
    assert not set(labelled.train.tolist()) & set(labelled.test.tolist())


def test_what_int8_costs_is_that_of_the_fastest_int8_of_the_worst_model():
    def row(network, variant, milliseconds, cost, precision="int8"):
        return {
            "network": network,
            "variant": variant,
            "precision": precision,
            "latency_ms_p50": milliseconds,
            "dice_cost_points": cost,
        }

    rows = [row("a", "x", 10, 0.1), row("a", "y", 20, 5.0), row("b", "x", 10, 0.3), row("b", "z", 5, 9.0, "bf16")]
    assert int8_cost(rows) == 0.3
    assert int8_cost([]) is None


def test_bad_input_ends_in_a_named_error(tmp_path: Path, labelled_folder: Path):
    missing = CliRunner().invoke(app, ["deploy", "--quick", "--trained", f"mine={tmp_path / 'none.safetensors'}"])
    assert missing.exit_code and "there is no such file" in str(missing.exception)
    encoder = tmp_path / "encoder.safetensors"
    save_weights(encoder, {"x": torch.zeros(1)}, WeightsInfo("encoder", "resnet18"))
    words = ["deploy", "--quick", "--trained", f"mine={encoder}", "--labelled", f"simulated={labelled_folder}"]
    found = CliRunner().invoke(app, words)
    assert found.exit_code and "no segmenter" in str(found.exception)


@pytest.mark.slow
def test_every_runtime_that_is_installed_makes_its_row():
    found = _run("--quick")
    made = {row["variant"] for row in found["rows"] if not row["reason"]}
    assert made >= {"eager", "eager-channels-last", "eager-bf16", "torchscript", "onnxruntime"}
    assert all(row["reason"] for row in found["rows"] if "latency_ms_p50" not in row)
