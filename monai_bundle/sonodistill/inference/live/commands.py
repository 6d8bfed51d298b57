"""The live side of `sonodistill predict`."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from sonodistill.errors import SonoDistillError

if TYPE_CHECKING:
    from sonodistill.inference.predictor import Predictor

EXIT_BUDGET_NOT_HELD = 3
REPORT = "live.json"

logger = logging.getLogger(__name__)


class LiveSettingError(SonoDistillError):
    """A live session is asked for something that cannot work."""


def predict_live(
    predictor: Predictor,
    source: str,
    out: Path,
    *,
    budget_ms: float,
    drop: str = "latest",
    smooth: float = 0.0,
    seconds: float | None = None,
    frames: int | None = None,
    timeout: float = 10.0,
    reply: bool = False,
) -> int:
    """Segment a live source until it ends, a limit is reached, or Ctrl-C or SIGTERM comes.

    Writes a mask PNG a frame and label, and index.csv, as they come, and the session's report, live.json, at the end.
    Columns: file, source, frame (its number in the source; a gap is a frame without result), time_ms, latency_ms (from
    arrival to result), area_pixels, area_mm2, label.

    Args:
        predictor: of a segmenter.
        source: igtl://host:port[/device], device:[FORMAT:]NAME, or a file to be played at its own pace.
        out: folder for the results, without those of another session.
        budget_ms: how old a result may be. With "latest", a frame that is older before its turn is dropped as late.
        drop: "latest" predicts the newest frame and drops those that it replaces; "none" predicts every frame, however
            late, and lets the source wait.
        smooth: weight in [0, 1) that the past has after 40 ms in a moving average of the probabilities. It changes the
            masks.
        seconds: end after so many.
        frames: end after so many results.
        timeout: end with an error when no frame came for so many seconds.
        reply: send the masks back to an igtl:// source, as images of the device "<device>_mask".

    Returns:
        Exit code: 0, or 3 when more than 5 % of the results were older than the budget. The masks are as good then;
        the code is for the script that rehearses a deployment, to which a missed budget is a failure.

    Errors: LiveSettingError, SourceError, OutputError, what reader and predictor raise. Once frames were awaited the
        report is written nevertheless.
    """
    import rich.console

    from sonodistill.inference.live.session import Limits, Session
    from sonodistill.inference.live.source import name_of, open_source
    from sonodistill.inference.live.writer import Writer

    policy = _checked(source, budget_ms, drop, smooth, seconds, frames, timeout, reply)
    console = rich.console.Console(stderr=True)
    with _stopped_by_signals() as stop:
        writer = Writer(out, source, name_of(source), predictor.labels)
        opened = open_source(source)
        session = Session(
            predictor,
            opened,
            source,
            writer,
            budget_ms=budget_ms,
            drop=policy,
            smooth=smooth,
            limits=Limits(frames, seconds, timeout),
            reply=getattr(opened, "reply") if reply else None,  # noqa: B009 - of OpenIGTLink sources only
        )
        ended = "interrupted"
        try:
            with console.status("waiting for a frame") as status, writer:
                ended = session.run(stop, status.update)
        except BaseException as error:
            ended = str(getattr(error, "message", type(error).__name__))
            raise
        finally:
            report = session.report(ended)
            _write(report, out / REPORT)
            console.print(str(report), highlight=False, markup=False, soft_wrap=True)
    if opened.lost:
        logger.warning("%s was lost and had not come back at the end", source)
    return EXIT_BUDGET_NOT_HELD if report.budget_held is False else 0


def _checked(
    source: str,
    budget_ms: float,
    drop: str,
    smooth: float,
    seconds: float | None,
    frames: int | None,
    timeout: float,
    reply: bool,
) -> Any:
    """The policy, once every setting can work."""
    from sonodistill.inference.live.inbox import POLICIES

    positive = {"--budget-ms": budget_ms, "--seconds": seconds, "--frames": frames, "--timeout": timeout}
    for name, value in positive.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise LiveSettingError(f"{name} is {value:g}", remedy="give a number above 0")
    if drop not in POLICIES:
        raise LiveSettingError(f"--drop {drop!r:.40} is no policy", remedy=f"choose one of {', '.join(POLICIES)}")
    if not 0 <= smooth < 1:
        raise LiveSettingError(f"--smooth is {smooth:g}", remedy="give at least 0 (off) and less than 1")
    if reply and not source.startswith("igtl://"):
        raise LiveSettingError("only OpenIGTLink takes replies", remedy="leave --reply out, or use an igtl:// source")
    return drop


def _write(report: Any, path: Path) -> None:
    import json
    from dataclasses import asdict

    from sonodistill.files import write_text
    from sonodistill.inference.files import OutputError

    try:
        write_text(path, json.dumps(asdict(report), indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"the report cannot be written ({error.strerror})", path=path, remedy="free space") from error


@contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; a second one does what it always does."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def ask(number: int, _: FrameType | None) -> None:
        stop.set()
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask) or signal.SIG_DFL
    try:
        yield stop
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
