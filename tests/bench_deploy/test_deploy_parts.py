"""`sonodistill bench deploy`, its parts: counting, choosing, ratios, energy, and processes that fail."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sonodistill.errors import BundleConfigError
from sonodistill_training.bench.deploy.headline import ratios
from sonodistill_training.bench.deploy.measure import Effort, measure, percentiles
from sonodistill_training.bench.deploy.networks import classifier_millions, on_meta, require_networks
from sonodistill_training.bench.deploy.options import setup_of
from sonodistill_training.bench.deploy.process import Child, ChildError
from sonodistill_training.bench.deploy.resources import EnergyMeter
from sonodistill_training.bench.deploy.subjects import Subject
from sonodistill_training.bench.deploy.variants import VARIANTS, choose
from sonodistill_training.evaluate.tables.costs import count_cost

EAGER, ONNX = VARIANTS["eager"], VARIANTS["onnxruntime"]


@pytest.mark.parametrize(
    ("name", "encoder_millions", "millions", "gmacs_256"),
    [
        ("teacher+light", 85.660, 87.431, 22.797),  # Table 5: 86, 87.44, 22.80
        ("resnet50+unet", 23.508, 32.521, 10.674),  # Table 5: 25, 32.52, 10.67
        ("resnet18+unet", 11.177, 14.328, 5.417),
    ],
)
def test_parameters_and_multiply_accumulates_are_exact(name, encoder_millions, millions, gmacs_256):
    cost = count_cost(on_meta(name), (256,))
    assert (round(cost.encoder_millions, 3), round(cost.millions, 3)) == (encoder_millions, millions)
    assert round(cost.gmacs[256], 3) == gmacs_256


def test_floating_point_operations_count_attention():
    cost = count_cost(on_meta("teacher"), (224,))
    assert round(cost.gflops[224], 2) == 35.86
    tokens, width, blocks = 201, 768, 12
    attention = 2 * 2 * tokens**2 * width * blocks / 1e9
    weighted = 2 * cost.gmacs[224] - 2 * 25 * 5 * tokens * width / 1e9  # without the 25 layer normalisations
    assert cost.gflops[224] == pytest.approx(weighted + attention, rel=1e-6)


def test_25_million_is_a_resnet_50_with_its_classifier():
    assert round(classifier_millions("resnet50"), 3) == 25.557
    assert classifier_millions("teacher") is None


def test_any_timm_encoder_is_a_network_and_a_misspelt_one_is_refused():
    assert count_cost(on_meta("mobilenetv4_conv_small+unet"), (64,)).millions > 4
    for name in ("resnet5+unet", "resnet50+unnet"):
        with pytest.raises(BundleConfigError):
            require_networks([name])


def test_percentiles_of_known_numbers():
    assert percentiles([5, 1, 4, 2, 3]) == (3.0, pytest.approx(4.8))
    assert percentiles([7.0]) == (7.0, 7.0)


def _row(network, variant, milliseconds, threads=1):
    return {
        "network": network,
        "variant": variant,
        "threads": threads,
        "device": "cpu",
        "cpu_ms_p50": milliseconds,
        "latency_ms_p50": 2 * milliseconds,
    }


def test_ratios_of_one_runtime_and_of_different_ones_are_apart():
    rows = [
        _row("teacher+light", "eager", 320.0),
        _row("teacher+light", "openvino", 240.0),
        _row("resnet50+unet", "eager", 160.0),
        _row("resnet50+unet", "openvino", 120.0),
        _row("resnet50+unet", "openvino-int8", 16.0),
    ]
    found = ratios(rows)
    assert found["like_for_like"] == {"teacher+light over resnet50+unet": {"1": {"eager": 2.0, "openvino": 2.0}}}
    assert found["best_against_eager"]["1"]["resnet50+unet"] == {
        "best": "openvino-int8",
        "own_eager_over_best": 10.0,
        "teacher_eager_over_best": 20.0,
    }


def test_ratios_at_two_threads_are_of_the_clock():
    rows = [_row("resnet50+unet", "eager", 100.0, threads=2), _row("resnet50+unet", "openvino", 10.0, threads=2)]
    rows[1]["cpu_ms_p50"] = 100.0
    assert ratios(rows)["best_against_eager"]["2"]["resnet50+unet"]["own_eager_over_best"] == 10.0


def test_energy_is_read_across_the_end_of_the_counter(tmp_path: Path):
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "max_energy_range_uj").write_text("10000000\n")
    (zone / "energy_uj").write_text("9000000\n")
    meter = EnergyMeter(tmp_path)
    meter.start()
    (zone / "energy_uj").write_text("1000000\n")
    assert meter.joules() == pytest.approx(2.0)


def test_energy_that_cannot_be_read_is_none_with_a_reason(tmp_path: Path):
    meter = EnergyMeter(tmp_path / "none")
    meter.start()
    assert meter.joules() is None
    assert "RAPL" in meter.reason


@pytest.mark.skipif(sys.platform != "linux", reason="VmHWM is Linux's")
def test_peak_memory_grows_with_what_is_used():
    # In a process of its own: in this one another test may have used more.
    code = """
from sonodistill_training.bench.deploy.resources import peak_rss_mb
before = peak_rss_mb()
block = bytearray(b"x" * 200_000_000)
assert peak_rss_mb() >= before + 100
"""
    subprocess.run([sys.executable, "-c", code], timeout=60, check=True)


def test_a_file_that_cannot_be_loaded_costs_its_row_alone(tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    subject = Subject("resnet10t+unet", "resnet10t+unet", None, 64, files={"onnx": tmp_path / "model.onnx"})
    effort = Effort(rounds=1, turn_seconds=0.01, batches=(1,))
    rows = measure(subject, [EAGER, ONNX, VARIANTS["torchscript"]], 1, "cpu", effort, batches=False, scratch=tmp_path)
    eager, broken, missing = rows
    assert eager["reason"] == "" and eager["latency_ms_p50"] > 0 and eager["peak_rss_mb"] > eager["idle_rss_mb"]
    assert "latency_ms_p50" not in broken and "WeightsError" in broken["reason"]
    assert missing["reason"] == "not exported to torchscript"


def test_a_worker_that_is_killed_is_an_error_that_says_so():
    job = {"variant": "eager", "eager": True, "network": "resnet10t", "path": "", "size": 64, "threads": 1}
    with Child("worker", {**job, "runtime": "torch", "precision": "fp32", "device": "cpu"}, 1) as child:
        killer = threading.Timer(0.2, child._process.kill)
        killer.start()
        with pytest.raises(ChildError, match="SIGKILL"):
            child.ready()
        assert not child.is_alive()


def test_a_worker_that_does_not_answer_in_time_is_ended():
    job = {"variant": "eager", "eager": True, "network": "resnet10t", "path": "", "size": 64, "threads": 1}
    child = Child("worker", {**job, "runtime": "torch", "precision": "fp32", "device": "cpu"}, 1)
    try:
        with pytest.raises(ChildError, match="no answer"):
            child.ready(seconds=0.1)
        assert not child.is_alive()
    finally:
        child.close()


OPTIONS = {
    "networks": None,
    "runtimes": None,
    "input_size": 224,
    "threads": [1],
    "batches": "1,8",
    "rounds": 3,
    "device": "cpu",
    "frames": None,
    "trained": None,
    "labelled": None,
    "everything": False,
    "quick": False,
}


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("input_size", 100),
        ("device", "tpu"),
        ("batches", "1,none"),
        ("batches", "0"),
        ("threads", [4096]),
        ("trained", ["model.safetensors"]),
        ("labelled", "busi"),
    ],
)
def test_an_option_that_cannot_work_is_refused(option, value):
    with pytest.raises(BundleConfigError):
        setup_of(**{**OPTIONS, option: value})


def test_runtimes_are_chosen_by_name():
    assert [variant.name for variant in choose(["openvino", "eager"])] == ["eager", "openvino"]
    with pytest.raises(BundleConfigError, match="tensorrt"):
        choose(["tensorrt"])


def test_batches_always_hold_the_single_image():
    assert setup_of(**{**OPTIONS, "batches": "32,8"}).effort.batches == (1, 8, 32)


def test_the_worker_of_onnx_runtime_imports_no_torch():
    code = (
        "import sys, json; import sonodistill_training.bench.deploy.worker; "
        "import sonodistill.inference.runtimes, sonodistill.inference.runtimes.onnxruntime_runtime; "
        "print(json.dumps([name for name in ('torch', 'timm', 'monai') if name in sys.modules]))"
    )
    import subprocess

    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == []
