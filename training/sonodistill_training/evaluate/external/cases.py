"""The cases of an external check to look at: the worst, false alarms, the median and the best, and a sheet of them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill.errors import SonoDistillError
from sonodistill.files import atomic_path
from sonodistill.inference.predictor import Predictor
from sonodistill_training.corpus.registry import data_sets
from sonodistill_training.evaluate.external.frames import Item, one_frame, truth_of
from sonodistill_training.report.drawing import FOUND_RGB, TRUTH_RGB, outlined

KINDS = {
    "worst": ("Worst", "There is a structure, and what was found agrees least with it."),
    "false_alarm": ("False alarms", "There is no structure, and the largest areas were taken for one."),
    "median": ("Median", "The Dice nearest to the median of the images with a structure."),
    "best": ("Best", "There is a structure, and what was found agrees most with it."),
}
MOST = {"worst": 12, "false_alarm": 6, "median": 6, "best": 6}
SHEET_BYTES = 200_000

_COLUMNS, _WIDE, _HIGH, _GAP, _LINE = 6, 184, 150, 6, 17
_INK, _MUTED, _FONT = (235, 235, 235), (165, 165, 165), cv2.FONT_HERSHEY_SIMPLEX
_SMALL = 0.4
_QUALITIES = (85, 75, 65, 55, 45, 35)

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """An image of (H, W) uint8 with the annotated and the predicted mask, bool, and what was said of it."""

    name: str
    image: Picture
    truth: NDArray[np.bool_]
    mask: NDArray[np.bool_]
    dice: float
    unfamiliarity: float

    @property
    def words(self) -> str:
        """ "Dice 0.712", "Dice 0, nothing found", "none there, 4 % found"; and that the frame is unfamiliar."""
        if not self.truth.any():
            said = f"none there, {_percent(self.mask.mean())} found"
        else:
            said = f"Dice {self.dice:.3f}" if self.mask.any() else "Dice 0, nothing found"
        return f"{said}, unfamiliar ({self.unfamiliarity:.2f})" if self.unfamiliarity > 1 else said


def choose(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[int]]:
    """Row numbers by kind (:data:`KINDS`), at most :data:`MOST`, in the order they are shown; none is of two kinds.

    Of several with the same Dice the largest structure comes first.
    """
    dice = np.array([row["dice"] for row in rows], float)
    truth = np.array([row["truth_pixels"] for row in rows], np.int64)
    found = np.array([row["predicted_pixels"] for row in rows], np.int64)
    share = found / np.array([row["pixels"] for row in rows])
    there = truth > 0
    middle = float(np.median(dice[there])) if there.any() else 0.0
    keys = {
        "worst": (there, (-truth, dice)),
        "false_alarm": (~there & (found > 0), (-share,)),
        "best": (there, (-truth, -dice)),
        "median": (there, (-truth, np.abs(dice - middle))),
    }
    taken: set[int] = set()
    chosen: dict[str, list[int]] = {}
    for kind, (belongs, order) in keys.items():
        ranked = [int(row) for row in np.lexsort(order) if belongs[row] and row not in taken]
        chosen[kind] = ranked[: MOST[kind]]
        taken.update(chosen[kind])
    return {kind: chosen[kind] for kind in KINDS}


def cases(
    predictor: Predictor, items: Sequence[Item], rows: Sequence[Mapping[str, Any]], label: int = 0
) -> dict[str, list[Case]]:
    """The chosen images by kind, read and predicted once more; one that is gone meanwhile is left out."""
    return {
        kind: [case for at in chosen if (case := _case(predictor, items[at], rows[at], label)) is not None]
        for kind, chosen in choose(rows).items()
    }


def _case(predictor: Predictor, item: Item, row: Mapping[str, Any], label: int) -> Case | None:
    try:
        frame = one_frame(item.path)
        truth = truth_of(item, (frame.image.shape[0], frame.image.shape[1]))
    except (SonoDistillError, OSError):
        return None
    found = predictor.predict_one(frame)
    return Case(item.name, frame.image, truth, found.masks[label], row["dice"], row["unfamiliarity"])


def drawn(case: Case, longest: int) -> Picture:
    """RGB (h, w, 3): the frame with the outline of the truth in blue and of what was found in amber."""
    scale = min(1.0, longest / max(case.image.shape))
    size = (max(1, round(case.image.shape[1] * scale)), max(1, round(case.image.shape[0] * scale)))
    return outlined(
        cv2.resize(case.image, size, interpolation=cv2.INTER_AREA).astype(np.uint8),
        _reduced(case.mask, size),
        _reduced(case.truth, size),
    )


def credit(name: str) -> str:
    """Who is to be named for the pictures of a public set, its licence, and what was changed; "" for another set."""
    known = data_sets().get(name)
    if known is None:
        return ""
    return f"Images: {known.citation} {known.licence.name}. Changed: made smaller, outlines drawn on them."


def write_sheet(path: Path, title: str, shown: Mapping[str, Sequence[Case]], footer: str = "") -> bool:
    """Write the cases as one JPEG of at most :data:`SHEET_BYTES`; False where there is none, and then no file."""
    if not any(shown.values()):
        return False
    sheet = cv2.cvtColor(_sheet(title, shown, footer), cv2.COLOR_RGB2BGR)
    encoded = b""
    while True:
        for quality in _QUALITIES:
            encoded = cv2.imencode(".jpg", sheet, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(encoded) <= SHEET_BYTES:
                break
        else:
            sheet = cv2.resize(sheet, None, fx=0.8, fy=0.8, interpolation=cv2.INTER_AREA)
            continue
        break
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded)
    return True


def _sheet(title: str, shown: Mapping[str, Sequence[Case]], footer: str) -> Picture:
    width = _COLUMNS * (_WIDE + _GAP) + _GAP
    strips = [_text([title], width, 0.5), _legend(width)]
    for kind, found in shown.items():
        if found:
            strips.append(_text([f"{KINDS[kind][0]}: {KINDS[kind][1]}"], width, 0.45))
            strips += [_row(found[at : at + _COLUMNS], width) for at in range(0, len(found), _COLUMNS)]
    if footer:
        strips.append(_text(textwrap.wrap(footer, width // 7), width, _SMALL, _MUTED))
    return np.concatenate(strips)


def _row(found: Sequence[Case], width: int) -> Picture:
    """Cases side by side, each in a box of its own, with a line or two beneath."""
    words = [[*textwrap.wrap(case.words, _WIDE // 7), case.name.rpartition("/")[2][-_WIDE // 7 :]] for case in found]
    strip = np.zeros((_HIGH + _LINE * max(map(len, words)) + _GAP, width, 3), np.uint8)
    for place, case in enumerate(found):
        picture = drawn(case, _WIDE)
        if picture.shape[0] > _HIGH:
            picture = drawn(case, max(1, _HIGH * max(case.image.shape) // case.image.shape[0]))
        left = _GAP + place * (_WIDE + _GAP)
        down, right = (_HIGH - picture.shape[0]) // 2, (_WIDE - picture.shape[1]) // 2
        strip[down : down + picture.shape[0], left + right : left + right + picture.shape[1]] = picture
        for number, line in enumerate(words[place]):
            ink = _MUTED if number == len(words[place]) - 1 else _INK
            _write(strip, line, (left, _HIGH + _LINE * (number + 1) - 4), _SMALL, ink)
    return strip


def _legend(width: int) -> Picture:
    strip = np.zeros((_LINE + _GAP, width, 3), np.uint8)
    for left, colour, text in ((_GAP, TRUTH_RGB, "annotated"), (_GAP + 130, FOUND_RGB, "predicted")):
        cv2.line(strip, (left, _LINE // 2), (left + 24, _LINE // 2), colour, 2)
        _write(strip, text, (left + 32, _LINE - 4), _SMALL, _INK)
    return strip


def _text(lines: Sequence[str], width: int, size: float, ink: tuple[int, int, int] = _INK) -> Picture:
    height = round(_LINE * size / _SMALL)
    strip = np.zeros((height * len(lines) + _GAP, width, 3), np.uint8)
    for number, line in enumerate(lines, 1):
        _write(strip, line, (_GAP, height * number - 3), size, ink)
    return strip


def _write(strip: Picture, text: str, at: tuple[int, int], size: float, ink: tuple[int, int, int]) -> None:
    plain = text.encode("ascii", "replace").decode()  # the font has no other letters
    cv2.putText(strip, plain, at, _FONT, size, ink, 1, cv2.LINE_AA)


def _reduced(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    covered = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    # A structure of a pixel or two stays visible.
    return covered >= 0.5 if (covered >= 0.5).any() else covered > 0


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.2g} %"
