"""How fast a distillation runs: the whole loop beside the bare computation, bf16 beside fp32, and beside a peer."""

from __future__ import annotations

import itertools
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sonodistill.networks.encoder import Encoder
from sonodistill_training.bench.peer import Peer
from sonodistill_training.corpus.pack import open_corpus
from sonodistill_training.distill.augment import finish
from sonodistill_training.distill.data import CorpusViews
from sonodistill_training.distill.method import Distillation
from sonodistill_training.distill.teacher import load_teacher
from sonodistill_training.distributed import pick_device
from sonodistill_training.hardware import hardware
from sonodistill_training.loop import Loop
from sonodistill_training.memory import threads
from sonodistill_training.settings import decay_groups

_WARM_UP = 3  # steps that are not timed


@dataclass(slots=True)
class _Times:
    """Seconds of single steps, and of each round the loop's step rate as a share of the bare one's."""

    loop: list[float] = field(default_factory=list)
    bare: list[float] = field(default_factory=list)
    fp32: list[float] = field(default_factory=list)
    efficiency: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is distilled in the benchmark."""

    student: str = "resnet18"
    teacher: str = "dinov2_vits14"
    input_size: int = 196
    batch_size: int = 64
    steps: int = 12
    rounds: int = 2
    seed: int = 0


def bench_distill(data: Sequence[str | Path], setup: Setup, peer: Path | None = None) -> dict[str, Any]:
    """The loop of `sonodistill distill` on real frames, between bare steps, in turns with the peer.

    A bare step is the teacher's forward pass, the student's forward and backward pass and the optimiser, on one batch
    that is there already; as in the loop, the teacher works at the next batch meanwhile. In each round half of the
    bare steps come before the loop's and half after them, then steps in fp32 and NCHW (teacher in the same engine).

    Args:
        data: a corpus or ultrasound files.
        peer: the Python of an environment in which lightly-train is installed.
    """
    times = _Times()
    peer_runs: dict[str, list[float]] = {"whole": [], "compute": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = open_corpus([str(item) for item in data], folder / "corpus", split=None)
        views = CorpusViews(corpus, setup.input_size, seed=setup.seed)
        rival = Peer(peer, folder / "peer", corpus, setup) if peer else None
        for number in range(setup.rounds):
            _ours(views, setup, folder / f"run{number}", times)
            if number == 0:
                peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            if rival:
                for kind, rates in peer_runs.items():
                    rates.append(rival.images_per_second(folder / f"peer{number}", compute_alone=kind == "compute"))
        return _report(times, setup, len(corpus), peak) | _beside(peer_runs, times, setup, rival)


def _ours(views: CorpusViews, setup: Setup, out: Path, times: _Times) -> None:
    half, rest = -(-setup.steps // 2), setup.steps // 2
    bare = _bare_steps(views, setup, half, bf16=True)
    loop = _loop_steps(views, setup, out)
    bare += _bare_steps(views, setup, rest, bf16=True)
    times.loop += loop
    times.bare += bare
    times.fp32 += _bare_steps(views, setup, half, bf16=False)
    times.efficiency.append(statistics.median(bare) / statistics.median(loop))


def _loop_steps(views: CorpusViews, setup: Setup, out: Path) -> list[float]:
    """Seconds of the loop's steps."""
    torch.manual_seed(setup.seed)
    device = pick_device()
    teacher = load_teacher(setup.teacher, input_size=setup.input_size)
    ends: list[float] = []
    Loop(
        Distillation(teacher, Encoder(setup.student), input_size=setup.input_size),
        views,
        out,
        device=device,
        on_log=lambda _: ends.append(time.perf_counter()),
        max_steps=setup.steps + _WARM_UP + 1,
        batch_size=setup.batch_size,
        learning_rate=1e-3,
        log_steps=1,
        checkpoint_steps=10**9,
        precision="bf16",
        seed=setup.seed,
        workers=0 if device.type == "cpu" else 8,
    ).run()
    # The last step is none of those that count: no teacher works beside it.
    return [end - began for began, end in itertools.pairwise(ends[_WARM_UP - 1 : -1])]


def _bare_steps(views: CorpusViews, setup: Setup, count: int, bf16: bool) -> list[float]:
    """Seconds of steps on a resident batch; with ``bf16`` channels-last too."""
    device = pick_device()
    teacher = load_teacher(setup.teacher, input_size=setup.input_size)
    method = Distillation(teacher, Encoder(setup.student), input_size=setup.input_size, mixup="off")
    with threads(torch.get_num_threads()):
        method.prepare(device, bf16)
        step = _bare_step(method, views, setup, device, bf16)
        for _ in range(_WARM_UP):
            step()
        return [step() for _ in range(count)]


def _bare_step(
    method: Distillation, views: CorpusViews, setup: Setup, device: torch.device, bf16: bool
) -> Callable[[], float]:
    network: nn.Module = method.network
    if not bf16:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(decay_groups(network, 0.05), lr=1e-3, fused=True)
    positions = [(number, number % len(views)) for number in range(setup.batch_size)]
    images: Tensor = finish({name: value.to(device) for name, value in views.__getitems__(positions).items()})
    images = images.contiguous(memory_format=torch.channels_last if bf16 else torch.contiguous_format)
    coming = method.start_targets(images)

    def step() -> float:
        nonlocal coming
        began = _now(device)
        targets, coming = coming, method.start_targets(images)
        (target,) = targets()
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            (prediction,) = network(images)
            loss = method.objective(prediction, target)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return _now(device) - began

    return step


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _report(times: _Times, setup: Setup, frames: int, peak: float) -> dict[str, Any]:
    loop, bare, fp32 = (statistics.median(seconds) for seconds in (times.loop, times.bare, times.fp32))
    return {
        "benchmark": "distill",
        "images_per_second": round(setup.batch_size / loop, 2),
        "compute_images_per_second": round(setup.batch_size / bare, 2),
        "step_efficiency": round(statistics.median(times.efficiency), 3),
        "ratio_bf16_vs_fp32": round(fp32 / bare, 2),
        "peak_memory_mb": round(peak),
        "settings": {
            "student": setup.student,
            "teacher": setup.teacher,
            "input_size": setup.input_size,
            "batch_size": setup.batch_size,
            "steps": setup.steps,
            "rounds": setup.rounds,
            "frames": frames,
            "threads": torch.get_num_threads(),
            "seed": setup.seed,
        },
        "hardware": hardware(),
    }


def _beside(runs: dict[str, list[float]], times: _Times, setup: Setup, rival: Peer | None) -> dict[str, Any]:
    if rival is None:
        return {}
    whole, compute = statistics.median(runs["whole"]), statistics.median(runs["compute"])
    return {
        "peer": rival.version,
        "peer_images_per_second": round(whole, 2),
        "peer_compute_images_per_second": round(compute, 2),
        "ratio_vs_peer": round(setup.batch_size / statistics.median(times.loop) / whole, 2),
        "ratio_compute_vs_peer": round(setup.batch_size / statistics.median(times.bare) / compute, 2),
    }
