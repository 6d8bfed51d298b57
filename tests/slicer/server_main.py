"""Run by the annotation environment: the real app on cines of a bright ellipse that moves, until the input ends.

    python server_main.py FOLDER

It prints a line of JSON with its address when it answers.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, UltrasoundMultiFrameImageStorage, generate_uid

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS / "label"), str(TESTS / "annotate")]
FRAMES, HEIGHT, WIDTH, PATIENTS = 6, 64, 80, 5
MM = 0.25


def image(rng: np.random.Generator, centre: tuple[int, int]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(mask, centre, (14, 10), 20, 0, 360, 1, -1)
    level = np.where(mask > 0, 200, 70) + rng.normal(0, 10, mask.shape)
    return np.clip(level, 0, 255).astype(np.uint8)


def write_cine(path: Path, frames: np.ndarray, mm: float | None) -> None:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = UltrasoundMultiFrameImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = generate_uid(), generate_uid()
    data.PatientID, data.PatientName, data.Modality = path.parent.name, "Test^Test", "US"
    data.NumberOfFrames, data.Rows, data.Columns = frames.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.FrameTime = "40"
    data.FrameIncrementPointer = 0x00181063
    if mm is not None:
        region = Dataset()
        region.RegionSpatialFormat, region.RegionDataType, region.RegionFlags = 1, 1, 0
        region.RegionLocationMinX0 = region.RegionLocationMinY0 = 0
        region.RegionLocationMaxX1, region.RegionLocationMaxY1 = WIDTH - 1, HEIGHT - 1
        region.PhysicalUnitsXDirection = region.PhysicalUnitsYDirection = 3
        region.PhysicalDeltaX = region.PhysicalDeltaY = mm / 10
        data.SequenceOfUltrasoundRegions = [region]
    data.PixelData = frames.tobytes()
    data.save_as(path, enforce_file_format=True)


def make_studies(folder: Path) -> Path:
    rng = np.random.default_rng(7)
    for patient in range(PATIENTS):
        home = folder / f"p{patient}"
        home.mkdir(parents=True)
        x, y = (int(value) for value in rng.integers((25, 22), (45, 38)))
        frames = np.stack([image(rng, (x + index, y)) for index in range(FRAMES)])
        write_cine(home / f"cine{patient}.dcm", frames, MM if patient == 0 else None)
    cv2.imwrite(str(folder / "p0" / "still.png"), image(rng, (40, 30)))
    return folder


def with_score(checkpoint: Path, studies: Path) -> None:
    """Give a segmenter the warning score of the frames of its studies."""
    import torch

    from sonodistill.frames import read
    from sonodistill.inference import familiarity
    from sonodistill.inference.scored import features, map_index
    from sonodistill.networks.checkpoint import load_network
    from sonodistill.transforms.geometry import to_input
    from sonodistill.weights import load_weights, save_weights

    network, info = load_network(checkpoint)
    frames = [frame for path in sorted(studies.rglob("*.dcm")) for frame in read(path)]
    inputs = torch.from_numpy(np.stack([to_input(frame.image, info.input_size) for frame in frames]))
    with torch.inference_mode():
        found = features(network.encoder.pyramid(inputs), map_index(network.encoder)).numpy()
    fitted = familiarity.fit(found[::2].repeat(3, 0), found[1::2], components=4)
    score = {name: torch.from_numpy(value) for name, value in familiarity.to_tensors(fitted).items()}
    about = {"version": familiarity.VERSION, "data": "cines of the test"}
    save_weights(checkpoint, {**load_weights(checkpoint)[0], **score}, replace(info, familiarity=about))


def main() -> None:
    from app_case import make_models, serve

    folder = Path(sys.argv[1])
    studies = make_studies(folder / "studies")
    weights = make_models(folder / "models", ("segmentation", "interactive", "embedding"))
    with_score(weights["segmentation"], studies)
    with serve(studies, weights, work=folder / "work") as server:
        sys.stdout.write(json.dumps({"url": server.url, "studies": str(studies)}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main()
