"""A live session: one thread receives, this one predicts, others write and reply, and everything is counted."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING

import numpy as np

from sonodistill.frames import Frame
from sonodistill.inference.live.inbox import Arrival, ClosedError, Inbox, Policy
from sonodistill.inference.live.report import Latencies, LiveReport
from sonodistill.inference.live.smoothing import Smoother
from sonodistill.inference.live.source import Source, SourceError
from sonodistill.inference.live.writer import Writer

if TYPE_CHECKING:
    from sonodistill.inference.predictor import Predictor

_POLL_S = 0.1
_JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """When a session ends by itself.

    Attributes:
        frames: after so many results; None for no limit.
        seconds: after so many seconds; None for no limit.
        timeout: when no frame came for so many seconds. While a source that was lost is tried again, ``seconds``
            counts instead where it is given.
    """

    frames: int | None = None
    seconds: float | None = None
    timeout: float = 10.0


class Session:
    """Frames of a source through a predictor; ``run`` it once.

    Args:
        predictor: of a segmenter.
        source: opened, not yet read.
        address: of the source, for the report.
        writer: takes the results.
        drop: "latest" or "none", see ``inbox.Inbox``. With "none" every frame is predicted, however late.
        reply: sends a frame's mask back, in a thread of its own; only the newest waits. The mask is (H, W) bytes: 0, or
            the number from 1 of the most probable label.
    """

    def __init__(
        self,
        predictor: Predictor,
        source: Source,
        address: str,
        writer: Writer,
        *,
        budget_ms: float,
        drop: Policy = "latest",
        smooth: float = 0.0,
        limits: Limits = Limits(),
        reply: Callable[[Frame, bytes], None] | None = None,
    ) -> None:
        self._predictor, self._source, self._writer, self._limits = predictor, source, writer, limits
        self._address, self._smooth = address, smooth
        self._smoother = Smoother(smooth)
        self._inbox: Inbox[Frame] = Inbox(drop, budget_ms / 1000)
        self._send = reply
        self._replies: Inbox[tuple[Frame, bytes]] = Inbox("latest")
        self._latencies = Latencies(budget_ms)
        self._given_up = 0
        self._reply_error: Exception | None = None
        self._stop = Event()
        self._began = self._ended = time.monotonic()

    def run(self, stop: Event, progress: Callable[[str], None] = lambda _: None) -> str:
        """Predict until the source ends, a limit is reached or ``stop`` is set; returns which of them it was.

        Args:
            stop: ends the session; its report is complete then.
            progress: told the counts after each result.

        Errors: SourceError, also when replying fails, what the predictor raises, OutputError. ``report`` is right also
            after an error.
        """
        threads = [Thread(target=self._receive, name="live-receiver", daemon=True)]
        if self._send is not None:
            threads.append(Thread(target=self._reply, args=(self._send,), name="live-replies", daemon=True))
        self._began = time.monotonic()
        for thread in threads:
            thread.start()
        try:
            ended = self._predict(stop, progress)
        finally:
            self._ended = time.monotonic()
            self._stop.set()
            self._inbox.close()
            self._replies.end()
            # A device that hangs inside its driver is left to the end of the process.
            for thread in threads:
                thread.join(_JOIN_S)
        if self._reply_error is not None:
            raise SourceError(
                f"{self._address:.100} cannot be sent a reply ({self._reply_error!r:.200})",
                remedy="leave --reply out, and report this",
            ) from self._reply_error
        return ended

    def report(self, ended: str) -> LiveReport:
        """The session in numbers."""
        inbox, latencies, seconds = self._inbox, self._latencies, self._ended - self._began
        p50, p95, largest = latencies.percentiles(50, 95, 100)
        return LiveReport(
            source=self._address,
            ended=ended,
            seconds=round(seconds, 3),
            budget_ms=latencies.budget_ms,
            budget_held=latencies.held(inbox.late),
            drop=inbox.policy,
            smooth=self._smooth,
            received=inbox.received,
            predicted=len(latencies),
            dropped=inbox.dropped,
            late=inbox.late,
            unfinished=inbox.unfinished + self._given_up,
            over_budget=latencies.over_budget,
            p50_ms=p50,
            p95_ms=p95,
            max_ms=largest,
            predicted_per_second=round(len(latencies) / seconds, 3) if seconds else 0.0,
            reconnects=self._source.reconnects,
            masks_not_written=self._writer.masks_not_written,
            rows_not_written=self._writer.rows_not_written,
            replies_not_sent=self._replies.dropped,
        )

    def _receive(self) -> None:
        try:
            with closing(self._source.frames(self._stop)) as frames:  # type: ignore[type-var]
                for frame in frames:
                    if not self._inbox.put(frame):
                        return
            self._inbox.end()
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._inbox.end(error)

    def _reply(self, send: Callable[[Frame, bytes], None]) -> None:
        try:
            while True:
                arrival = self._replies.get(_POLL_S)
                if arrival is not None:
                    send(*arrival.item)
        except ClosedError:
            return
        except Exception as error:  # noqa: BLE001 - ends the session
            self._reply_error = error

    def _predict(self, stop: Event, progress: Callable[[str], None]) -> str:
        limits = self._limits
        last, seen = time.monotonic(), 0
        while not stop.is_set() and self._reply_error is None:
            now = time.monotonic()
            if limits.seconds is not None and now - self._began >= limits.seconds:
                return "seconds"
            if self._inbox.received > seen:
                last, seen = now, self._inbox.received
            try:
                arrival = self._inbox.get(_POLL_S)
            except ClosedError:
                return "the source ended"
            if arrival is None:
                retried = self._source.lost and limits.seconds is not None
                if not retried and time.monotonic() - last > limits.timeout:
                    raise self._silent()
                continue
            self._one(arrival)
            last = time.monotonic()
            progress(self._counts())
            if limits.frames is not None and len(self._latencies) >= limits.frames:
                return "frames"
        return "interrupted"

    def _one(self, arrival: Arrival[Frame]) -> None:
        frame = arrival.item
        self._given_up += 1
        prediction = self._predictor.predict_one(frame)
        probabilities, masks = prediction.probabilities, prediction.masks
        if self._smooth:
            time_ms = frame.time_ms if frame.time_ms is not None else 1000 * arrival.at
            probabilities = self._smoother(probabilities, time_ms)
            masks = probabilities > self._predictor.threshold
        latency_ms = 1000 * (time.monotonic() - arrival.at)
        self._writer.put(frame, masks, latency_ms)
        if self._send is not None:
            shown = np.where(masks.any(axis=0), probabilities.argmax(axis=0) + 1, 0)
            self._replies.put((frame, shown.astype(np.uint8).tobytes()))
        self._latencies.add(latency_ms)
        self._given_up -= 1

    def _silent(self) -> SourceError:
        hint, lost = self._source.hint, self._source.lost
        said = "was lost and did not come back" if lost else "sent no frame"
        return SourceError(
            f"{self._address:.100} {said} for {self._limits.timeout:g} s" + (f"; {hint}" if hint else ""),
            remedy="check that the scanner is not frozen and streams images"
            + (", or name one of these devices" if hint else ", or wait longer with --timeout"),
        )

    def _counts(self) -> str:
        inbox = self._inbox
        return (
            f"{inbox.received} received, {len(self._latencies)} predicted, {inbox.dropped} dropped, {inbox.late} late"
        )
