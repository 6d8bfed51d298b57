"""The commands that compute the results of a store again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sonodistill_training.evaluate.encoders.rows import find_row
from sonodistill_training.evaluate.learning.recipes import RECIPES, published_recipe
from sonodistill_training.evaluate.results import PROTOCOLS, Result

_CHANGES = ("epochs", "epoch_steps", "batch_size", "learning_rate", "input_size", "augment")
_DECODED = ("frozen_encoder_unet", "finetune")
Words = tuple[str, ...]


def commands(results: Sequence[Result], out: str = "OUT") -> list[str]:
    """``sonodistill evaluate run`` for everything in a store; FILE, FOLDER and ``out`` stand for what a reader has.

    Encoders that were evaluated alike share a command, and so do protocols.
    """
    amounts: dict[tuple[Words, str, str], set[tuple[float, int]]] = {}
    seeds: dict[tuple[Words, str, str], int] = {}
    for result in results:
        cell = result.cell
        key = (_settings(result), cell.protocol, encoder_text(cell.encoder, cell.weights))
        amounts.setdefault(key, set()).add((cell.fraction, cell.shots))
        seeds[key] = max(seeds.get(key, 0), cell.seed + 1, cell.draw + 1)
    encoders: dict[tuple[Words, str, Words], list[str]] = {}
    for (settings, protocol, encoder), of in amounts.items():
        labels = (*_labels(of), "--seeds", str(seeds[settings, protocol, encoder]))
        encoders.setdefault((settings, protocol, labels), []).append(encoder)
    protocols: dict[tuple[Words, Words, Words], list[str]] = {}
    for (settings, protocol, labels), names in encoders.items():
        protocols.setdefault((settings, labels, tuple(sorted(set(names)))), []).append(protocol)
    return [
        _written(settings, sorted(of, key=PROTOCOLS.index), labels, names, out)
        for (settings, labels, names), of in protocols.items()
    ]


def encoder_text(encoder: str, weights: str) -> str:
    """What ``--encoder`` takes for an encoder: "R18-Rand", "USFM ViT-B/16=FILE", "Mine:resnet34=hub"."""
    kind, *_, architecture = weights.split(":")
    row = find_row(encoder)
    name = encoder if not architecture or (row and row.architecture) else f"{encoder}:{architecture}"
    if kind == "random" or (row is not None and row.weights == kind):
        return name
    return f"{name}={'hub' if kind == 'hub' else 'FILE'}"


def _settings(result: Result) -> Words:
    """Everything but encoder, protocol and labels, as words of the command."""
    cell = result.cell
    known = cell.recipe.name in RECIPES
    usual = published_recipe(cell.recipe.name, cell.task, cell.shots) if known else None
    words = ["--data", f"{cell.data}=FOLDER", "--task", cell.task, "--recipe", cell.recipe.name]
    if cell.protocol in _DECODED and cell.task == "segmentation":
        words += ["--head", cell.head]
    for name in _CHANGES:
        value = getattr(cell.recipe, name)
        if usual is not None and value != getattr(usual, name):
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    # "paper", "index", "seed 3", or "index, validation by seed 3".
    said = str(result.about.get("split", "auto")).split()
    seed = ("--split-seed", said[-1]) if "seed" in said else ()
    return (*words, "--split", said[0].rstrip(","), *seed, "--precision", cell.precision)


def _labels(amounts: set[tuple[float, int]]) -> Words:
    fractions = sorted(fraction for fraction, shots in amounts if not shots)
    shots = sorted(shots for _, shots in amounts if shots)
    words = [word for fraction in fractions if fractions != [1.0] or shots for word in ("--fraction", f"{fraction:g}")]
    return (*words, *(word for number in shots for word in ("--shots", str(number))))


def _written(settings: Words, protocols: Sequence[str], labels: Words, encoders: Words, out: str) -> str:
    words = ["sonodistill", "evaluate", "run"]
    words += [word for encoder in encoders for word in ("--encoder", encoder)]
    words += [*settings[:4], *(word for protocol in protocols for word in ("--protocol", protocol)), *settings[4:]]
    return shlex.join([*words, *labels, "--out", out])
