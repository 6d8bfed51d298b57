"""How fast a segmenter is fine-tuned: from uint8 frames in memory, beside MONAI's dictionary transforms and loader."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sonodistill.networks.precision import use_bf16
from sonodistill.networks.unet import Segmenter
from sonodistill.transforms.masks import write_mask
from sonodistill_training.corpus.simulator import write_simulated
from sonodistill_training.distill.engine import prepare_student
from sonodistill_training.distributed import pick_device
from sonodistill_training.evaluate.data import LabelledSet, read_set
from sonodistill_training.evaluate.learning.feeds import ImageFeed
from sonodistill_training.evaluate.learning.loop import Job, one_epoch, parameter_groups
from sonodistill_training.evaluate.learning.losses import segmentation_loss
from sonodistill_training.evaluate.learning.protocols import OnImages
from sonodistill_training.evaluate.learning.recipes import Recipe, recipe
from sonodistill_training.hardware import hardware

_WARM_UP = 2  # batches before anything is timed


@dataclass(frozen=True, slots=True)
class Setup:
    """What is fine-tuned in the benchmark."""

    encoder: str = "resnet18"
    input_size: int = 256
    batch_size: int = 32
    frames: int = 480
    parts: int = 1
    workers: int = 2
    seed: int = 0


@dataclass(slots=True)
class _Times:
    """Seconds an epoch of each pipeline, and of ours what went into making batches."""

    ours: float = 0.0
    monai: float = 0.0
    monai_bf16: float = 0.0
    wait: float = 0.0
    by_part: list[float] = field(default_factory=list)


def bench_finetune(name: str, folder: Path | None, setup: Setup) -> dict[str, Any]:
    """One epoch of a U-Net on all annotated frames, in parts that the pipelines take in turns.

    The MONAI pipeline is what its tutorials show: LoadImaged, EnsureChannelFirstd, Resized, ScaleIntensityd and
    RandFlipd on the files, a DataLoader with workers, float32. The same with bf16 and channels-last is timed as well:
    what is left of the ratio then is the data pipeline and the encoder's faster layers.

    Args:
        name: of the data set, as for :func:`read_set`.
        folder: where it lies; simulated frames when None.
    """
    device = pick_device()
    with tempfile.TemporaryDirectory() as scratch:
        if folder is None:
            name, folder = "simulated", write_simulated(Path(scratch) / "simulated", setup.frames, setup.seed)
        data = read_set(name, folder, setup.input_size)
        rows = np.array([row for row in range(len(data)) if data.truths[row] is not None])[: setup.frames]
        files = _monai_files(data, rows, folder, Path(scratch) / "masks")
        times = _time(data, rows, files, setup, device)
    return {
        "ratio_vs_monai_pipeline": times.monai / times.ours,
        "ratio_vs_monai_pipeline_bf16": times.monai_bf16 / times.ours,
        "data_wait_fraction": times.wait / times.ours,
        "epoch_seconds": times.ours,
        "monai_epoch_seconds": times.monai,
        "monai_bf16_epoch_seconds": times.monai_bf16,
        "images_per_second": len(rows) / times.ours,
        "frames": len(rows),
        "ratio_by_part": [round(ratio, 3) for ratio in times.by_part],
        "data": name,
        "encoder": setup.encoder,
        "input_size": setup.input_size,
        "batch_size": setup.batch_size,
        "monai_workers": setup.workers,
        "device": str(device),
        **hardware(),
    }


def _time(
    data: LabelledSet, rows: NDArray[np.int64], files: list[dict[str, str]], setup: Setup, device: torch.device
) -> _Times:
    settings = recipe("paper", "segmentation", input_size=setup.input_size, batch_size=setup.batch_size)
    ours = _ours(data, settings, setup, device)
    theirs = _monai(settings, setup, device, bf16=False)
    theirs_bf16 = _monai(settings, setup, device, bf16=use_bf16("auto", device))
    warm = rows[: _WARM_UP * setup.batch_size]
    ours(warm)
    theirs(files[: len(warm)])
    theirs_bf16(files[: len(warm)])
    times = _Times()
    for part in np.array_split(np.arange(len(rows)), setup.parts):
        some = [files[index] for index in part.tolist()]
        seconds, wait = _clock(lambda part=part: ours(rows[part]))
        monai, _ = _clock(lambda some=some: theirs(some))
        monai_bf16, _ = _clock(lambda some=some: theirs_bf16(some))
        times.ours, times.wait = times.ours + seconds, times.wait + wait
        times.monai, times.monai_bf16 = times.monai + monai, times.monai_bf16 + monai_bf16
        times.by_part.append(monai / seconds)
    return times


def _clock(work: Callable[[], float]) -> tuple[float, float]:
    """Seconds of the work, and what it returns."""
    began = time.perf_counter()
    returned = work()
    return time.perf_counter() - began, returned


def _network(setup: Setup, device: torch.device) -> Segmenter:
    torch.manual_seed(setup.seed)
    return Segmenter(setup.encoder).to(device)


def _ours(
    data: LabelledSet, settings: Recipe, setup: Setup, device: torch.device
) -> Callable[[NDArray[np.int64]], float]:
    """Trains on rows as an evaluation does; returns seconds spent on batches."""
    network = _network(setup, device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bf16 = use_bf16("auto", device)
    prepare_student(network.encoder, device, bf16, levels=len(network.encoder.channels))
    annotated = [row for row in range(len(data)) if data.truths[row] is not None]
    masks = np.zeros((len(data), 1, setup.input_size, setup.input_size), np.uint8)
    masks[annotated] = data.masks(annotated)
    feed = ImageFeed(torch.from_numpy(data.images), torch.from_numpy(masks), device)
    groups = parameter_groups(list(network.parameters()), None, settings)
    optimizer = torch.optim.AdamW(groups)
    wrapped = OnImages(network)

    def run(rows: NDArray[np.int64]) -> float:
        job = Job(feed, rows, rows[:0], segmentation_loss(settings), lambda *_: 0.0, groups, settings, 0, bf16, Path())
        return one_epoch(wrapped, job, optimizer, 0)[1]

    return run


def _monai(settings: Recipe, setup: Setup, device: torch.device, bf16: bool) -> Callable[[list[dict[str, str]]], float]:
    """Trains on files as MONAI's tutorials do."""
    from monai.data import DataLoader, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        Lambdad,
        LoadImaged,
        RandFlipd,
        Resized,
        ScaleIntensityd,
    )

    network = _network(setup, device)
    if bf16:
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    loss_function = segmentation_loss(settings)
    size = (setup.input_size, setup.input_size)
    chain = Compose(
        [
            LoadImaged(("image", "label")),
            EnsureChannelFirstd(("image", "label")),
            Lambdad("image", _gray),
            Resized(("image", "label"), size, mode=("bilinear", "nearest")),
            ScaleIntensityd(("image", "label")),
            RandFlipd(("image", "label"), prob=0.5, spatial_axis=0),  # PIL is read with the columns first
        ]
    )

    def run(files: list[dict[str, str]]) -> float:
        loader = DataLoader(Dataset(files, chain), batch_size=setup.batch_size, shuffle=True, num_workers=setup.workers)
        network.train()
        for batch in loader:
            images, labels = batch["image"].to(device), batch["label"].to(device)
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits = network(images)
            loss_function(logits.float(), labels).backward()
            optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)  # ours has waited for its losses
        return 0.0

    return run


def _gray(image: torch.Tensor) -> torch.Tensor:
    """(C, W, H) to (1, W, H). DDTI's JPEG have three channels, all alike."""
    return image.mean(dim=0, keepdim=True)


def _monai_files(data: LabelledSet, rows: NDArray[np.int64], folder: Path, masks: Path) -> list[dict[str, str]]:
    """The frames' own files, and their masks as PNG, which is what the pipeline is written for."""
    files = []
    for row in rows.tolist():
        mask = masks / f"{row}.png"
        write_mask(mask, data.truth(row).astype(np.uint8))
        image = folder / data.files[row]
        files.append({"image": str(image if image.is_file() else folder.parent / data.files[row]), "label": str(mask)})
    return files
