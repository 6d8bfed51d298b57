"""`sonodistill bench deploy`: every network in every runtime, each in a process of its own."""

from __future__ import annotations

import dataclasses
import platform
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sonodistill_training.bench.deploy import headline, quality
from sonodistill_training.bench.deploy.networks import classifier_millions, on_meta, require_networks
from sonodistill_training.bench.deploy.session import Session
from sonodistill_training.bench.deploy.setup import Bar, Setup, progress
from sonodistill_training.bench.deploy.variants import VARIANTS, choose
from sonodistill_training.evaluate.tables.costs import SIZES, count_cost
from sonodistill_training.hardware import hardware

_PACKAGES = ("torch", "timm", "transformers", "onnxruntime", "openvino", "nncf", "executorch", "sonodistill")


def bench_deploy(setup: Setup) -> dict[str, Any]:
    """Measure everything.

    Returns:
        The keys of :data:`headline.KEYS`, ``end_to_end_overlap``, ``int8_dice_cost_points``, ``costs`` by network,
        ``rows`` (a dictionary for each network, runtime, precision and number of threads), ``ratios``, and what it was
        measured on. A figure that could not be had is None; a row that could not be made has a ``reason``.

    Raises:
        BundleConfigError: a network or runtime that does not exist.
        SonoDistillError: a file of frames, a labelled set or a weights file cannot be used.
    """
    began = time.perf_counter()
    require_networks(list(setup.networks))
    variants = choose(setup.runtimes or tuple(VARIANTS))
    with tempfile.TemporaryDirectory(prefix="sonodistill-deploy-") as scratch, progress(setup, len(variants)) as bar:
        session = Session(setup, variants, Path(scratch), bar)
        session.prepare()
        costs = {name: _cost(name, bar) for name in setup.networks}
        session.measure_named()
        session.measure_trained()
        figures = session.figures()
    rows = session.rows
    return {
        **figures,
        "int8_dice_cost_points": quality.int8_cost(rows),
        "ratios": headline.ratios(rows),
        "costs": costs,
        "calibration": session.calibration,
        "labelled": session.judged_on,
        "input_size": setup.input_size,
        "threads": list(setup.threads),
        "batches": list(setup.effort.batches),
        "device": setup.device,
        "seconds": time.perf_counter() - began,
        "hardware": {**hardware(), "system": platform.platform(), **_gpu(setup.device)},
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
        "rows": rows,
    }


def _cost(name: str, bar: Bar) -> dict[str, Any]:
    bar.say(f"{name}: counting")
    cost = count_cost(on_meta(name), SIZES)
    return {**dataclasses.asdict(cost), "with_classifier_millions": classifier_millions(name)}


def _gpu(device: str) -> dict[str, Any]:
    if device != "cuda":
        return {}
    import torch

    return {"gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
