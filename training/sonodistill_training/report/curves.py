"""The curves of trainings, from their logs, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill.files import atomic_path
from sonodistill_training.logs import JSONL, Row, read_log
from sonodistill_training.monitor.watch import share_of_variance

PANELS = {
    "loss": "Loss",
    "share": "Loss / variance of the target",
    "rankme": "RankMe of the features",
    "probe_accuracy": "Probe: accuracy",
    "probe_macro_f1": "Probe: macro F1",
    "probe_dice": "Probe: Dice of a linear layer",
}
KINDS = ("svg", "png", "pdf")
_COLUMNS = 3


def draw_curves(runs: Sequence[str | Path], out: str | Path) -> list[str]:
    """A panel for each quantity that any of the runs has logged, a line for each run.

    Args:
        runs: folders of trainings, or their ``log.jsonl``.
        out: .svg, .png or .pdf.

    Returns:
        the quantities drawn, in order.

    Raises:
        BundleConfigError: another kind of picture.
        DatasetError: no log there, or none with a number in it.
        UnreadableFileError: a line of a log is not JSON.
    """
    from matplotlib.figure import Figure

    kind = Path(out).suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise BundleConfigError(
            f"a picture cannot be written as {kind or 'a file without a suffix'}",
            path=out,
            remedy=f"choose one of {', '.join(KINDS)}",
        )
    logs = [read_log(run) for run in runs]
    series = {name: [_points(log, name) for log in logs] for name in PANELS}
    names = [name for name in PANELS if any(series[name])]
    if not names:
        raise DatasetError("nothing is logged yet", path=runs[0], remedy="wait for the first steps of the training")
    columns = min(_COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.1 * lines + 0.5), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(lines, columns, place)
        for number, (run, points) in enumerate(zip(runs, series[name], strict=True)):
            if points:
                steps, values = zip(*points, strict=True)
                marker = "." if len(points) < 30 else ""
                axes.plot(steps, values, color=f"C{number}", label=_name(Path(run)), marker=marker)
        axes.set_title(PANELS[name], fontsize=10)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=min(4, len(runs)))
    with atomic_path(out) as path:
        figure.savefig(path, dpi=110, format=kind)
    return names


def _points(log: Sequence[Row], name: str) -> list[tuple[float, float]]:
    """(step, value) where there is a finite value."""
    found = [(row.get("step"), _value(row, name)) for row in log]
    return [(float(step), value) for step, value in found if step is not None and value is not None]


def _value(row: Row, name: str) -> float | None:
    value = share_of_variance(row) if name == "share" else row.get(name)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _name(run: Path) -> str:
    return run.parent.name if run.name == JSONL else run.name
