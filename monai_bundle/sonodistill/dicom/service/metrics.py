"""What the service has done, as Prometheus text; no label holds text that was received."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The numbers at one moment.

    Attributes:
        jobs: by state, now.
        deliveries: by state, now.
        received: by (way in, outcome), since the start.
        oldest_seconds: age of the oldest job that is not finished; None when all are.
        disk_free_bytes: where the spool is.
        frames: processed since the start.
        seconds: spent on them.
    """

    jobs: Mapping[str, int] = field(default_factory=dict)
    deliveries: Mapping[str, int] = field(default_factory=dict)
    received: Mapping[tuple[str, str], int] = field(default_factory=dict)
    oldest_seconds: float | None = None
    disk_free_bytes: int = 0
    frames: int = 0
    seconds: float = 0.0


def render(snapshot: Snapshot) -> str:
    """The text of the Prometheus exposition format 0.0.4."""
    lines: list[str] = []

    def add(name: str, kind: str, help_text: str, samples: Iterable[tuple[str, float]]) -> None:
        lines.extend((f"# HELP sonodistill_{name} {help_text}", f"# TYPE sonodistill_{name} {kind}"))
        lines.extend(f"sonodistill_{name}{labels} {value:.15g}" for labels, value in samples)

    def by_state(counts: Mapping[str, int]) -> list[tuple[str, float]]:
        return [(_labels(state=state), count) for state, count in sorted(counts.items())]

    received = [
        (_labels(way=way, outcome=outcome), float(count)) for (way, outcome), count in sorted(snapshot.received.items())
    ]
    add("jobs", "gauge", "Jobs by state.", by_state(snapshot.jobs))
    add("deliveries", "gauge", "Deliveries by state.", by_state(snapshot.deliveries))
    add("received_total", "counter", "Instances that arrived, by way in and outcome.", received)
    add("oldest_job_seconds", "gauge", "Age of the oldest unfinished job.", [("", snapshot.oldest_seconds or 0.0)])
    add("disk_free_bytes", "gauge", "Free space where the spool is.", [("", snapshot.disk_free_bytes)])
    add("frames_total", "counter", "Frames processed.", [("", snapshot.frames)])
    add("processing_seconds_total", "counter", "Seconds spent on processing.", [("", snapshot.seconds)])
    return "\n".join(lines) + "\n"


def _labels(**labels: str) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
