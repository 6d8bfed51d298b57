"""The network as a graph of operators, with the number of images left open."""

from __future__ import annotations

import re

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from sonodistill_training.export.targets import UnsupportedOperatorError
from sonodistill_training.export.targets.quiet import quiet

_OPERATOR = re.compile(r"\b(?:aten|prims|torchvision|torch\.ops\.\w+)(?:::|\.)\w+(?:\.\w+)?")


def capture(network: nn.Module, size: tuple[int, int], target: str) -> ExportedProgram:
    """torch.export's program of ``network`` for any number of images (B, 1, *size).

    Raises:
        UnsupportedOperatorError: the network cannot be captured, or only for a fixed number of images.
    """
    example = torch.rand((2, 1, *size), generator=torch.Generator().manual_seed(0))
    with quiet():
        try:
            return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")},), strict=False)
        # As wide as this: it raises errors of many kinds, most of them private.
        except Exception as error:
            raise unsupported(target, error) from error


def unsupported(target: str, error: BaseException) -> UnsupportedOperatorError:
    """The named error for what an exporter raised: the operator, where its text or that of a cause names one."""
    texts, cause = [], error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__  # type: ignore[assignment]
    # The deepest cause is the one that says what was missing.
    named = next((match[0] for text in reversed(texts) if (match := _OPERATOR.search(text))), None)
    first = next((line.strip() for line in reversed("\n".join(reversed(texts)).splitlines()) if line.strip()), "")
    what = f"the operator {named}" if named else f"what this network computes ({type(error).__name__}: {first[:160]})"
    return UnsupportedOperatorError(
        f"{target} does not support {what}", remedy="choose another target, or an encoder without that operator"
    )
