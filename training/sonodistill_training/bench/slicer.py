"""How fast the Slicer extension works in the core of 3D Slicer: masks written, a cine browsed, planes cut."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonodistill.errors import SonoDistillError
from sonodistill_training.hardware import hardware

_LOGICS = ("vtkSlicerSubjectHierarchyModuleLogic", "vtkSlicerSegmentationsModuleLogic", "vtkSlicerSequencesLogic")


class NoSlicerError(SonoDistillError):
    """The core of 3D Slicer, or the extension, is not there."""


@dataclass(frozen=True)
class Setup:
    """Attributes:
    frames: of the cine.
    size: (rows, columns) of a frame.
    rounds: times that the cine is browsed and each plane is cut; the quickest counts.
    voxels: side of the volume that planes are cut through.
    plane: side of a plane in pixels.
    planes: that are cut.
    seed: of the masks and planes.
    """

    frames: int = 300
    size: tuple[int, int] = (480, 640)
    rounds: int = 10
    voxels: int = 256
    plane: int = 256
    planes: int = 200
    seed: int = 0

    @classmethod
    def quick(cls, seed: int = 0) -> Setup:
        """A look."""
        return cls(frames=12, size=(120, 160), rounds=1, voxels=48, plane=48, planes=10, seed=seed)


def bench_slicer(setup: Setup, extension: Path | None = None) -> dict[str, Any]:
    """Milliseconds of a mask's write and of an oblique plane (95 % are faster), frames a second while browsing.

    A write puts the mask of an organ into the frame on display, with the edits watched, as the extension does it. The
    cine is browsed with a mask in each frame, images and segmentation brought up on the nodes that views show; drawing
    them on a screen is not in it. By the clock: what somebody waits for.

    Args:
        setup: how much of it.
        extension: folder of UltrasoundSegmentLib; by default the one of this checkout.

    Errors: NoSlicerError.
    """
    with _library(extension), _scene() as scene:
        from UltrasoundSegmentLib.masks.store import MaskStore

        rng = np.random.default_rng(setup.seed)
        cine = _cine(scene, setup, rng)
        began = time.perf_counter()
        store = MaskStore.of(cine, ["organ", "lesion"])
        opened = time.perf_counter() - began
        store.watch("bench")
        masks = [_organ(setup.size, rng) for _ in range(8)]
        write, read = _write(cine, store, masks)
        browse = max(_browse(cine) for _ in range(setup.rounds))
        plane = _planes(scene, setup, rng)
        store.unwatch()
    return {
        "mask_write_p95_ms": _p95(write),
        "browse_fps": browse,
        "oblique_frame_p95_ms": _p95(plane),
        "mask_read_p95_ms": _p95(read),
        "store_opened_s": opened,
        "frames": setup.frames,
        "size": f"{setup.size[0]}x{setup.size[1]}",
        "volume": f"{setup.voxels}x{setup.voxels}x{setup.voxels}",
        "plane": f"{setup.plane}x{setup.plane}",
        **hardware(),
    }


def _write(cine: Any, store: Any, masks: list[np.ndarray]) -> tuple[list[float], list[float]]:
    """Seconds of the write and of the reading of each frame."""
    write, read = [], []
    for index in range(cine.count):
        cine.select(index)
        mask = masks[index % len(masks)]
        began = time.perf_counter()
        store.write(index, mask, "predicted", confidence=0.9, model="bench")
        done = time.perf_counter()
        kept = store.mask(index)
        write.append(done - began)
        read.append(time.perf_counter() - done)
        if not np.array_equal(kept, mask):
            raise NoSlicerError(f"frame {index} lost its mask", remedy="use another version of 3D Slicer")
    return write, read


def _browse(cine: Any) -> float:
    """Frames a second."""
    cine.select(cine.count - 1)
    began = time.perf_counter()
    for index in range(cine.count):
        cine.select(index)
    return cine.count / (time.perf_counter() - began)


def _planes(scene: Any, setup: Setup, rng: np.random.Generator) -> list[float]:
    """Seconds of each oblique plane, the quickest of the rounds."""
    from UltrasoundSegmentLib.frames.image import image_data
    from UltrasoundSegmentLib.frames.planes import oblique_image

    side = setup.voxels
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "volume")
    image = image_data(rng.integers(0, 256, (side * side, side), dtype=np.uint8))
    image.SetDimensions(side, side, side)
    volume.SetAndObserveImageData(image)
    half = np.array([(setup.plane - 1) / 2, (setup.plane - 1) / 2, 0.0])
    places = []
    for _ in range(setup.planes):
        matrix = np.eye(4)
        matrix[:3, :3], _ = np.linalg.qr(rng.normal(size=(3, 3)))
        matrix[:3, 3] = (side - 1) / 2 - matrix[:3, :3] @ half
        places.append(matrix)
    # Rounds, and not tries of one plane after another: what disturbs the machine lasts longer than these.
    tries = np.empty((setup.rounds, setup.planes))
    for turn in range(setup.rounds):
        for number, matrix in enumerate(places):
            began = time.perf_counter()
            oblique_image(volume, matrix, (setup.plane, setup.plane))
            tries[turn, number] = time.perf_counter() - began
    return [float(seconds) for seconds in tries.min(axis=0)]


def _cine(scene: Any, setup: Setup, rng: np.random.Generator) -> Any:
    from UltrasoundSegmentLib.frames.build import Facts, build_cine

    speckle = rng.integers(0, 256, (setup.size[0], setup.size[1] + setup.frames), dtype=np.uint8)
    place = np.diag([-0.2, -0.2, 1.0, 1.0])
    slices = ((speckle[:, index : index + setup.size[1]], place) for index in range(setup.frames))
    times = [index / 30 for index in range(setup.frames)]
    return build_cine(scene, "bench", slices, times, Facts(source="DICOM region", time_source="FrameTime"))


def _organ(size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """(H, W) uint8: an organ over a third of the frame with a lesion in it."""
    y, x = np.indices(size) / np.array(size)[:, np.newaxis, np.newaxis] - rng.uniform(0.45, 0.55, (2, 1, 1))
    radius = np.hypot(x, y) + 0.02 * np.sin(7 * np.arctan2(y, x))
    return ((radius < 0.33) + (radius < 0.1)).astype(np.uint8)


def _p95(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 95) * 1000)


@contextmanager
def _library(extension: Path | None) -> Iterator[None]:
    """UltrasoundSegmentLib can be imported."""
    folder = extension or Path(__file__).resolve().parents[3] / "slicer_extension" / "UltrasoundSegment"
    added = importlib.util.find_spec("UltrasoundSegmentLib") is None
    if added and not (folder / "UltrasoundSegmentLib").is_dir():
        raise NoSlicerError("UltrasoundSegmentLib is not there", path=folder, remedy="run it in a checkout")
    if added:
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if added:
            sys.path.remove(str(folder))


@contextmanager
def _scene() -> Iterator[Any]:
    """A scene with the logics that show a sequence's selected item."""
    try:
        import slicer

        scene = slicer.vtkMRMLScene()
    except (ImportError, AttributeError) as error:
        raise NoSlicerError(f"the core of 3D Slicer is not there ({error})", remedy="pip install slicer-core") from None
    logics = [getattr(slicer, name)() for name in _LOGICS]
    for logic in logics:
        logic.SetMRMLScene(scene)
    try:
        yield scene
    finally:
        scene.Clear(True)
        for logic in reversed(logics):
            logic.SetMRMLScene(None)
