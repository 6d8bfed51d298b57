"""Keep what was trained as a version, and promote it when it is not worse than the current one."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict
from typing import Any

from sonodistill.annotate.training.judge import METRICS, Judgement, judge
from sonodistill.annotate.training.labelled import TrainingSet
from sonodistill.annotate.training.start import Job
from sonodistill.annotate.training.versions import Version, Versions
from sonodistill.errors import SonoDistillError

logger = logging.getLogger(__name__)

KEPT = 10
"""Versions that were never promoted and are kept, the latest ones."""


def keep(job: Job, began: float) -> dict[str, Any]:
    """Add the best epoch as a version, promoted or not, and say why."""
    model, data, trained = job.model, job.data, job.run / "model.safetensors"
    names = job.workbench.labels.names
    versions, threads = job.workbench.versions[model], job.workbench.settings.threads
    candidate = judge(model, trained, data.folder, names, threads=threads)
    current, judged, trouble = None, None, ""
    try:
        current = versions.current()
        judged = judge(model, current.path, data.folder, names, threads=threads) if current else None
    except SonoDistillError as error:
        trouble = f"the current version cannot be judged: {error.message}"
    promoted, note = verdict(candidate, current, judged, trouble, data)
    now, before = _number(versions), current.number if current else None
    if promoted and now != before:  # it was compared with another
        promoted, note = False, note.partition("; ")[0] + f"; kept aside: version {now} was promoted meanwhile"
    metric = METRICS[model]
    metrics = {
        metric: candidate.value,
        f"{metric}_of_current": judged.value if judged else None,
        "current": current.number if current else None,
        "held_out": candidate.count,
        "promoted": promoted,
        "start": job.start.name,
        "settings": asdict(job.settings),
        "data": data.summary(),
        "seconds": round(time.time() - began, 1),
    }
    version = versions.add(trained, metrics, note)
    if promoted:
        versions.promote(version.number)
    versions.prune(KEPT)
    logger.info("%s version %d: %s", model, version.number, note)
    return {"version": version.number, "promoted": promoted, "note": note, "metrics": version.metrics}


def _number(versions: Versions) -> int | None:
    """Of the current version, as it is now."""
    try:
        current = versions.current()
    except SonoDistillError:
        return None
    return current.number if current else None


def verdict(
    candidate: Judgement, current: Version | None, judged: Judgement | None, trouble: str, data: TrainingSet
) -> tuple[bool, str]:
    """Whether to promote the candidate, and why."""
    said = f"{candidate.metric} {candidate.value:.4f} on {candidate.count} held-out frames"
    if judged is None or current is None:
        return True, f"{said}; promoted: {trouble or 'there was no version'}"
    said = f"{said}, {judged.value:.4f} of version {current.number}"
    if data.by_frames:
        return False, f"{said}; kept aside: all frames are of one group, which it was trained on"
    if candidate.channels < judged.channels:
        return False, f"{said}; kept aside: it tells {candidate.channels} apart, the current one {judged.channels}"
    if candidate.value >= judged.value - 1e-9:
        return True, f"{said}; promoted: not worse"
    return False, f"{said}; kept aside: worse"
