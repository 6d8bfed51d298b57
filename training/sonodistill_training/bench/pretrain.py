"""How fast a self-distillation runs: the loop beside the bare computation of the same networks, and its memory."""

from __future__ import annotations

import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from sonodistill.networks.precision import use_bf16
from sonodistill_training.corpus.pack import open_corpus
from sonodistill_training.distributed import pick_device
from sonodistill_training.hardware import hardware
from sonodistill_training.loop import Loop
from sonodistill_training.pretrain.build import make_vit
from sonodistill_training.pretrain.crops import MultiCropFrames, make_views, multi_crop
from sonodistill_training.pretrain.method import SelfDistillation

_WARM_UP = 2  # steps that are not timed


@dataclass(frozen=True, slots=True)
class Setup:
    """What is pretrained in the benchmark; the defaults are those of `sonodistill pretrain`, but for the batch."""

    network: str = "vit_small_patch16_224"
    input_size: int = 224
    local_size: int = 96
    local_views: int = 8
    batch_size: int = 64
    prototypes: int = 65536
    hidden: int = 2048
    bottleneck: int = 256
    drop_path: float = 0.3
    precision: str = "auto"
    steps: int = 12
    workers: int = -1
    seed: int = 0


def bench_pretrain(data: Sequence[str | Path], setup: Setup) -> dict[str, Any]:
    """The loop of `sonodistill pretrain` on real frames, with bare steps between its steps.

    A bare step is the same networks' forward and backward passes, losses and optimiser on views that are there already:
    what is left out is loading, cutting and changing the views, the schedules, the teacher's update, clipping and the
    log. The two take turns: whatever slows the machine down meets both.

    Args:
        data: a corpus or ultrasound files.

    Returns:
        ``images_per_second``: frames, each of which is ten views; ``step_efficiency``: the loop's step rate as a share
        of the bare one's; ``peak_memory_mb`` of the device, or of the process on a CPU; and the setup.
    """
    device = pick_device()
    loop_times: list[float] = []
    bare_times: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = open_corpus([str(item) for item in data], folder / "corpus", split=None)
        method = _method(setup)
        frames = MultiCropFrames(corpus, method.crops, patch_size=method.network.student.patch_size, seed=setup.seed)
        bare = _bare_step(_method(setup), frames, setup, device)
        began = 0.0

        def between(row: dict[str, Any]) -> None:
            nonlocal began
            elapsed = _now(device) - began
            seconds = bare()
            if row["step"] > _WARM_UP:
                loop_times.append(elapsed)
                bare_times.append(seconds)
            began = _now(device)

        Loop(
            method,
            frames,
            folder / "run",
            device=device,
            on_log=between,
            max_steps=setup.steps + _WARM_UP,
            batch_size=setup.batch_size,
            learning_rate=1e-3,
            weight_decay=0.04,
            clip=3.0,
            log_steps=1,
            checkpoint_steps=10**9,
            precision=setup.precision,
            seed=setup.seed,
            workers=(0 if device.type == "cpu" else 8) if setup.workers < 0 else setup.workers,
        ).run()
        return _report(loop_times, bare_times, setup, len(corpus), _peak(device))


def _method(setup: Setup) -> SelfDistillation:
    student = make_vit(setup.network, input_size=setup.input_size, drop_path=setup.drop_path, seed=setup.seed)
    crops = multi_crop(setup.input_size, setup.local_size, setup.local_views)
    return SelfDistillation(
        student,
        crops,
        prototypes=setup.prototypes,
        hidden=setup.hidden,
        bottleneck=setup.bottleneck,
        seed=setup.seed,
    )


def _bare_step(
    method: SelfDistillation, frames: MultiCropFrames, setup: Setup, device: torch.device
) -> Callable[[], float]:
    """Seconds of one step on views that stay where they are."""
    bf16 = use_bf16(setup.precision, device)
    method.prepare(device, bf16)
    network = method.network
    groups = method.parameter_groups(0.04)
    optimizer = torch.optim.AdamW(groups, lr=1e-3, fused=True)
    positions = [(number, number % len(frames)) for number in range(setup.batch_size)]
    batch = {name: value.to(device) for name, value in frames.__getitems__(positions).items()}
    whole, local = make_views(batch, method.crops)

    def step() -> float:
        began = _now(device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            loss = method.losses(network, whole, local, batch)["loss"]
        loss.backward()
        optimizer.step()
        return _now(device) - began

    step()
    return step


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _peak(device: torch.device) -> float:
    """MiB; those of the two sets of networks that the benchmark holds, not one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _report(loop: list[float], bare: list[float], setup: Setup, frames: int, peak: float) -> dict[str, Any]:
    return {
        "benchmark": "pretrain",
        "images_per_second": round(setup.batch_size / statistics.median(loop), 2),
        "compute_images_per_second": round(setup.batch_size / statistics.median(bare), 2),
        "step_efficiency": round(statistics.median(b / w for b, w in zip(bare, loop, strict=True)), 3),
        "peak_memory_mb": round(peak),
        "settings": asdict(setup) | {"frames": frames, "threads": torch.get_num_threads()},
        "hardware": hardware(),
    }
