"""Folders of stills, cines, videos and volumes, for the tests of the catalogue."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import SimpleITK as sitk
from PIL import Image
from pydicom import dcmread, examples

from sonodistill.annotate.model import Item
from sonodistill.annotate.studies.catalogue import FolderCatalogue

CINE, STILL = Path(examples.get_path("ybr_color")), Path(examples.get_path("palette_color"))
CINE_FRAMES = 30
# Two names with the same stem, whose SHA-256 begin with the same ten digits.
ALIKE = ("scan!!#!##!####!!!!###!##!.png", "scan#!#!#!!#!!#!!!!!!#!!!#.png")

Opened = Callable[..., FolderCatalogue]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, size, dtype=np.uint8)).save(path)
    return path


def video(path: Path, frames: int = 12, codec: str = "mpeg4") -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            image = np.random.default_rng(index).integers(0, 255, (48, 64), dtype=np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="gray").reformat(format="yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def volume(path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 255, (5, 20, 30), dtype=np.uint8)
    sitk.WriteImage(sitk.GetImageFromArray(values), str(path))
    return path


def dicom(path: Path, source: Path = STILL, **tags: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds = dcmread(source)
    for keyword, value in tags.items():
        setattr(ds, keyword, value)
    ds.save_as(path)
    return path


def study(folder: Path) -> Path:
    """Every kind of source, one of each."""
    picture(folder / "busi" / "still.png")
    pages = [Image.fromarray(np.full((30, 40), 60 * page, np.uint8)) for page in range(3)]
    pages[0].save(folder / "busi" / "pages.tif", save_all=True, append_images=pages[1:])
    video(folder / "clip.mp4")
    volume(folder / "volume.nrrd")
    shutil.copy(CINE, folder / "cine.dcm")
    shutil.copy(STILL, folder / "1.2.840.113619.2.21")
    return folder


def by_name(catalogue: FolderCatalogue) -> dict[str, Item]:
    return {item.name: item for item in catalogue.items()}


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end, "it did not happen in 30 seconds"
        time.sleep(0.02)
