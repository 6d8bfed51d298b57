"""The four ways to judge an encoder: neighbours, linear heads, a decoder on frozen maps, and fine-tuning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from sonodistill.networks.build import build_classifier, build_segmenter
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.heads import LinearHeads, PooledLinearHeads
from sonodistill_training.distill.engine import prepare_student
from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.learning.feeds import FeatureFeed, Feed, ImageFeed
from sonodistill_training.evaluate.learning.frozen import FrozenEncoder
from sonodistill_training.evaluate.learning.loop import Job, Score, Trained, parameter_groups, predict, train
from sonodistill_training.evaluate.learning.losses import (
    AccuracyScore,
    DiceScore,
    Likelihood,
    MacroF1Score,
    StructuresScore,
    segmentation_loss,
)
from sonodistill_training.evaluate.learning.token_probe import TokenHeads
from sonodistill_training.evaluate.results import Cell
from sonodistill_training.monitor.probe import knn_votes, standardise

NEIGHBOURS = 20
_AT_ONCE = 16  # frames whose features are taken to float64 together
_NO_VOTE = 1e-12  # a class without a vote is unlikely, not impossible: its logarithm is a number

OnEpoch = Callable[[dict[str, float]], None]
MakeEncoder = Callable[[], nn.Module]


@dataclass(frozen=True)
class Trial:
    """A cell with everything it is computed from.

    Attributes:
        cell: what to evaluate.
        data: its frames.
        classes: of classification, in the order of the logits.
        train, validation, test: rows of the data; ``train`` has only those that are labelled in this cell.
        make_encoder: a fresh encoder with its weights.
        frozen: the same encoder and its features, kept for all cells that freeze it.
        device: where it is computed.
        checkpoint: where an unfinished training is kept.
    """

    cell: Cell
    data: LabelledSet
    classes: tuple[str, ...]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    make_encoder: MakeEncoder
    frozen: FrozenEncoder
    device: torch.device
    checkpoint: Path

    @property
    def bf16(self) -> bool:
        """Whether to autocast."""
        return self.cell.precision == "bf16"

    @property
    def dense(self) -> bool:
        return self.cell.task == "segmentation"

    @property
    def outputs(self) -> int:
        """Channels of the logits: one of a foreground, one for the background and each structure, or the classes."""
        if self.dense:
            return len(self.data.structures) + 1 if self.data.structures else 1
        return len(self.classes)

    def targets(self) -> Tensor:
        """(N, 1, S, S) uint8 masks or (N,) int64 classes; of rows that the cell does not use, zeros."""
        used = np.concatenate([self.train, self.validation, self.test])
        if self.dense:
            size = self.data.input_size
            masks = np.zeros((len(self.data), 1, size, size), np.uint8)
            masks[used] = self.data.masks(used.tolist())
            return torch.from_numpy(masks)
        numbers = np.zeros(len(self.data), np.int64)
        numbers[used] = [self.classes.index(self.data.labels[row]) for row in used.tolist()]
        return torch.from_numpy(numbers)


@dataclass(frozen=True)
class Outcome:
    """What a protocol found.

    Attributes:
        logits: (B, C, S, S) or (B, K) float32 for successive batches of the test rows; of neighbours, log votes.
        trained: how the training went; None for neighbours.
        rate: the learning rate that validation chose among several, or None.
        head_parameters: of what was trained on the encoder.
        probe: which features validation chose among several, in words.
    """

    logits: list[Tensor]
    trained: Trained | None
    rate: float | None
    head_parameters: int
    probe: str = ""


def run_protocol(trial: Trial, on_epoch: OnEpoch | None = None) -> Outcome:
    """Train as the cell says and predict its test rows."""
    run = {"knn": _knn, "linear": _linear, "frozen_encoder_unet": _frozen, "finetune": _finetune}
    return run[trial.cell.protocol](trial, on_epoch)


def _knn(trial: Trial, _: OnEpoch | None) -> Outcome:
    features = trial.frozen.pooled().double().numpy()
    labels = trial.targets().numpy()[trial.train]
    train, test = standardise(features[trial.train], features[trial.test])
    votes = knn_votes(train, labels, test, NEIGHBOURS, len(trial.classes))
    return Outcome([torch.from_numpy(np.log(np.maximum(votes, _NO_VOTE))).float()], None, None, 0)


def _linear(trial: Trial, on_epoch: OnEpoch | None) -> Outcome:
    rates = trial.cell.recipe.probe_rates
    if _is_dinov2(trial):
        return _dinov2_probe(trial, on_epoch)
    size = trial.data.input_size if trial.dense else 0
    features = trial.frozen.gathered() if trial.dense else trial.frozen.pooled()
    kind = LinearHeads if trial.dense else PooledLinearHeads
    heads: LinearHeads = _seeded(trial, lambda: kind(features.shape[1], trial.outputs, len(rates)))
    heads.standardise(*_moments(features, trial.train))
    groups = [group | {"weight_decay": trial.cell.recipe.weight_decay} for group in heads.parameter_groups(rates)]
    feed = FeatureFeed([features], trial.targets(), trial.device)
    network = OnFeature(heads, size)
    if trial.dense:
        trained, logits = _train(trial, network, feed, groups, on_epoch)
    else:
        with _one_thread():  # of so little work, sharing it out is most
            trained, logits = _train(trial, network, feed, groups, on_epoch, bf16=False)
    return Outcome(logits, trained, rates[trained.head], _count(heads) // len(rates))


def _dinov2_probe(trial: Trial, on_epoch: OnEpoch | None) -> Outcome:
    """DINOv2's linear evaluation: a head for each choice of tokens and each learning rate, all at once."""
    rates = trial.cell.recipe.probe_rates
    tokens = trial.frozen.tokens()
    heads = _seeded(trial, lambda: TokenHeads(tokens.shape[1], tokens.shape[2], trial.outputs, len(rates)))
    groups = [group | {"weight_decay": trial.cell.recipe.weight_decay} for group in heads.parameter_groups(rates)]
    feed = FeatureFeed([tokens], trial.targets(), trial.device)
    with _one_thread():
        trained, logits = _train(trial, heads, feed, groups, on_epoch, bf16=False)
    chosen, rate = divmod(trained.head, len(rates))
    return Outcome(logits, trained, rates[rate], heads.parameters_of(chosen), heads.choices[chosen].title)


def _frozen(trial: Trial, on_epoch: OnEpoch | None) -> Outcome:
    network = _seeded(trial, lambda: build_segmenter(trial.frozen.encoder, trial.cell.head, trial.outputs))
    feed = FeatureFeed(trial.frozen.maps(), trial.targets(), trial.device)
    groups = parameter_groups(list(network.head.parameters()), None, trial.cell.recipe)
    trained, logits = _train(trial, _OnMaps(network.head, trial.data.input_size), feed, groups, on_epoch)
    return Outcome(logits, trained, None, _count(network.head))


def _finetune(trial: Trial, on_epoch: OnEpoch | None) -> Outcome:
    encoder = trial.make_encoder()
    encoder.train()
    network: Any
    if trial.dense:
        network = _seeded(trial, lambda: build_segmenter(encoder, trial.cell.head, trial.outputs))
    else:
        network = _seeded(trial, lambda: build_classifier(encoder, trial.outputs))
    if isinstance(encoder, Encoder):
        prepare_student(encoder, trial.device, trial.bf16, levels=len(encoder.channels))
    groups = parameter_groups(list(network.head.parameters()), encoder, trial.cell.recipe)
    images, coded = torch.from_numpy(trial.data.images), bool(trial.data.structures)
    feed = ImageFeed(images, trial.targets(), trial.device, trial.cell.recipe.augment, coded)
    trained, logits = _train(trial, OnImages(network), feed, groups, on_epoch)
    return Outcome(logits, trained, None, _count(network.head))


def _train(
    trial: Trial,
    network: nn.Module,
    feed: Feed,
    groups: list[dict[str, Any]],
    on_epoch: OnEpoch | None,
    bf16: bool | None = None,
) -> tuple[Trained, list[Tensor]]:
    network.to(trial.device, memory_format=torch.channels_last)
    recipe = trial.cell.recipe
    bf16 = trial.bf16 if bf16 is None else bf16
    job = Job(
        feed=feed,
        train=trial.train,
        validation=trial.validation,
        loss=segmentation_loss(recipe) if trial.dense else functional.cross_entropy,
        score=_score(trial),
        groups=groups,
        recipe=recipe,
        seed=trial.cell.seed,
        bf16=bf16,
        checkpoint=trial.checkpoint,
        sgd=_is_dinov2(trial),
    )
    trained = train(network, job, on_epoch)
    batches = predict(network, feed, trial.test, bf16, recipe.batch_size)
    # A copy: a view would keep what the other heads say.
    return trained, [logits[trained.head].clone() for logits in batches]


def _moments(features: Tensor, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """(C,) mean and variance of each channel over the rows, in float64."""
    count, total, squares = 0, torch.zeros(()).double(), torch.zeros(()).double()
    for some in np.array_split(rows, -(-len(rows) // _AT_ONCE)):
        part = features[torch.from_numpy(some)].transpose(0, 1).flatten(1).double()
        count += part.shape[1]
        total, squares = total + part.sum(dim=1), squares + part.square().sum(dim=1)
    mean = total / count
    return mean, (squares / count - mean.square()).clamp(min=0)


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _score(trial: Trial) -> Score:
    if trial.dense:
        return StructuresScore() if trial.data.structures else DiceScore()
    if _is_dinov2(trial):
        return AccuracyScore()
    return Likelihood() if trial.cell.protocol == "linear" else MacroF1Score()


def _is_dinov2(trial: Trial) -> bool:
    return not trial.dense and trial.cell.protocol == "linear" and trial.cell.recipe.probe == "dinov2"


def _seeded(trial: Trial, make: Callable[[], Any]) -> Any:
    """What ``make`` makes, with initial weights that follow from the cell's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.cell.seed)
        return make()


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


class OnImages(nn.Module):
    """A whole network as the one head of a training."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images.to(memory_format=torch.channels_last))[None]


class _OnMaps(nn.Module):
    """A decoder on kept maps."""

    def __init__(self, head: nn.Module, size: int) -> None:
        super().__init__()
        self.head, self.size = head, size

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.head([level.contiguous(memory_format=torch.channels_last) for level in maps], (self.size,) * 2)[
            None
        ]


class OnFeature(nn.Module):
    """Linear heads on one kept feature; their logits are brought to the input's size."""

    def __init__(self, heads: LinearHeads, size: int) -> None:
        super().__init__()
        self.heads, self.size = heads, size

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        logits = self.heads(features[0])
        if not self.size:
            return logits
        # Bilinear, as a product on each side: torch's own, backwards above all, costs more than the heads.
        down, across = (_interpolation(side, self.size).to(logits.device) for side in logits.shape[-2:])
        with torch.autocast(logits.device.type, enabled=False):
            return down @ logits.float() @ across.T


def _interpolation(side: int, size: int) -> Tensor:
    """(size, side): linear interpolation of ``side`` values to ``size`` (``align_corners=False``) as a matrix."""
    return functional.interpolate(torch.eye(side)[:, None], size, mode="linear", align_corners=False)[:, 0].T
