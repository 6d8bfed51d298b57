"""A new cine in a scene, from images, places and times."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from numpy.typing import NDArray

import slicer
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.calibration import NONE, record
from UltrasoundSegmentLib.frames.cine import PREFIX, Cine
from UltrasoundSegmentLib.frames.image import image_data, to_matrix

_AT_ONCE = 1 << 20
"""Bytes of pixels that go into the scene at once: some milliseconds of copying."""


@dataclass(frozen=True)
class Facts:
    """What a reader knows of the cine it makes.

    Attributes:
        source: where the spacing in the matrices was read; "none": they hold pixels, not millimetres.
        time_source: where the times were read.
        warnings: what a person should know.
        scale_warnings: why the scale is unknown or doubtful, which a ruler settles.
        key: what names the source for good, such as its SOP instance UID; None: a new identifier.
        region: (x0, y0, x1, y1) of the tissue, half-open pixels.
        attributes: more to keep on the image sequence, without the prefix.
        instances: DICOM.instanceUIDs of every volume.
        references: identifiers of other nodes by the role they have for the images.
    """

    source: str = NONE
    time_source: str = NONE
    warnings: Sequence[str] = ()
    scale_warnings: Sequence[str] = ()
    key: str | None = None
    region: tuple[int, int, int, int] | None = None
    attributes: dict[str, str] = field(default_factory=dict)
    instances: str | None = None
    references: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """What a reader found in a file: no MRML, so that it can be read on another thread than the scene's.

    Attributes:
        name: of the cine.
        slices: (pixels, IJK to RAS) of each frame as ``Building.add`` takes them, decoded as they are taken.
        times: seconds of each frame, None where unknown.
        facts: what else is known.
        count: number of frames, None where only its end tells.
    """

    name: str
    slices: Iterator[tuple[NDArray, NDArray]]
    times: Sequence[float] | None
    facts: Facts
    count: int | None = None


class Building:
    """A cine that grows frame by frame and comes into the scene when it is whole."""

    def __init__(self, name: str, times: Sequence[float] | None, facts: Facts) -> None:
        """``times`` that do not increase strictly cannot be the index of a sequence, which would put one frame over
        another: they are kept beside it and the index counts frames.
        """
        steps = [after - before for before, after in itertools.pairwise(times)] if times is not None else []
        self._name, self._times, self._facts, self._count = name, times, facts, 0
        self._timed = times is not None and all(step > 0 for step in steps)
        self._images = slicer.vtkMRMLSequenceNode()
        self._images.SetIndexType(slicer.vtkMRMLSequenceNode.NumericIndex)
        self._images.SetIndexName("time" if self._timed else "frame")
        self._images.SetIndexUnit("s" if self._timed else "")
        # Two frames nearer than the tolerance (1 ms, unless told otherwise) would be one.
        nearest = min([1e-3, *(step / 4 for step in steps)]) if self._timed else 1e-3
        self._images.SetNumericIndexValueTolerance(nearest)

    def add(self, slices: Iterable[tuple[NDArray, NDArray]]) -> None:
        """Append frames: ((H, W) or (H, W, 3) pixels, (4, 4) IJK to RAS) of each."""
        for values, ijk_to_ras in slices:
            times, number = self._times, self._count
            if times is not None and number == len(times):
                raise SegmentError(f"The source holds more frames than the {len(times)} times it states.")
            volume = slicer.vtkMRMLVectorVolumeNode() if values.ndim == 3 else slicer.vtkMRMLScalarVolumeNode()
            volume.SetName(f"{self._name} {number + 1}")
            volume.SetIJKToRASMatrix(to_matrix(ijk_to_ras))
            volume.SetAndObserveImageData(image_data(values))
            if self._facts.instances is not None:
                volume.SetAttribute("DICOM.instanceUIDs", self._facts.instances)
            value = repr(float(times[number])) if self._timed and times is not None else str(number)
            self._images.SetDataNodeAtValue(volume, value)
            self._count += 1

    def finish(self, scene: slicer.vtkMRMLScene) -> Cine:
        """Put the browser and its sequence into the scene, the first frame on display.

        Errors: SegmentError where there is no frame, or not one time for each.
        """
        facts, times = self._facts, self._times
        if self._count == 0:
            raise SegmentError("The source holds no frames.")
        if times is not None and self._count != len(times):
            raise SegmentError(f"The source holds {self._count} frames and states {len(times)} times.")
        self._images.SetName(scene.GenerateUniqueName(self._name))
        if facts.key is not None:
            self._images.SetAttribute(PREFIX + "key", facts.key)
        scene.AddNode(self._images)
        cine = Cine.of_sequence(self._images)
        if times is not None and not self._timed:
            set_times(cine, times)
        record(cine, facts.source, facts.time_source, facts.warnings, facts.scale_warnings)
        for attribute, value in facts.attributes.items():
            cine.set_attribute(attribute, value)
        for role, node in facts.references.items():
            self._images.SetNodeReferenceID(role, node)
        if facts.region is not None:
            cine.set_region(facts.region)
        return cine


def build_cine(
    scene: slicer.vtkMRMLScene,
    name: str,
    slices: Iterable[tuple[NDArray, NDArray]],
    times: Sequence[float] | None,
    facts: Facts,
) -> Cine:
    """A cine of frames as ``Building.add`` takes them.

    Errors: SegmentError where there is no frame, or not one time for each; nothing stays in the scene then, nor
    when ``slices`` raises.
    """
    building = Building(name, times, facts)
    building.add(slices)
    return building.finish(scene)


def build(scene: slicer.vtkMRMLScene | None, source: Source) -> Cine:
    """A cine of all that a reader found. Errors: as ``build_cine``, and those of the reader."""
    return build_cine(scene or slicer.mrmlScene, source.name, source.slices, source.times, source.facts)


def build_on_worker(
    scene: slicer.vtkMRMLScene,
    source: Source,
    on_main: Callable[[Callable[[], Any]], Any],
    progress: Callable[[int, int, str], None] | None = None,
) -> Cine:
    """As ``build``, on another thread than the scene's: frames are decoded there, some at a time go into MRML.

    Args:
        on_main: runs a function on the main thread, waits for it and returns what it returned; each takes some
            milliseconds. It raises to stop, which leaves nothing in the scene.
        progress: gets (frames so far, frames in all or 0, text).
    """
    building = on_main(lambda: Building(source.name, source.times, source.facts))
    waiting: list[tuple[NDArray, NDArray]] = []
    for number, frame in enumerate(source.slices, start=1):
        waiting.append(frame)
        if sum(values.nbytes for values, _ in waiting) >= _AT_ONCE:
            on_main(partial(building.add, tuple(waiting)))
            waiting.clear()
            if progress is not None:
                progress(number, source.count or 0, f"Reading “{source.name}”")
    on_main(lambda: building.add(waiting))
    return on_main(lambda: building.finish(scene))


def set_times(cine: Cine, times: Sequence[float]) -> None:
    """Keep the seconds of each frame beside the index of a sequence, which others may rely on."""
    if len(times) != cine.count:
        raise SegmentError(f"“{cine.name}” has {cine.count} frames, not {len(times)}.")
    cine.set_attribute("times", json.dumps([float(time) for time in times]))
