"""Command line of self-distillation: `sonodistill pretrain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from sonodistill_training.training_options import (
    BatchSize,
    Data,
    Epochs,
    LearningRate,
    Probe,
    Seed,
    Setting,
    Steps,
    train,
)


def pretrain(
    data: Data,
    out: Annotated[Path, typer.Option(help="Where the ViT, the log and the checkpoint go.")],
    recipe: Annotated[
        list[str],
        typer.Option(help="Overlay: mae (pretrain_mae.yaml), or a YAML file; repeatable, the last one wins."),
    ] = [],  # noqa: B006 - Typer reads the default and never changes it
    network: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="timm name: vit_small_patch16_224, vit_base_patch16_224, vit_tiny_patch16_224."),
    ] = None,
    weights: Annotated[Optional[str], typer.Option(help="File to start from, or imagenet.")] = None,  # noqa: UP045
    registers: Annotated[Optional[int], typer.Option(min=0, help="Register tokens.")] = None,  # noqa: UP045
    channels: Annotated[Optional[int], typer.Option(help="Of the input: 1 or 3.")] = None,  # noqa: UP045
    epochs: Epochs = None,
    steps: Steps = None,
    batch_size: BatchSize = None,
    input_size: Annotated[Optional[int], typer.Option(help="Pixels of a global view.")] = None,  # noqa: UP045
    learning_rate: LearningRate = None,
    seed: Seed = None,
    probe: Probe = None,
    setting: Setting = [],  # noqa: B006
) -> None:
    """Pretrain a vision transformer on unlabelled frames by self-distillation (DINOv2) or MAE; run it again to go on.

    The same code and config as `python -m monai.bundle run training` with pretrain.yaml, where every setting is. What
    it writes is a teacher for `sonodistill distill --teacher OUT/teacher.safetensors`. Exit code 130 after Ctrl-C and
    143 after SIGTERM: saved, and to be gone on with.

    Example: sonodistill pretrain corpus/ --network vit_small_patch16_224 --out runs/vits16

    A masked autoencoder: sonodistill pretrain corpus/ --recipe mae --out runs/mae

    DINO alone: sonodistill pretrain corpus/ --out runs/dino --set ibot_weight=0 --set koleo_weight=0
    """
    from sonodistill_training.workflow import overlay_files

    given = {
        "network_name": network,
        "weights": weights,
        "registers": registers,
        "channels": channels,
        "max_epochs": epochs,
        "max_steps": steps,
        "batch_size": batch_size,
        "input_size": input_size,
        "learning_rate": learning_rate,
        "seed": seed,
        "probe_dir": probe,
    }
    train(["pretrain.yaml", *overlay_files("pretrain", recipe)], data, out, given, setting)
    typer.echo(f"teacher: {out / 'teacher.safetensors'}")
