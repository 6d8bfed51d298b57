"""What to label next, for several annotators at once."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sonodistill.annotate.acquire.embeddings import Embedder
from sonodistill.annotate.acquire.strategies import STRATEGIES, check_strategy, select
from sonodistill.annotate.acquire.taken import Limits
from sonodistill.annotate.acquire.walk import Sampling
from sonodistill.annotate.errors import InvalidPromptError
from sonodistill.annotate.ids import FrameId, check_name
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import Catalogue, Item, LabelRow, Status

if TYPE_CHECKING:
    from sonodistill.annotate.training.versions import Versions

__all__ = ["DEFAULT", "MOST", "STRATEGIES", "Acquisition", "Choice"]

DEFAULT = "spread"
"""The strategy that won the simulations: see docs/active_learning.md of the bundle."""
MOST = 100
"""Frames that can be asked for at once."""

_BY_PEOPLE = (Status.EDITED, Status.ACCEPTED, Status.SKIPPED)
_FINAL = (Status.ACCEPTED, Status.SKIPPED)
_PLAIN = ("first", "random")  # of all frames, embedded or not


@dataclass(frozen=True, slots=True)
class Choice:
    """A frame to label.

    Attributes:
        frame: which.
        score: that it was chosen by, of the strategy's own scale; higher is more wanted.
        why: for people.
    """

    frame: FrameId
    score: float
    why: str


@dataclass(frozen=True, slots=True)
class _Labelled:
    """What people have said, as of a revision of the labels."""

    revision: int
    by: Mapping[str, frozenset[FrameId]]
    final: frozenset[FrameId]

    @property
    def all(self) -> frozenset[FrameId]:
        return frozenset().union(*self.by.values())


class Acquisition:
    """Chooses frames, from embeddings and uncertainties that a thread keeps in the background.

    Args:
        catalogue: of the files.
        labels: what is labelled.
        work: folder; embeddings are kept below it.
        versions: model -> its versions.
        seed: of everything drawn.
        sampling: which frames of a file are embedded.
        limits: of frames of one file.
        hold_seconds: a frame handed out to one annotator is not handed to another for so long.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        labels: LabelStore,
        work: Path,
        versions: Mapping[str, Versions],
        seed: int = 0,
        *,
        sampling: Sampling = Sampling(),  # noqa: B008 - frozen
        limits: Limits = Limits(),  # noqa: B008
        hold_seconds: float = 600.0,
    ) -> None:
        self._catalogue, self._labels, self._seed = catalogue, labels, seed
        self._limits, self._hold = limits, hold_seconds
        self._embedder = Embedder(catalogue, labels, Path(work) / "embeddings", versions, seed, sampling, limits)
        self._lock = threading.Lock()
        self._said: _Labelled | None = None
        self._held: dict[FrameId, tuple[str, float]] = {}

    def start(self) -> None:
        """Begin to embed."""
        self._embedder.start()

    def close(self) -> None:
        """End the background work."""
        self._embedder.close()

    def busy(self) -> AbstractContextManager[None]:
        """For requests that people wait for: the background work pauses meanwhile, for two seconds at most."""
        return self._embedder.busy()

    def progress(self) -> dict[str, Any]:
        """How far the embedding is, JSON values.

        Returns: embedded and total (frames); running; eta_seconds (None where it is unknown); error ("" for none);
            model (what embeds) and trained (False for random weights); learned (labelled frames that the uncertainty
            rests on); skipped (name and reason of files that could not be read).
        """
        return self._embedder.progress()

    def next(
        self,
        strategy: str | None = None,
        n: int = 1,
        *,
        annotator: str = "",
        exclude: Collection[FrameId] = (),
        second_opinion: bool = False,
    ) -> list[Choice]:
        """Up to ``n`` frames to label, the most wanted first; fewer where there are no more.

        Nothing is embedded, fitted or read for it. Frames not embedded yet are no candidates, except of "first" and
        "random", where no other is left, and to fill up ``n`` until all are embedded. The same frame is given again
        until it is labelled, to an annotator with a name; those without one are told apart by nothing, and are given
        another.

        Args:
            strategy: name in ``STRATEGIES``, None for ``DEFAULT``.
            n: 1 to ``MOST``.
            annotator: who asks, "" for unknown. Frames they have labelled are left out, as are those accepted or
                skipped by anybody, and those handed out to another in the last ten minutes.
            exclude: frames to leave out besides.
            second_opinion: of frames that others accepted, where there are any.

        Errors: UnknownIdError, InvalidIdError, InvalidPromptError for what cannot be asked for.
        """
        strategy = check_strategy(strategy or DEFAULT)
        if annotator:
            check_name(annotator)
        if not 1 <= n <= MOST:
            raise InvalidPromptError(f"{n} frames are asked for at once", remedy=f"ask for 1 to {MOST}")
        with self._lock, self._embedder.busy():
            said, held = self._labelled(), self._held_by_others(annotator)
            own = said.by.get(annotator, frozenset()) if annotator else said.all
            out = {*own, *exclude}
            if second_opinion:
                choices = self._choose(strategy, n, said, out, held, only=said.final - own)
                choices = choices or self._choose(strategy, n, said, out, held)
            else:
                out |= said.final
                choices = self._choose(strategy, n, said, out | held, held)
                choices = choices or self._choose(strategy, n, said, out, held)
            now = time.monotonic()
            self._held.update((choice.frame, (annotator, now)) for choice in choices)
            return choices

    def _labelled(self) -> _Labelled:
        revision = self._labels.revision()
        if self._said is None or self._said.revision != revision:
            self._said = _sorted_out(revision, self._labels.rows(status=_BY_PEOPLE))
        return self._said

    def _held_by_others(self, annotator: str) -> set[FrameId]:
        since = time.monotonic() - self._hold
        self._held = {frame: held for frame, held in self._held.items() if held[1] >= since}
        return {frame for frame, (who, _) in self._held.items() if who != annotator or not annotator}

    def _choose(
        self,
        strategy: str,
        n: int,
        said: _Labelled,
        out: Collection[FrameId],
        held: Collection[FrameId],
        only: Collection[FrameId] | None = None,
    ) -> list[Choice]:
        """From the embedded frames; from all where none of those is left, or too few until the others are embedded."""
        seed = (self._seed, said.revision)
        view = self._embedder.view
        allowed = np.zeros(len(view.pool), bool)
        if strategy not in _PLAIN:
            allowed[:] = only is None
            allowed[[view.rows[frame] for frame in only or () if frame in view.rows]] = True
            allowed[[view.rows[frame] for frame in out if frame in view.rows]] = False
        # Those that others have in hand are as good as labelled.
        near = {view.rows[frame] for frame in {*said.all, *held} if frame in view.rows}
        labelled = np.array(sorted(near), np.int64)
        candidates = np.flatnonzero(allowed)
        picks = (
            select(strategy, view.pool, labelled, candidates, n, seed=seed, limits=self._limits, taken=view.taken)
            if len(candidates)
            else []
        )
        choices = [Choice(view.frames[pick.row], pick.score, pick.why) for pick in picks]
        if not choices or (len(choices) < n and self._embedder.unfinished):
            taken = {*out, *(choice.frame for choice in choices)}
            choices += self._of_all(strategy, n - len(choices), seed, taken, only)
        return choices

    def _of_all(
        self, strategy: str, n: int, seed: tuple[int, ...], out: Collection[FrameId], only: Collection[FrameId] | None
    ) -> list[Choice]:
        """From all frames of the catalogue, without their embeddings."""
        items = self._catalogue.items()
        left = _in_order(items, out, only)
        if strategy == "first":
            return [Choice(frame, 0.0, "the first without a label") for frame in itertools.islice(left, n)]
        why = "drawn at random" if strategy == "random" else "drawn at random: what is left is not embedded yet"
        generator = np.random.default_rng(seed)
        drawn = _drawn(items, n, out, generator) if only is None else []
        if len(drawn) < n:  # few are left: list them
            rest = list(left)
            drawn = [rest[at] for at in generator.permutation(len(rest))[:n].tolist()]
        return [Choice(frame, 0.0, why) for frame in drawn]


def _sorted_out(revision: int, rows: Collection[LabelRow]) -> _Labelled:
    by: dict[str, set[FrameId]] = {}
    for row in rows:
        by.setdefault(row.annotator, set()).add(row.frame)
    final = frozenset(row.frame for row in rows if row.status in _FINAL)
    return _Labelled(revision, {who: frozenset(frames) for who, frames in by.items()}, final)


def _in_order(items: Collection[Item], out: Collection[FrameId], only: Collection[FrameId] | None) -> Iterator[FrameId]:
    frames = (FrameId(item.id, index) for item in items for index in range(item.frames))
    return (frame for frame in frames if frame not in out and (only is None or frame in only))


def _drawn(items: list[Item], n: int, out: Collection[FrameId], generator: np.random.Generator) -> list[FrameId]:
    """``n`` frames drawn from all, each with the same chance; fewer where most are left out."""
    ends = np.cumsum([item.frames for item in items])
    found: dict[FrameId, None] = {}
    for at in generator.integers(ends[-1], size=20 * n).tolist() if len(ends) else ():
        item = int(np.searchsorted(ends, at, "right"))
        frame = FrameId(items[item].id, at - int(ends[item]) + items[item].frames)
        if frame not in out:
            found[frame] = None
        if len(found) == n:
            break
    return list(found)
