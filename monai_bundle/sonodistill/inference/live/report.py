"""What a live session was like: how many frames came, what became of them, and how long their masks took."""

from __future__ import annotations

from array import array
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LiveReport:
    """A session in numbers; ``received == predicted + dropped + late + unfinished``.

    Attributes:
        source: address of the source.
        ended: why it ended: "the source ended", "frames", "seconds", "interrupted", or the error.
        seconds: from the first wait for a frame to the end.
        budget_ms: the latency budget that was stated.
        budget_held: whether at most 5 % of the results and the late frames took longer; None without either. Without
            late frames, whether p95_ms is within the budget.
        drop: the policy, "latest" or "none".
        smooth: weight of the past in the moving average; 0 is none.
        received: frames that arrived.
        predicted: frames with a result.
        dropped: frames that a newer one replaced before their turn.
        late: frames older than the budget when their turn came.
        unfinished: frames that were waiting, or in work, when the session ended.
        over_budget: results that took longer than the budget.
        p50_ms, p95_ms, max_ms: from a frame's arrival to its result; None without a result.
        predicted_per_second: results a second.
        reconnects: how often the source was lost and came back.
        masks_not_written: results whose mask the disk was too slow for; their row has no file.
        rows_not_written: results that have no row either.
        replies_not_sent: with replies, masks that a newer one replaced before they could be sent.
    """

    source: str
    ended: str
    seconds: float
    budget_ms: float
    budget_held: bool | None
    drop: str
    smooth: float
    received: int
    predicted: int
    dropped: int
    late: int
    unfinished: int
    over_budget: int
    p50_ms: float | None
    p95_ms: float | None
    max_ms: float | None
    predicted_per_second: float
    reconnects: int
    masks_not_written: int
    rows_not_written: int
    replies_not_sent: int

    def __str__(self) -> str:
        took = "no result"
        if self.p95_ms is not None:
            took = f"latency p50 {self.p50_ms:.1f} ms, p95 {self.p95_ms:.1f} ms, max {self.max_ms:.1f} ms"
        if self.budget_held is not None:
            took += f"; budget of {self.budget_ms:g} ms {'held' if self.budget_held else 'NOT held'}"
        lines = [
            f"{self.received} frames received in {self.seconds:.1f} s: {self.predicted} predicted "
            f"({self.predicted_per_second:.1f} a second), {self.dropped} dropped, {self.late} late, "
            f"{self.unfinished} unfinished",
            took,
        ]
        if self.reconnects:
            lines.append(f"the source was lost and came back {self.reconnects} times")
        if self.masks_not_written or self.rows_not_written:
            lines.append(f"the disk was too slow for {self.masks_not_written} masks and {self.rows_not_written} rows")
        if self.replies_not_sent:
            lines.append(f"{self.replies_not_sent} replies were replaced by newer ones")
        return "\n".join(lines)


class Latencies:
    """Latencies in milliseconds, four bytes each: a day at 30 frames a second takes 10 MB."""

    def __init__(self, budget_ms: float) -> None:
        self.budget_ms = budget_ms
        self.over_budget = 0
        self._all = array("f")

    def add(self, milliseconds: float) -> None:
        self._all.append(milliseconds)
        self.over_budget += milliseconds > self.budget_ms

    def __len__(self) -> int:
        return len(self._all)

    def held(self, late: int) -> bool | None:
        """Whether at most 5 % of the results and the ``late`` frames, which got none, were over the budget.

        Without late frames it is whether the 95th percentile is within the budget; None without either.
        """
        total = len(self._all) + late
        return 20 * (self.over_budget + late) <= total if total else None

    def percentiles(self, *wanted: int) -> list[float | None]:
        """Nearest-rank percentiles (1 to 100), each of them a latency that occurred; None of nothing."""
        ordered = sorted(self._all)
        ranks = [-(-percent * len(ordered) // 100) - 1 for percent in wanted]
        return [round(ordered[rank], 3) if ordered else None for rank in ranks]
