"""One clip, still or cut volume -> the frames worth keeping.

It is read twice: once to know it (what is static, where the sector is, which frames differ), once for the frames that
are kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from sonodistill import frames
from sonodistill.errors import SonoDistillError
from sonodistill.frames.frame import Frame
from sonodistill.frames.sector import NoSectorError, Sector, find_sector
from sonodistill_training.corpus import manifest, overlays, screen
from sonodistill_training.corpus.child import Answer
from sonodistill_training.corpus.clean import Cleaned, clean, thumbnail
from sonodistill_training.corpus.embedding import embed, load_embedder
from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.survey import Background, Survey
from sonodistill_training.corpus.thinning import select

if TYPE_CHECKING:
    from torch import nn

_HEARTBEAT = 32  # frames between signs of life
_BUFFERED_BYTES = 128 << 20
# Modality (0008,0060): ultrasound, and what secondary captures of a scanner's screen say.
_MODALITIES = ("US", "IVUS", "OT", "XC")


class Clip:
    """One file, in one cut."""

    def __init__(
        self, path: Path, cut: str, options: Extraction, only: Sequence[int], mm_per_pixel: float | None
    ) -> None:
        self.path, self.cut, self.options = path, cut, options
        self.only, self.mm_per_pixel = only, mm_per_pixel
        self.indices: list[int] = []  # of the surveyed frames in their source
        self.survey = Survey()
        self.first: Frame | None = None
        self.broken: str | None = None
        self._buffer: list[Frame] | None = []

    def answers(self) -> Iterator[Answer]:
        """What ``extract`` yields; numbers in the headers are to be added up."""
        yield from self._look()
        first, survey = self.first, self.survey
        if first is None:
            yield {"kind": "broken", "reason": self.broken or "it holds no frame"}, b""
            return
        modality = first.provenance.details.get("modality")
        if modality and modality not in _MODALITIES:
            yield self._refused(first, "not_ultrasound", f"its modality is {modality}", refused=survey.count)
            return
        regions = first.provenance.details.get("regions")
        background = survey.background() if survey.count > 1 and not self._spatial else None
        yield {"kind": "working", "frames": survey.count}, b""
        try:
            sector = self._sector(regions)
        except NoSectorError as error:
            code = screen.refusal(first.image, first.rgb(), regions=regions, background=background)
            yield self._refused(first, code or "no_sector", error.message, refused=survey.count)
        else:
            yield from self._kept(sector, regions, background)
        if self.broken:
            yield {"kind": "broken", "reason": self.broken}, b""

    def _kept(
        self, sector: Sector, regions: list[dict[str, Any]] | None, background: Background | None
    ) -> Iterator[Answer]:
        """The frames worth keeping: those that show something new inside the sector, and nothing but B-mode."""
        survey, first = self.survey, self.first
        inside = sector.mask(survey.shape)
        small = cv2.resize(inside.astype(np.uint8), survey.thumbs.shape[:0:-1], interpolation=cv2.INTER_NEAREST)
        chosen = select(survey.thumbs * small, survey.times, self.options.thinning).kept.tolist()
        if self.options.encoder and len(chosen) > 1:
            yield {"kind": "working"}, b""
            chosen = self._unlike(chosen, inside, sector.box)
        if not chosen and first is not None:
            yield self._refused(first, "blank", manifest.REASONS["blank"], refused=survey.count)
            return
        yield {"kind": "working", "redundant": survey.count - len(chosen)}, b""
        standing = None if background is None else overlays.still_overlay(background, inside)
        for frame in self._again(chosen):
            code = screen.refusal(
                frame.image,
                frame.rgb(),
                sector=inside,
                regions=regions,
                smallest=self.options.smallest,
            )
            # A slice of a volume may lie across the beams: no texture tells it from a photograph.
            if code and not (self._spatial and code == "not_ultrasound"):
                yield self._refused(frame, code, manifest.REASONS[code], refused=1)
            else:
                yield self._answer(frame, sector, inside, standing)

    def _unlike(self, chosen: list[int], inside: NDArray[np.bool_], box: tuple[int, int, int, int]) -> list[int]:
        """Those of the chosen frames that an encoder finds different from each other, too."""
        top, left, bottom, right = box
        seen = (np.where(inside, frame.image, 0)[top:bottom, left:right] for frame in self._again(chosen))
        vectors = embed(seen, _encoder(self.options.encoder)).astype(np.float32)
        times = [self.survey.times[place] for place in chosen]
        thinning = replace(self.options.thinning, different=self.options.unlike)
        kept = select(self.survey.thumbs[chosen], times, thinning, embeddings=vectors).kept
        return [chosen[place] for place in kept]

    @property
    def _spatial(self) -> bool:
        """Slices of a volume: neighbours in space, not in time."""
        return self.first is not None and self.first.provenance.kind == "volume" and self.first.time_ms is None

    def _look(self) -> Iterator[Answer]:
        """Survey every frame up to the first that cannot be decoded."""
        held = 0
        try:
            for frame in frames.read(self.path, axis=self.cut or None, only=self.only or None):
                self.first = self.first or frame
                self.indices.append(frame.index)
                self.survey.add(frame.image, frame.time_ms)
                held += 4 * frame.image.nbytes  # with its colours
                if self._buffer is not None:
                    self._buffer.append(frame)
                    if held > _BUFFERED_BYTES:
                        self._buffer = None
                if self.survey.count % _HEARTBEAT == 0:
                    yield {"kind": "working"}, b""
        except SonoDistillError as error:
            self.broken = error.message

    def _again(self, wanted: list[int]) -> Iterator[Frame]:
        """The wanted ones of the surveyed frames, from memory where the clip is short."""
        if self._buffer is not None:
            yield from (self._buffer[place] for place in wanted)
        else:
            indices = [self.indices[place] for place in wanted]
            yield from frames.read(self.path, axis=self.cut or None, only=indices)

    def _sector(self, regions: list[dict[str, Any]] | None) -> Sector:
        survey = self.survey
        if self._spatial:
            return _content(survey.brightest)
        if survey.count == 1:
            return find_sector(survey.brightest, regions=regions)
        return find_sector(survey.brightest, mean=survey.mean, change=survey.change, regions=regions)

    def _answer(
        self, frame: Frame, sector: Sector, inside: NDArray[np.bool_], standing: NDArray[np.bool_] | None
    ) -> Answer:
        found = clean(
            frame,
            inside,
            sector.box,
            standing,
            short_side=self.options.short_side,
            overlay=self.options.overlay,
            drawn_on=not self._spatial,
            windows=self.options.windows,
        )
        if found is None:
            return self._refused(frame, "blank", manifest.REASONS["blank"], refused=1)
        header = {
            "kind": "frame",
            "kept": 1,
            "sector": sector.kind,
            "sector_source": sector.source,
            "sector_agreement": round(sector.agreement, 4),
            "sector_outline": _stored_outline(sector, found),
            **self._where(frame),
            **_scale(frame, found, self.mm_per_pixel),
            **found.facts,
            "status": manifest.APART if found.doppler else manifest.KEPT,
        }
        if found.doppler:
            header["reason"] = manifest.REASONS["colour_doppler"]
        parts = (found.image.tobytes(), found.packed_overlay, found.hash, found.appearance, found.windows)
        return {**header, "sizes": [len(part) for part in parts]}, b"".join(parts)

    def _refused(self, frame: Frame, code: str, reason: str, **counts: int) -> Answer:
        header = {"kind": "refused", "status": code, "reason": reason, **self._where(frame), **counts}
        return header, thumbnail(frame.image)

    def _where(self, frame: Frame) -> dict[str, Any]:
        height, width = frame.image.shape
        return {
            "frame": frame.index,
            "cut": self.cut,
            "time_ms": frame.time_ms,
            "source_height": height,
            "source_width": width,
        }


def _content(brightest: NDArray[np.uint8]) -> Sector:
    """The box of all slices' content: a reconstructed volume has no fan, and nothing is drawn on it."""
    rows, columns = np.flatnonzero(brightest.any(1)), np.flatnonzero(brightest.any(0))
    if not len(rows):
        raise NoSectorError("the volume is empty")
    left, right, top, bottom = (float(v) for v in (columns[0], columns[-1] + 1, rows[0], rows[-1] + 1))
    return Sector("slice", ((left, top), (right, top), (right, bottom), (left, bottom)), "image", 1.0)


def _stored_outline(sector: Sector, found: Cleaned) -> list[float]:
    """x0, y0, x1, y1 ... in pixels of the stored frame."""
    top, left, bottom, right = found.facts["crop"]
    scale = np.array([found.image.shape[1] / (right - left), found.image.shape[0] / (bottom - top)])
    points = (np.asarray(sector.outline, dtype=np.float64) - (left, top)) * scale
    return [round(float(value), 1) for value in points.ravel()]


def _scale(frame: Frame, found: Cleaned, beside: float | None) -> dict[str, Any]:
    """Millimetres of a stored pixel, and where they are stated, or why they are unknown."""
    if frame.mm_per_pixel is not None:
        row_mm, column_mm = frame.mm_per_pixel
        source = frame.calibration.source
    elif beside is not None:
        row_mm, column_mm, source = beside, beside, "stated beside the file"
    else:
        return {"row_mm": None, "column_mm": None, "calibration": frame.calibration.note}
    top, left, bottom, right = found.facts["crop"]
    height, width = found.image.shape
    row_mm, column_mm = row_mm * (bottom - top) / height, column_mm * (right - left) / width
    return {"row_mm": row_mm, "column_mm": column_mm, "calibration": source}


@lru_cache(maxsize=1)
def _encoder(spec: str) -> nn.Module:
    return load_embedder(spec)
