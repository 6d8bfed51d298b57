"""Simulated B-mode frames with exact masks: a labelled sample that every installation can make, and no claim rests on.

>>> frame = simulate_frame(7)
>>> frame.image.shape, frame.mask.dtype
((256, 256), dtype('uint8'))
"""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rich.console import Console
from rich.progress import track

from sonodistill.errors import DatasetError, SonoDistillError
from sonodistill_training.corpus.acoustics import (
    MAP_STEP,
    beam_envelope,
    mm_per_pixel,
    pixel_mm,
    round_trip_loss,
    scan_convert,
)
from sonodistill_training.corpus.labelled import INDEX
from sonodistill_training.corpus.scene import LABELS, PROBES, Scene, random_scene

COLUMNS = (
    *("dataset", "file", "mask", "label", "group", "anatomy", "split"),
    *("orig_width", "orig_height", "width", "height", "mm_per_pixel"),
)
NOTICE = (
    "SIMULATED ultrasound: computed from random scatterers by SonoDistill's B-mode simulator, not acquired from a "
    "person, an animal or a phantom. The frames exist to show and to test that the software runs; a result on them "
    "says nothing about real ultrasound and is not for claims of accuracy."
)
DATASET, STRUCTURE = "simulated", "lesion"
"""What the index of simulated frames calls them, and what their masks show."""
_VERSION = 1  # of the simulated content; a folder written by another version is not taken for the same
_PARAMETERS = "parameters.json"
_SMALLEST = 32


@dataclass(frozen=True)
class SimulatedFrame:
    """One simulated frame.

    Attributes:
        image: (H, W) uint8.
        mask: (H, W) uint8, 255 on the lesion and 0 elsewhere; empty when ``label`` is "none".
        label: "cyst", "hypoechoic", "hyperechoic" or "none".
        mm_per_pixel: side of a (square) pixel.
        probe: "linear" or "convex".
        seed: what it was made from.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    label: str
    mm_per_pixel: float
    probe: str
    seed: int


def simulate_frame(
    seed: int, *, size: tuple[int, int] = (256, 256), probe: str | None = None, label: str | None = None
) -> SimulatedFrame:
    """Simulate a frame; the same arguments give the same bytes, in whatever order frames are made.

    (With another NumPy or OpenCV some pixels may differ by a gray level or two.)

    Args:
        seed: any non-negative integer.
        size: (height, width) in pixels, 32 or more.
        probe: "linear" or "convex"; drawn from the seed when None.
        label: "cyst", "hypoechoic", "hyperechoic" or "none"; drawn from the seed when None, "none" once in six.

    Raises:
        SonoDistillError: a negative seed, a small size, an unknown probe or label.
    """
    return simulate_cine(seed, frames=1, size=size, probe=probe, label=label)[0]


def simulate_cine(
    seed: int,
    *,
    frames: int = 24,
    size: tuple[int, int] = (256, 256),
    probe: str | None = None,
    label: str | None = None,
) -> list[SimulatedFrame]:
    """Simulate a cine in which tissue, speckle and lesion drift once round a closed path.

    The arguments are those of ``simulate_frame``, whose frame is the first one.
    """
    _check(seed, frames, size, probe, label)
    generator = np.random.default_rng(seed)
    still = random_scene(generator, size, probe, label)
    shape = (still.probe.map_shape[0], still.probe.samples)
    scatterers = generator.standard_normal(shape, dtype=np.float32)
    reach, turn = generator.uniform(0.06, 0.12), generator.choice((-1, 1))
    made = []
    for number in range(frames):
        phase = 2 * np.pi * number / frames
        lines = round(turn * reach * np.sin(phase) * still.probe.lines / 2)
        rows = round(0.3 * reach * (1 - np.cos(phase)) * still.probe.map_shape[1])
        scene = still.drifted(lines, rows)
        image, mask = _render(scene, np.roll(scatterers, (lines, rows * MAP_STEP), axis=(0, 1)), generator, size)
        name = "none" if scene.lesion is None else scene.lesion.label
        made.append(SimulatedFrame(image, mask, name, mm_per_pixel(scene.probe, size), scene.probe.kind, seed))
    return made


def _render(
    scene: Scene, scatterers: NDArray[np.float32], generator: np.random.Generator, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask of a scene, both uint8 of ``size``."""
    probe = scene.probe
    echo_db, attenuation = scene.maps()
    loss_db = round_trip_loss(probe, attenuation, scene.compensated_db_per_mm)
    envelope = beam_envelope(probe, scatterers, echo_db, loss_db)
    # Detected lines are averaged to about two samples a pixel, as scanners do before they are shown.
    rows = min(envelope.shape[1], int(2 * probe.depth_mm / mm_per_pixel(probe, size)))
    envelope = cv2.resize(envelope, (rows, envelope.shape[0]), interpolation=cv2.INTER_AREA)
    noise = generator.rayleigh(np.sqrt(0.5), envelope.shape).astype(np.float32)
    depths = np.linspace(-probe.depth_mm, 0, rows, dtype=np.float32)
    noise *= np.power(10.0, (scene.noise_db + 2 * scene.compensated_db_per_mm * depths) / 20, dtype=np.float32)
    shown_db = 20 * np.log10(np.hypot(envelope, noise) + np.float32(1e-6)) + np.float32(scene.gain_db)
    gray = np.clip(255 + shown_db * np.float32(255 / scene.dynamic_range_db), 0, 255)
    image, sector = scan_convert(probe, gray, size)
    image = np.where(sector, np.rint(image), 0).astype(np.uint8)
    mask = np.zeros(size, np.uint8)
    if scene.lesion is not None:
        mask[(scene.lesion.signed_distance(*pixel_mm(probe, size)) <= 0) & sector] = 255
    return image, mask


def _check(seed: int, frames: int, size: tuple[int, int], probe: str | None, label: str | None) -> None:
    if seed < 0 or frames < 1:
        raise SonoDistillError(f"cannot simulate seed {seed}, {frames} frames", remedy="use 0 or more, and 1 or more")
    if min(size) < _SMALLEST:
        raise SonoDistillError(
            f"a frame of {size[0]} x {size[1]} pixels is too small", remedy=f"use {_SMALLEST} or more"
        )
    if probe not in (None, *PROBES):
        raise SonoDistillError(f"unknown probe {probe!r}", remedy=f"use one of {', '.join(PROBES)}")
    if label not in (None, *LABELS):
        raise SonoDistillError(f"unknown label {label!r}", remedy=f"use one of {', '.join(LABELS)}")


def write_simulated(
    out_dir: str | Path,
    count: int,
    seed: int = 0,
    *,
    size: tuple[int, int] = (256, 256),
    probe: str | None = None,
    progress: bool | None = None,
) -> Path:
    """Write a frame folder: images/*.png, masks/*.png, index.csv (paths relative to the folder) and README.txt.

    Every sixth frame is without lesion and the kinds of lesion take turns; 14 of any 20 frames in a row are for
    training, 3 for validation and 3 for the test. The folder appears whole or not at all; one
    that was written with the same arguments is left as it is.

    Args:
        out_dir: the folder to make; it may exist if it is empty.
        count: frames, 1 or more.
        seed: frame i is ``simulate_frame(seed * 100000 + i, ...)`` with the label of its turn.
        size: (height, width), pixels.
        probe: "linear" or "convex"; both when None.
        progress: show a bar; None does so on a terminal.

    Returns:
        The folder.

    Raises:
        DatasetError: the folder holds something else.
    """
    folder = Path(out_dir)
    parameters = {"version": _VERSION, "count": count, "seed": seed, "size": list(size), "probe": probe}
    _check(seed, count, size, probe, None)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        if _stored_parameters(folder) == parameters:
            return folder
        raise DatasetError(
            "exists and is not a simulated folder with these parameters",
            path=folder,
            remedy="name another folder, or remove this one first",
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".tmp"))
    try:
        _fill(temporary, parameters, progress)
        temporary.chmod(0o755)
        if folder.is_dir():
            folder.rmdir()  # it is empty
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def _fill(folder: Path, parameters: dict, progress: bool | None) -> None:
    height, width = parameters["size"]
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    console = Console(stderr=True)
    hidden = not (console.is_terminal if progress is None else progress)
    rows = []
    for number in track(range(parameters["count"]), "simulating", console=console, disable=hidden, transient=True):
        seed = parameters["seed"] * 100_000 + number
        frame = simulate_frame(seed, size=(height, width), probe=parameters["probe"], label=_label(number))
        group = f"sim{number:05d}"
        image, mask = f"images/{group}.png", f"masks/{group}.png"
        _write_png(folder / image, frame.image, frame)
        _write_png(folder / mask, frame.mask, frame)
        row = [DATASET, image, mask, frame.label, group, "simulated", _split(number)]
        rows.append([*row, width, height, width, height, f"{frame.mm_per_pixel:.6f}"])
    with (folder / INDEX).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    (folder / "README.txt").write_text(f"{NOTICE}\n", encoding="utf-8")
    (folder / _PARAMETERS).write_text(json.dumps(parameters) + "\n", encoding="utf-8")


def _label(number: int) -> str:
    return "none" if number % 6 == 5 else LABELS[(number - number // 6) % 3]


def _split(number: int) -> str:
    place = number % 20
    if place in (2, 3, 15):
        return "validation"
    return "test" if place in (7, 12, 17) else "train"


def _write_png(path: Path, pixels: NDArray[np.uint8], frame: SimulatedFrame) -> None:
    text = PngInfo()
    text.add_text("Comment", f"{NOTICE} (seed {frame.seed}, {frame.probe} probe, {frame.label})")
    Image.fromarray(pixels).save(path, pnginfo=text, optimize=True)


def _stored_parameters(folder: Path) -> dict | None:
    path = folder / _PARAMETERS
    if not path.is_file() or not (folder / INDEX).is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
