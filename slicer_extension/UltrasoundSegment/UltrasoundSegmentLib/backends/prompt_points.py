"""Prompts as the points that servers and click models take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from UltrasoundSegmentLib.backends.model import Prompts

MOST_POINTS = 64


def points_of(prompts: Prompts, shape: tuple[int, ...]) -> tuple[list[list[float]], list[list[float]]]:
    """Points inside and outside, those of scribbles at even distances among them; ``MOST_POINTS`` in all."""
    height, width = shape
    lines = [list(prompts.scribbles), list(prompts.negative_scribbles)]
    points = [[*prompts.positive], [*prompts.negative]]
    free = max(0, MOST_POINTS - len(points[0]) - len(points[1]))
    many = sum(len(group) for group in lines)
    for found, group in zip(points, lines, strict=True):
        for line in group:
            found.extend(along(line, min(16, free // many)))

    def inside(group: list[Any]) -> list[list[float]]:
        return [[min(max(float(x), 0.0), width - 1.0), min(max(float(y), 0.0), height - 1.0)] for x, y in group]

    return inside(points[0])[:MOST_POINTS], inside(points[1])[: max(0, MOST_POINTS - len(points[0]))]


def along(line: Sequence[Sequence[float]], count: int) -> list[tuple[float, float]]:
    """``count`` points of a polyline at even distances, its ends among them; fewer of a short one."""
    values = np.asarray(line, float).reshape(-1, 2)
    if count < 1 or not len(values):
        return []
    steps = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(values, axis=0), axis=1))])
    wanted = np.linspace(0, steps[-1], max(1, min(count, int(steps[-1] // 3) + 1)))
    return [(float(np.interp(at, steps, values[:, 0])), float(np.interp(at, steps, values[:, 1]))) for at in wanted]
