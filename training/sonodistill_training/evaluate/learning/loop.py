"""Train heads or whole networks on labelled frames: one loop for every task and protocol."""

from __future__ import annotations

import math
import pickle
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sonodistill.errors import BundleConfigError, SonoDistillError, UnreadableFileError
from sonodistill.files import atomic_path
from sonodistill_training.evaluate.learning.feeds import Feed
from sonodistill_training.evaluate.learning.recipes import Recipe

_SAVE_SECONDS = 60.0
_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layer|layers)\.(\d+)\.")
_NEVER_DECAYED = ("pos_embed", "cls_token", "reg_token", "register_tokens", "mask_token", "position_embeddings")
_POLY_POWER = 0.9

Loss = Callable[[Tensor, Tensor], Tensor]


class Score(Protocol):
    """What is to grow on the validation frames."""

    def of_batch(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, ...): all that the score needs to know of a batch."""
        ...

    def of_all(self, parts: Tensor) -> float:
        """The score of all frames, from the parts one after another."""
        ...


class TrainingFailedError(SonoDistillError):
    """A loss or a prediction is not a number."""


@dataclass(frozen=True)
class Job:
    """What a training needs besides the network.

    Attributes:
        feed: of both training and validation rows.
        train, validation: row numbers.
        loss: (B, ...) float32 logits and targets to a scalar.
        score: what chooses an epoch.
        groups: parameter groups of AdamW, each with its learning rate.
        recipe: epochs, batch size and schedule.
        seed: of the order, the augmentation and dropout.
        bf16: whether to autocast.
        checkpoint: where an unfinished training is kept, to be gone on with.
        sgd: DINOv2's linear probe: SGD with momentum 0.9 in the place of AdamW, a schedule by step, and no choice among
            epochs: the last one's best head.
    """

    feed: Feed
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    loss: Loss
    score: Score
    groups: list[dict[str, Any]]
    recipe: Recipe
    seed: int
    bf16: bool
    checkpoint: Path
    sgd: bool = False


@dataclass
class Trained:
    """How a training went. The network has the weights of the best epoch.

    Attributes:
        best: the best validation score.
        best_epoch: from 1.
        head: which of the network's heads that was.
        curve: epoch, loss, validation loss, learning rate and validation score of each epoch.
        seconds: computing time, over all attempts.
        data_wait: share of the training's time that went into making batches.
    """

    best: float = -math.inf
    best_epoch: int = 0
    head: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0
    wait: float = 0.0

    @property
    def data_wait(self) -> float:
        return self.wait / self.seconds if self.seconds else 0.0


def train(network: nn.Module, job: Job, on_epoch: Callable[[dict[str, float]], None] | None = None) -> Trained:
    """Train, go on from the checkpoint if there is one, and leave the network with its best epoch's weights.

    Args:
        network: inputs of the feed to logits (K, B, ...), of K heads that are trained side by side and judged apart.

    Raises:
        TrainingFailedError: a loss or a validation prediction is not finite.
        UnreadableFileError: the checkpoint is of another training.
    """
    optimizer: torch.optim.Optimizer
    optimizer = torch.optim.SGD(job.groups, momentum=0.9) if job.sgd else torch.optim.AdamW(job.groups, fused=False)
    base = [group["lr"] for group in optimizer.param_groups]
    trained, best_state, start = Trained(), _trainable(network), 0
    if job.checkpoint.is_file():
        trained, best_state, start = _resume(job.checkpoint, network, optimizer)
    saved = time.monotonic()
    for epoch in range(start, job.recipe.epochs):
        factor = rate_factor(job.recipe, epoch)
        for group, rate in zip(optimizer.param_groups, base, strict=True):
            group["lr"] = rate * factor
        before = time.perf_counter()
        loss, wait = one_epoch(network, job, optimizer, epoch, base if job.sgd else None)
        trained.seconds += time.perf_counter() - before
        trained.wait += wait
        scores, losses = _validate(network, job)
        head = max(range(len(scores)), key=scores.__getitem__)
        row = {
            "epoch": epoch + 1,
            "loss": loss,
            "validation_loss": losses[head],
            "learning_rate": base[-1] * factor,
            "validation": scores[head],
        }
        trained.curve.append(row)
        if scores[head] > trained.best and (not job.sgd or epoch + 1 == job.recipe.epochs):
            trained.best, trained.best_epoch, trained.head = scores[head], epoch + 1, head
            best_state = _trainable(network)
        if on_epoch:
            on_epoch(row)
        if time.monotonic() - saved > _SAVE_SECONDS and epoch + 1 < job.recipe.epochs:
            _save(job.checkpoint, network, optimizer, trained, best_state, epoch + 1)
            saved = time.monotonic()
    network.load_state_dict(best_state, strict=False)
    return trained


def rate_factor(recipe: Recipe, epoch: float, by_step: bool = False) -> float:
    """The learning rate of an epoch (from 0; by step with a fraction of the next) relative to the recipe's."""
    if by_step:
        ramp = min(recipe.warmup_epochs, recipe.epochs / 2)
        if epoch < ramp:
            return epoch / ramp
        return 0.5 * (1 + math.cos(math.pi * (epoch - ramp) / (recipe.epochs - ramp)))
    warmup = min(recipe.warmup_epochs, recipe.epochs // 10)  # a short training is not to be all warm-up
    if epoch < warmup:
        return (epoch + 1) / warmup
    if recipe.schedule == "restarts":
        return 0.5 * (1 + math.cos(math.pi * (epoch % recipe.restart_epochs) / recipe.restart_epochs))
    done = (epoch - warmup) / max(1, recipe.epochs - warmup)
    if recipe.schedule == "linear":
        return 1 - done
    return 0.5 * (1 + math.cos(math.pi * done)) if recipe.schedule == "cosine" else (1 - done) ** _POLY_POWER


def predict(network: nn.Module, job_feed: Feed, rows: NDArray[np.int64], bf16: bool, batch: int) -> Iterable[Tensor]:
    """Logits (K, B, ...) float32 on the CPU for each batch of the rows, in evaluation mode."""
    network.eval()
    for some in _batches(rows, batch):
        inputs, targets = job_feed.batch(some)
        with torch.no_grad(), torch.autocast(targets.device.type, torch.bfloat16, enabled=bf16):
            logits = network(inputs)
        yield logits.float().cpu()


def one_epoch(
    network: nn.Module,
    job: Job,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    rates: Sequence[float] | None = None,
) -> tuple[float, float]:
    """Train for an epoch (from 0).

    Args:
        rates: the groups' learning rates, to be multiplied by the schedule at each step; None leaves them as they are.

    Returns:
        the mean loss, and the seconds that went into making batches.

    Raises:
        TrainingFailedError: the loss is not finite.
    """
    seed = job.seed * 100_003 + epoch
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)  # of dropout and stochastic depth
    batches = _batches(_order(job, generator), job.recipe.batch_size, least=2)
    network.train()
    losses, wait = [], 0.0
    for step, rows in enumerate(batches):
        if rates is not None:
            factor = rate_factor(job.recipe, epoch + step / len(batches), by_step=True)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        before = time.perf_counter()
        inputs, targets = job.feed.batch(rows, generator)
        wait += time.perf_counter() - before
        with torch.autocast(targets.device.type, torch.bfloat16, enabled=job.bf16):
            outputs = network(inputs)
        # Heads share nothing: the gradient of the sum is each one's own.
        loss = torch.stack([job.loss(logits.float(), targets) for logits in outputs]).sum()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach() / len(outputs))
    mean = float(torch.stack(losses).mean())
    if not math.isfinite(mean):
        raise TrainingFailedError(
            f"the loss of epoch {epoch + 1} is {mean}", remedy="take a lower learning rate, or --precision fp32"
        )
    return mean, wait


def _order(job: Job, generator: torch.Generator) -> NDArray[np.int64]:
    """The rows of an epoch: each once, or as often as its steps need, always a whole pass before the next."""
    wanted = job.recipe.epoch_steps * job.recipe.batch_size or len(job.train)
    passes = [torch.randperm(len(job.train), generator=generator).numpy() for _ in range(-(-wanted // len(job.train)))]
    return job.train[np.concatenate(passes)[:wanted]]


def _validate(network: nn.Module, job: Job) -> tuple[list[float], list[float]]:
    """The score of each head, and its loss: the mean over batches."""
    size = job.recipe.batch_size
    parts: list[list[Tensor]] = []
    losses: list[list[Tensor]] = []
    batches = _batches(job.validation, size)
    for rows, logits in zip(batches, predict(network, job.feed, job.validation, job.bf16, size), strict=True):
        require_finite_logits(logits, "validation frames")
        targets = job.feed.batch(rows)[1].cpu()
        parts.append([job.score.of_batch(of_head, targets) for of_head in logits])
        losses.append([job.loss(of_head, targets) for of_head in logits])
    scores = [job.score.of_all(torch.cat(of_head)) for of_head in zip(*parts, strict=True)]
    return scores, [float(torch.stack(of_head).mean()) for of_head in zip(*losses, strict=True)]


def require_finite_logits(logits: Tensor, what: str) -> None:
    """Raise TrainingFailedError when a prediction is infinite or not a number."""
    if not torch.isfinite(logits).all():
        raise TrainingFailedError(
            f"predictions for {what} are not numbers (NaN or infinite)",
            remedy="take a lower learning rate, or --precision fp32",
        )


def _batches(rows: NDArray[np.int64], size: int, least: int = 1) -> list[NDArray[np.int64]]:
    """The rows in turn. A last batch of fewer than ``least`` goes to the one before: of one, there is no variance."""
    parts = [rows[start : start + size] for start in range(0, len(rows), size)]
    if len(parts) > 1 and len(parts[-1]) < least:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def _trainable(network: nn.Module) -> dict[str, Tensor]:
    """A copy of what training changes: a frozen encoder is left out."""
    frozen = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    return {name: value.detach().clone() for name, value in network.state_dict().items() if name not in frozen}


def _save(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: Trained,
    best_state: dict[str, Tensor],
    epoch: int,
) -> None:
    state = {"network": _trainable(network), "best_state": best_state, "optimizer": optimizer.state_dict()}
    with atomic_path(path) as temporary:
        torch.save(state | {"trained": vars(trained), "epoch": epoch}, temporary)


def _resume(path: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[Trained, dict[str, Tensor], int]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(state["network"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        return Trained(**state["trained"]), state["best_state"], int(state["epoch"])
    except (RuntimeError, ValueError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise UnreadableFileError("is no checkpoint of this evaluation", path=path, remedy="remove it") from error


def parameter_groups(head: Sequence[nn.Parameter], encoder: nn.Module | None, recipe: Recipe) -> list[dict[str, Any]]:
    """AdamW's groups: the head at the recipe's rate, the encoder at its share of it, falling from block to block.

    Args:
        head: parameters of what is trained on the encoder.
        encoder: None where it is frozen.

    Raises:
        BundleConfigError: a layer decay for an encoder without numbered blocks.
    """
    groups: list[dict[str, Any]] = []
    if encoder is not None:
        rate = recipe.learning_rate * recipe.backbone_rate
        groups += (
            _decayed(encoder, rate, recipe)
            if recipe.layer_decay < 1
            else [{"params": list(encoder.parameters()), "lr": rate, "weight_decay": recipe.weight_decay}]
        )
    return [*groups, {"params": list(head), "lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}]


def _decayed(encoder: nn.Module, rate: float, recipe: Recipe) -> list[dict[str, Any]]:
    """A group for each block, and within it for what has no weight decay."""
    numbers = {name: _BLOCK.search(name) for name, _ in encoder.named_parameters()}
    depth = max((int(match[1]) + 1 for match in numbers.values() if match), default=0)
    if depth == 0:
        raise BundleConfigError(
            "a layer decay needs a transformer, whose blocks have an order", remedy="take the recipe paper"
        )
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in encoder.named_parameters():
        match = numbers[name]
        # Embeddings come before the first block; the last norm after the last.
        place = int(match[1]) + 1 if match else (depth + 1 if "norm" in name else 0)
        plain = parameter.ndim < 2 or name.endswith(_NEVER_DECAYED)
        group = {
            "params": [],
            "lr": rate * recipe.layer_decay ** (depth + 1 - place),
            "weight_decay": 0.0 if plain else recipe.weight_decay,
        }
        groups.setdefault((place, plain), group)["params"].append(parameter)
    return list(groups.values())
