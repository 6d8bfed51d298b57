"""A store of planted failures, and what to read off the page made from it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np

from sonodistill_training.evaluate.data import LabelledSet
from sonodistill_training.evaluate.learning.recipes import recipe
from sonodistill_training.evaluate.metrics.segmentation import score
from sonodistill_training.evaluate.results import Cell, Result, Store

RANDOM, DISTILLED = "R18-Rand", "R18-Distill-US"
SHIFT = {RANDOM: 3, DISTILLED: 1}  # pixels between truth and prediction
NORMALS, FRAMES, SHAPE = 4, 24, (72, 96)
FALSE_POSITIVE, MISSED, WORST, UNMISSED = 1, 5, 17, 2
HOSTILE = "<img src=x onerror=alert(1)>\"'&.png"
VOID = {"meta", "img", "br", "input", "link", "hr", "image", "path", "use", "line", "circle"}


def name(row: int) -> str:
    return HOSTILE if row == MISSED else f"frame{row:02d}.png"


def disc(row: int, shift: int = 0) -> np.ndarray:
    """The lesion of a frame: none of the first, then larger and larger ones."""
    empty = np.zeros(SHAPE, np.uint8)
    return (cv2.circle(empty, (40 + shift, 36), row, 1, -1) if row >= NORMALS else empty) > 0


def predicted(encoder: str, row: int) -> np.ndarray:
    """The truth moved to the side, but for the failures that are planted in the random encoder's predictions."""
    if encoder == RANDOM and row == FALSE_POSITIVE:
        return disc(9)
    if encoder == RANDOM and row == MISSED:
        return np.zeros(SHAPE, bool)
    return disc(row, 26 if encoder == RANDOM and row == WORST else SHIFT[encoder])


def frames(data: str = "busi", size: int = 64) -> LabelledSet:
    rng = np.random.default_rng(0)
    images = np.stack([cv2.resize(rng.integers(40, 200, (9, 9), dtype=np.uint8), (size, size)) for _ in range(FRAMES)])
    names = tuple(map(name, range(FRAMES)))
    truths = tuple(np.packbits(disc(row)) for row in range(FRAMES))
    plain = ("",) * FRAMES
    shapes, spacing = np.array([SHAPE] * FRAMES), np.full((FRAMES, 2), np.nan)
    return LabelledSet(data, names, names, plain, plain, images[:, None], shapes, truths, spacing, "0" * 64)


def cell(encoder: str = RANDOM, task: str = "segmentation", **changes) -> Cell:
    head = "linear" if task == "classification" else "unet"
    made = recipe("paper", task, epochs=4)
    return replace(Cell(encoder, "random:resnet18", task, "busi", "b" * 64, "finetune", head, made), **changes)


def segmented(encoder: str) -> tuple[dict[str, list], list[np.ndarray]]:
    masks = [predicted(encoder, row) for row in range(FRAMES)]
    scores = [score(mask, disc(row)) for row, mask in enumerate(masks)]
    columns = {"image": [name(row) for row in range(FRAMES)], "group": [f"case{row}" for row in range(FRAMES)]}
    columns |= {"label": [""] * FRAMES, "lesion": [one.truth_pixels > 0 for one in scores]}
    for key in ("dice", "iou", "hd95_px", "hd95_mm", "predicted_pixels", "truth_pixels", "pixels"):
        columns[key] = [getattr(one, key) for one in scores]
    return columns, masks


def classified(classes: Sequence[str] = ("benign", "malignant")) -> dict[str, list]:
    right = np.random.default_rng(1).uniform(0.3, 0.9, FRAMES)
    columns = {"image": [name(row) for row in range(FRAMES)], "group": [f"case{row}" for row in range(FRAMES)]}
    truth = [classes[row % 2] for row in range(FRAMES)]
    columns |= {"truth": truth, "predicted": [classes[(row + (right[row] < 0.5)) % 2] for row in range(FRAMES)]}
    for number, label in enumerate(classes):
        columns[f"probability_{label}"] = [p if row % 2 == number else 1 - p for row, p in enumerate(right.tolist())]
    return columns


def keep(store: Store, of: Cell) -> Result:
    curve = [{"epoch": e, "loss": 1 / e + of.seed, "validation": 0.5 + e / 10 + of.seed / 50} for e in range(1, 5)]
    about = {
        "summary": {},
        "curve": curve,
        "frames": {"train": 40, "validation": 8, "test": FRAMES},
        "split": "seed 3",
        "device": "cpu",
        "bf16": True,
        "code_version": "c0de" * 10,
        "software": {"torch": "2.99.1"},
        "calibrated": 0,
        "best_epoch": 3,
    }
    if of.task == "segmentation":
        return store.write(of, *(lambda columns, masks: (columns, about, masks))(*segmented(of.encoder)))
    return store.write(of, classified(), about)


def full_store(folder: Path) -> Store:
    """Two encoders, two tasks, two seeds, and one encoder with a tenth of the labels."""
    store = Store(folder)
    for encoder in SHIFT:
        for seed in range(2):
            keep(store, cell(encoder, seed=seed))
            keep(store, cell(encoder, "classification", seed=seed))
    keep(store, cell(DISTILLED, fraction=0.1))
    return store


def visible(page: str) -> str:
    text = re.sub(r"<[^>]*>", " ", re.sub(r"<(style|script).*?</\1>", " ", page, flags=re.S))
    return re.sub(r"\s+", " ", unescape(text))


def example(page: str, image: str) -> str:
    """The card of an image in the gallery."""
    from html import escape

    start = page.index(f"<p><strong>{escape(image)}</strong>")
    return page[start:].partition("</div></div>")[0]


def kind(page: str, title: str) -> str:
    """A kind's part of the gallery."""
    return re.split(r"<h[234][ >]", page.partition(f">{title}</h4>")[2])[0]


class Balanced(HTMLParser):
    """Every opened element must be closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID or tag == "path":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, key, value or "") for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page: str) -> Balanced:
    parser = Balanced()
    parser.feed(page)
    parser.close()
    return parser
