"""The command line's words as a setup, refused where they cannot work."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from sonodistill.errors import BundleConfigError, WeightsError
from sonodistill_training.bench.deploy.measure import Effort
from sonodistill_training.bench.deploy.setup import NETWORKS, Setup

_QUICK = Effort(rounds=2, turn_seconds=0.05, batches=(1, 2))
_QUICK_NETWORK = "resnet18+unet"


def setup_of(
    *,
    networks: Sequence[str] | None,
    runtimes: Sequence[str] | None,
    input_size: int,
    threads: Sequence[int] | None,
    batches: str,
    rounds: int,
    device: str,
    frames: Sequence[Path] | None,
    trained: Sequence[str] | None,
    labelled: str | None,
    everything: bool,
    quick: bool,
) -> Setup:
    """What the options of ``sonodistill bench deploy`` ask for.

    Raises:
        BundleConfigError: an option that cannot work.
        WeightsError: there is no such weights file.
    """
    if device not in ("cpu", "cuda"):
        raise BundleConfigError(f"unknown device {device}", remedy="--device cpu or --device cuda")
    if input_size % 32:
        raise BundleConfigError(f"an input of {input_size} pixels", remedy="give a multiple of 32")
    cores = os.cpu_count() or 1
    counts = tuple(sorted(set(threads or (1, min(2, cores)))))
    if counts[-1] > cores:
        raise BundleConfigError(f"{counts[-1]} threads on {cores} cores", remedy=f"--threads {cores} at most")
    models = dict(_pair(one, "--trained") for one in trained or ())
    missing = [path for path in models.values() if not path.is_file()]
    if missing:
        raise WeightsError("there is no such file", path=missing[0], remedy="--trained NAME=model.safetensors")
    chosen = tuple(networks or ((_QUICK_NETWORK,) if quick else NETWORKS))
    if both := set(models) & set(chosen):
        raise BundleConfigError(f"{both.pop()} is the name of a network", remedy="give --trained another name")
    return Setup(
        networks=chosen,
        runtimes=tuple(runtimes or ()),
        everything=everything,
        input_size=64 if quick else input_size,
        threads=counts[:1] if quick else counts,
        effort=_QUICK if quick else Effort(rounds=rounds, batches=_batches(batches)),
        device=device,
        frames=tuple(frames or ()),
        trained=models,
        labelled=None if labelled is None else _pair(labelled, "--labelled"),
        cine_frames=12 if quick else 120,
        most_test_images=8 if quick else None,
    )


def _pair(text: str, option: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise BundleConfigError(f"{option} {text!r:.80}", remedy=f"write {option} NAME=PATH")
    return name, Path(path)


def _batches(text: str) -> tuple[int, ...]:
    try:
        found = sorted({1, *(int(word) for word in text.split(","))})
    except ValueError:
        found = [0]
    if found[0] < 1:
        raise BundleConfigError(f"--batches {text!r:.80}", remedy="write whole numbers from 1: --batches 1,8,32")
    return tuple(found)
