"""Frames that an export is calibrated and checked with: real ones, spread over their files, each used once."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError
from sonodistill.frames import read
from sonodistill.transforms.geometry import Size, to_input

logger = logging.getLogger(__name__)

Array = NDArray[np.float32]

LIMIT = 300
"""NNCF's own number of calibration frames."""
LEAST_CALIBRATION, LEAST_CHECK = 8, 4
_LEAST_CONTRAST = 2.0  # standard deviation in gray levels of 255; an empty screen with its frame around has less
_EXAMPLES = ("ybr_color", "rgb_color")
_SIMULATED = 12


class CalibrationError(SonoDistillError):
    """The frames given are too few, blank or all the same: nothing can be calibrated or checked with them."""


@dataclass(frozen=True, slots=True)
class FrameSet:
    """Frames as a network takes them, (1, H, W) float32 in [0, 1].

    Attributes:
        calibration: for int8; no frame of it is in ``check``, and no file where there are enough files.
        check: to compare outputs on.
        origin: where they come from: "given", "pydicom examples" or "simulated".
        files: number of files they were read from.
        calibration_files: number of files that ``calibration`` comes from.
    """

    calibration: tuple[Array, ...]
    check: tuple[Array, ...]
    origin: str
    files: int
    calibration_files: int = 0

    def account(self) -> dict[str, Any]:
        """What an int8 model says of its calibration."""
        digest = hashlib.sha256()
        for frame in self.calibration:
            digest.update(frame.tobytes())
        return {"frames": len(self.calibration), "files": self.calibration_files, "sha256": digest.hexdigest()}


@dataclass(slots=True)
class _Found:
    """Usable frames by source, and what was passed over."""

    frames: dict[str, list[Array]] = field(default_factory=dict)
    seen: set[bytes] = field(default_factory=set)
    blank: int = 0
    repeated: int = 0
    skipped: list[SonoDistillError] = field(default_factory=list)

    def add(self, source: str, image: NDArray[np.uint8], size: Size) -> None:
        array = to_input(image, size)
        key = hashlib.sha256(array.tobytes()).digest()
        if float(array.std()) * 255 < _LEAST_CONTRAST:
            self.blank += 1
        elif key in self.seen:
            self.repeated += 1
        else:
            self.seen.add(key)
            self.frames.setdefault(source, []).append(array)

    def __len__(self) -> int:
        return len(self.seen)


def given_frames(
    sources: Sequence[str | Path],
    size: Size,
    *,
    calibrate: bool,
    limit: int = LIMIT,
    seed: int = 0,
    on_file: Callable[[int, int], None] | None = None,
) -> FrameSet:
    """Frames of files, folders and corpora, at most ``limit``, drawn evenly over the files and over each cine.

    A file that cannot be read is skipped with a warning. With ``calibrate`` two thirds are for calibration.

    Raises:
        CalibrationError: too few frames have any contrast or differ from each other.
        UnreadableFileError: a source does not exist.
        EmptyInputError: a folder has no readable file.
    """
    found = _Found()
    readers = [reader for source in sources for reader in _readers(source)]
    order = np.random.default_rng(seed).permutation(len(readers))[:limit].tolist()
    share = -(-limit // max(len(order), 1))
    for done, index in enumerate(order, 1):
        name, images = readers[index]
        try:
            for image in images(share):
                found.add(name, image, size)
        except SonoDistillError as error:
            found.skipped.append(error)
            logger.warning("skipped: %s", error)
        if on_file:
            on_file(done, len(order))
        if len(found) >= limit:
            break
    least = LEAST_CHECK + (LEAST_CALIBRATION if calibrate else 0)
    if len(found) < least:
        raise _too_few(found, len(readers), least, sources)
    if not calibrate:
        return FrameSet((), _spread(found, limit), "given", len(found.frames))
    calibration, check = _divided(list(found.frames.values()), limit)
    origin = {frame.tobytes(): name for name, frames in found.frames.items() for frame in frames}
    used = len({origin[frame.tobytes()] for frame in calibration})
    return FrameSet(calibration, check, "given", len(found.frames), used)


def default_frames(size: Size) -> FrameSet:
    """For a check where no frames are given: the ultrasound that pydicom brings, else simulated frames."""
    found = _Found()
    for name in _EXAMPLES:
        try:
            from pydicom import examples

            for frame in read(examples.get_path(name)):
                found.add(name, frame.image, size)
        except (ImportError, AttributeError, ValueError, OSError, SonoDistillError) as error:
            logger.info("no example %s: %s", name, error)
    origin = "pydicom examples"
    if len(found) < LEAST_CHECK:
        from sonodistill_training.corpus.simulator import simulate_frame

        origin = "simulated"
        for number in range(_SIMULATED):
            found.add(str(number), simulate_frame(number).image, size)
    return FrameSet((), _spread(found, LIMIT), origin, len(found.frames))


_Reader = tuple[str, Callable[[int], Iterator[NDArray[np.uint8]]]]


def _readers(source: str | Path) -> list[_Reader]:
    """(name, reader of at most so many images, spread evenly) for each file, or each source of a corpus."""
    from sonodistill_training.corpus.pack import find_sources, is_corpus

    if is_corpus(source):
        return _corpus_readers(source)
    return [(str(file), lambda count, file=file: _file_images(file, count)) for file in find_sources([source])]  # type: ignore[misc]


def _corpus_readers(folder: str | Path) -> list[_Reader]:
    from sonodistill_training.corpus.shards import Corpus

    corpus = Corpus(folder)
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(corpus.column("source")):
        rows.setdefault(str(name), []).append(row)

    def images(rows: list[int], count: int) -> Iterator[NDArray[np.uint8]]:
        return iter(corpus.take([rows[place] for place in evenly(len(rows), count)]))

    return [(f"{folder}/{name}", lambda count, mine=mine: images(mine, count)) for name, mine in rows.items()]  # type: ignore[misc]


def _file_images(file: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    frames = read(file)
    first = next(frames, None)
    if first is None:
        return
    total = first.provenance.frames
    # A container that does not say how many frames it has is read from its start.
    wanted = range(count) if total is None else evenly(total, count)
    yield from (frame.image for frame in read(file, only=list(wanted))) if total else _first(file, count)


def _first(file: Path, count: int) -> Iterator[NDArray[np.uint8]]:
    for _, frame in zip(range(count), read(file), strict=False):
        yield frame.image


def evenly(total: int, count: int) -> list[int]:
    """At most ``count`` different places of ``range(total)``, at even distances."""
    count = min(total, count)
    return [(2 * place + 1) * total // (2 * count) for place in range(count)]


def _spread(found: _Found, limit: int) -> tuple[Array, ...]:
    frames = [frame for frames in found.frames.values() for frame in frames]
    return tuple(frames[place] for place in evenly(len(frames), limit))


def _divided(files: list[list[Array]], limit: int) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Two thirds and one third: by file where both get enough that way, else every third frame to the check."""
    calibration: list[Array] = []
    check: list[Array] = []
    for frames in sorted(files, key=len, reverse=True):
        (calibration if len(calibration) <= 2 * len(check) else check).extend(frames)
    if len(calibration) < LEAST_CALIBRATION or len(check) < LEAST_CHECK:
        whole = [frame for frames in files for frame in frames]
        calibration = [frame for place, frame in enumerate(whole) if place % 3 != 1]
        check = whole[1::3]
    if len(calibration) + len(check) > limit:
        calibration = [calibration[place] for place in evenly(len(calibration), limit - limit // 3)]
        check = [check[place] for place in evenly(len(check), limit // 3)]
    return tuple(calibration), tuple(check)


def _too_few(found: _Found, files: int, least: int, sources: Sequence[str | Path]) -> CalibrationError:
    passed = [
        f"{count} {what}"
        for count, what in ((found.blank, "blank"), (found.repeated, "repeated"), (len(found.skipped), "unreadable"))
        if count
    ]
    why = f" ({', '.join(passed)})" if passed else ""
    return CalibrationError(
        f"{len(found)} usable frame{'' if len(found) == 1 else 's'} in {files} file{'' if files == 1 else 's'}{why}; "
        f"{least} are needed, 100 to 300 are good",
        path=sources[0] if sources else None,
        remedy="give --frames ultrasound files, folders or a corpus that show what the model is for",
    )
