"""Does an exported file say what the network says? Run by its own runtime, on real frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sonodistill.errors import SonoDistillError
from sonodistill.inference.familiarity import LIMIT
from sonodistill.inference.runtimes.base import Runtime, filled

Array = NDArray[np.float32]
Figures = dict[str, float]

_BATCH = 4
_LEAST_DICE = {"int8": 0.95}
_SCORE_EXACT, _SCORE_ROUNDED = 1e-3, 0.25  # of a score; between two kinds of frames it differs by factors


class ExportCheckError(SonoDistillError):
    """An exported file differs from the network by more than is allowed, or nothing could be compared."""


class ScoreCheckError(ExportCheckError):
    """The masks of an exported file are the network's, and its warning score is not."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an export may cost; one that costs more is refused.

    Attributes:
        difference: fp32: of the largest absolute value of the output (at least 1), on any pixel of any frame.
        dice: segmenter in lower precision: mean over frames between its masks and those of the network. The default
            is 0.98, for int8 0.95.
        cosine: encoder and classifier in lower precision: mean over frames, of pooled embeddings or logits.
        agreement: classifier in lower precision: share of frames with the same class.

    That masks moved does not say that they became worse: of a ResNet-18 U-Net trained for minutes on BUSI int8 masks
    have a Dice of 0.973 to 0.979 with the network's own, bf16 ones 0.991 (263 frames it was not trained on), and all
    of them 0.594 to 0.595 with the annotation.
    """

    difference: float = 1e-4
    dice: float | None = None
    cosine: float = 0.99
    agreement: float = 0.95


@torch.inference_mode()
def outputs(network: nn.Module, frames: Sequence[Array], part: int | None = None) -> Array:
    """What the network itself says of frames (1, H, W); of several outputs that of the number ``part``."""
    batches = (np.stack(frames[start : start + _BATCH]) for start in range(0, len(frames), _BATCH))
    found = (network(torch.from_numpy(batch)) for batch in batches)
    return np.concatenate([(each if part is None else each[part]).numpy() for each in found])


def run(runtime: Runtime, frames: Sequence[Array], part: int | None = None) -> Array:
    """What the exported file says of them: of the first alone, of the others several at a time, if it takes several.

    With ``part`` 1 its warning scores.

    Raises:
        ExportCheckError: it gives another number of outputs than it got images.
    """
    size = runtime.batch or _BATCH
    starts = [0, *range(1, len(frames), size)] if runtime.batch is None else list(range(0, len(frames), size))
    parts = []
    for start, end in zip(starts, [*starts[1:], len(frames)], strict=True):
        images = filled(np.stack(frames[start:end]), runtime.batch or 0)
        output = runtime(images) if part is None else runtime.both(images)[part]
        if len(output) != len(images):
            raise ExportCheckError(f"gives {len(output)} outputs for {len(images)} images")
        parts.append(output[: end - start])
    return np.concatenate(parts)


def compare(kind: str, reference: Array, found: Array) -> Figures:
    """What differs, by name; always "frames" and "max_abs_difference".

    Args:
        kind: "segmenter": mean "dice" of the masks over "frames_with_mask", a frame (and class) where both are empty
            left out. "classifier": "agreement" of the class and "cosine" of the logits. "encoder": "cosine" of the
            embeddings pooled over the map.
        reference: the network's output.
        found: the exported file's.

    Raises:
        ExportCheckError: another shape, or values that are not finite.
    """
    if reference.shape != found.shape:
        raise ExportCheckError(f"its output is {found.shape}, the network's {reference.shape}")
    if not np.isfinite(found).all():
        raise ExportCheckError(f"{int((~np.isfinite(found)).sum())} values of its output are not finite")
    figures = {"frames": float(len(found)), "max_abs_difference": float(np.abs(found - reference).max())}
    if kind == "segmenter":
        masks = [(output > 0).reshape(-1, output.shape[2] * output.shape[3]) for output in (reference, found)]
        both = masks[0].sum(1) + masks[1].sum(1)
        dice = 2 * (masks[0] & masks[1]).sum(1)[both > 0] / both[both > 0]
        figures["frames_with_mask"] = float(len(dice))
        return figures | ({"dice": float(dice.mean())} if len(dice) else {})
    if kind == "classifier":
        same = _classes(reference) == _classes(found)
        return figures | {"agreement": float(same.mean()), "cosine": _cosine(reference, found)}
    return figures | {"cosine": _cosine(reference.mean((2, 3)), found.mean((2, 3)))}


def require(kind: str, precision: str, reference: Array, figures: Figures, limits: Limits, path: Path) -> None:
    """Refuse what exceeds the limits.

    Raises:
        ExportCheckError: with the figure and its limit.
    """
    if precision == "fp32":
        allowed = limits.difference * max(1.0, float(np.abs(reference).max()))
        differs = figures["max_abs_difference"]
        if differs > allowed:
            raise ExportCheckError(
                f"its output differs from the network's by {differs:.2e}, more than {allowed:.2e}",
                path=path,
                remedy="nothing was written; choose another target for this architecture",
            )
        return
    if kind == "segmenter" and "dice" not in figures:
        raise ExportCheckError(
            f"the network finds nothing on any of {len(reference)} frames, so its masks cannot be compared",
            path=path,
            remedy="give --frames on which there is something to find",
        )
    dice = limits.dice if limits.dice is not None else _LEAST_DICE.get(precision, 0.98)
    for name, least in (("dice", dice), ("agreement", limits.agreement), ("cosine", limits.cosine)):
        # A single logit has a sign, and no direction.
        if name in figures and figures[name] < least and not (name == "cosine" and reference.shape[1] == 1):
            raise ExportCheckError(
                f"in {precision} its {name} with the network is {figures[name]:.4f}, less than {least:g}, "
                f"on {len(reference)} frames",
                path=path,
                remedy=f"nothing was written; give more and more typical --frames, or allow it: --min-{name} "
                f"{figures[name] - 5e-5:.4f}",
            )


def compare_scores(reference: Array, found: Array) -> Figures:
    """What differs of the warning scores: the largest share of a score, and the frames on the same side of the limit.

    Raises:
        ExportCheckError: values that are not finite.
    """
    if reference.shape != found.shape or not np.isfinite(found).all():
        raise ExportCheckError("its warning scores are not one finite number a frame")
    sides = (reference > LIMIT) == (found > LIMIT)
    return {
        "score_difference": float(np.max(np.abs(found - reference) / reference)),
        "score_agreement": float(sides.mean()),
    }


def require_scores(precision: str, figures: Figures, path: Path) -> None:
    """Refuse a file whose warning score says something else than the network's.

    Raises:
        ScoreCheckError: with the figure and its limit.
    """
    allowed = _SCORE_EXACT if precision == "fp32" else _SCORE_ROUNDED
    if figures["score_difference"] > allowed:
        raise ScoreCheckError(
            f"in {precision} its warning score differs from the network's by up to "
            f"{figures['score_difference']:.1%}, more than {allowed:.1%}",
            path=path,
            remedy="nothing was written; export it without the score: --no-familiarity",
        )


def _classes(logits: Array) -> NDArray[np.integer]:
    return (logits[:, 0] > 0).astype(np.int64) if logits.shape[1] == 1 else logits.argmax(1)


def _cosine(reference: Array, found: Array) -> float:
    """Mean over frames."""
    norms = np.linalg.norm(reference, axis=1) * np.linalg.norm(found, axis=1)
    return float(((reference * found).sum(1) / np.maximum(norms, np.finfo(np.float32).tiny)).mean())
