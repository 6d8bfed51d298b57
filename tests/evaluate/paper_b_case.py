"""The three data sets of paper B in miniature, laid out as they are published, and a checkpoint like UltraDINO's."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import torch

from sonodistill_training.pretrain.build import make_vit, plain_vit_state

SIDE = 40
PLANES = ("Fetal abdomen", "Fetal brain", "Fetal femur")


def _frame(seed: int, codes: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 60, codes.shape)
    return (noise + codes.astype(int) * 40).clip(0, 255).astype(np.uint8)


def _write(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), image)


def _codes(seed: int, structures: int) -> np.ndarray:
    """A disc a structure, in bands below each other."""
    codes = np.zeros((SIDE, SIDE), np.uint8)
    for code in range(1, structures + 1):
        centre = (12 + seed % 9, int((code - 0.5) * SIDE / structures))
        cv2.circle(codes, centre, max(3, SIDE // (2 * structures) - 1), code, -1)
    return codes


def jnu_ifm(folder: Path, videos: int = 10, frames: int = 3) -> Path:
    """us_data/VIDEO/image/VIDEO_FRAME.png with masks of 7 (symphysis) and 8 (head)."""
    for video in range(videos):
        for number in range(frames):
            codes, name = _codes(7 * video + number, 2), f"v{video}_{number}"
            _write(folder / f"us_data/v{video}/image/{name}.png", _frame(video, codes))
            _write(
                folder / f"us_data/v{video}/mask/{name}_mask.png", np.where(codes > 0, codes + 6, 0).astype(np.uint8)
            )
    return folder


def fass(folder: Path, patients: int = 10, images: int = 2) -> Path:
    """IMAGES/P1_IMG1.png beside ARRAY_FORMAT/P1_IMG1.npy, a pickled dictionary."""
    names = ("artery", "liver", "stomach", "vein")
    for patient in range(1, patients + 1):
        for number in range(1, images + 1):
            codes, name = _codes(patient + number, 4), f"P{patient}_IMG{number}"
            _write(folder / f"IMAGES/{name}.png", _frame(patient, codes))
            content = {"structures": {of: (codes == code).astype(np.uint8) for code, of in enumerate(names, 1)}}
            (folder / "ARRAY_FORMAT").mkdir(exist_ok=True)
            np.save(folder / f"ARRAY_FORMAT/{name}.npy", np.array(content, dtype=object), allow_pickle=True)
    return folder


def fetal_planes(folder: Path, patients: int = 24, images: int = 2) -> Path:
    """Images/NAME.png and FETAL_PLANES_DB_data.csv with the published split by patient."""
    rows = []
    for patient in range(1, patients + 1):
        plane = PLANES[patient % len(PLANES)]
        for number in range(1, images + 1):
            name = f"Patient{patient:05d}_Plane1_{number}_of_{images}"
            codes = np.zeros((SIDE, SIDE), np.uint8)
            codes[:, 10 * (patient % 3) : 10 * (patient % 3) + 10] = 3
            _write(folder / f"Images/{name}.png", _frame(patient, codes))
            rows.append((name, patient, plane, "Not A Brain", "Op. 1", "Aloka", int(patient % 4 != 0)))
    with (folder / "FETAL_PLANES_DB_data.csv").open("w", newline="") as file:
        table = csv.writer(file, delimiter=";")
        table.writerow(["Image_name", "Patient_num", "Plane", "Brain_plane", "Operator", "US_Machine", "Train"])
        table.writerows(rows)
    return folder


def ultradino(path: Path) -> Path:
    """A random ViT-S/16 of one channel with 4 registers, as UltraDINO's teacher_checkpoint.pth holds it."""
    vit = make_vit("vit_small_patch16_224", input_size=32, registers=4)
    state = {f"backbone.{name}": value for name, value in plain_vit_state(vit).items()}
    torch.save({"teacher": state}, path)
    return path
