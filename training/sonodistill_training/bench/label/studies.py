"""What the server is given: a cine as scanners write them, a pool of many small frames, and networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from sonodistill.networks.click import ClickSegmenter
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.transforms.geometry import to_input
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo
from sonodistill_training.bench.cine import write_cine
from sonodistill_training.bench.dicom.clips import Loop, write_clips
from sonodistill_training.bench.dicom.models import _fit, _maps
from sonodistill_training.bench.label.setup import Setup

CINE = "cine"
CINE_FRAMES = 30
_SIDE = 64


def write_studies(folder: Path, loop: Loop, setup: Setup) -> Path:
    """A cine of 30 frames, 480 x 640, and the pool: small uncompressed cine, a patient each, whose frames differ."""
    (folder / CINE).mkdir(parents=True)
    write_clips(folder / CINE, loop, CINE_FRAMES)[0].rename(folder / CINE / f"{CINE}.dcm")
    rng = np.random.default_rng(setup.seed)
    template = folder / "template.dcm"
    write_cine(template, loop.encoded[:1], 1)
    ds = dcmread(template)
    template.unlink()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.Rows = ds.Columns = _SIDE
    ds.NumberOfFrames = setup.frames
    smooth = np.kron(rng.integers(20, 200, (setup.clips, 8, 8)), np.ones((8, 8))).astype(np.float32)
    (folder / "pool").mkdir()
    for number in range(setup.clips):
        moved = [np.roll(smooth[number], step, axis=1) for step in range(setup.frames)]
        pixels = np.stack(moved) + rng.normal(0, 10, (setup.frames, _SIDE, _SIDE))
        del ds.PixelData
        ds.add_new("PixelData", "OB", np.clip(pixels, 0, 255).astype(np.uint8).tobytes())
        ds.PatientID, ds.StudyInstanceUID, ds.SeriesInstanceUID = f"bench{number}", generate_uid(), generate_uid()
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        ds.save_as(folder / "pool" / f"{number:04d}.dcm", enforce_file_format=True)
    return folder


def write_models(folder: Path, loop: Loop, setup: Setup) -> dict[str, Path]:
    """Random networks, as fast as trained ones; that of the segmentation finds the disk of the cine.

    "interactive" is on the first encoder, "interactive50" on the second.
    """
    size = (setup.input_size, setup.input_size)
    first, second = setup.encoders
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(setup.seed)
        segmenter = Segmenter(first).eval()
        images = torch.from_numpy(np.stack([to_input(image, size) for image in loop.images]))
        disks = np.stack([to_input(disk.astype(np.uint8) * 255, size) for disk in loop.disks]) > 0.5
        with torch.no_grad():
            _fit(segmenter.segmentation_head[0], segmenter.decoder(_maps(segmenter, images)), torch.from_numpy(disks))
        networks = {
            "segmentation": (segmenter, "segmenter", first, size, ("disk",)),
            "interactive": (ClickSegmenter(first), "interactive", first, size, ()),
            "interactive50": (ClickSegmenter(second), "interactive", second, size, ()),
            "embedding": (Encoder(first), "encoder", first, (setup.embedding_size,) * 2, ()),
        }
    folder.mkdir(parents=True)
    for name, (network, kind, encoder, shape, labels) in networks.items():
        info = WeightsInfo(kind, encoder, input_size=shape, labels=labels, origin="for a benchmark")  # type: ignore[arg-type]
        save_weights(folder / f"{name}.safetensors", network.state_dict(), info)
    return {name: folder / f"{name}.safetensors" for name in networks}
