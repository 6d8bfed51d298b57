"""Stamps text, calipers and rulers on frames, as scanners do, and says which pixels they changed."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = (
    "TIRADS 4C",
    "LT AXILLA",
    "RT UIQ",
    "2.31 cm",
    "DER",
    "12L6 9.0 31fps",
    "Dist 1.42",
    "L 3:00 N+4",
    "A",
    "SAG ML",
)
COLOURS = {
    "white": (255, 255, 255),
    "gray": (205, 205, 205),
    "yellow": (255, 255, 0),
    "green": (0, 255, 0),
    "cyan": (0, 200, 200),
}
_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_TRIPLEX)


@dataclass(frozen=True)
class Stamped:
    """A stamped frame: rgb (H, W, 3) and gray (H, W) uint8 after JPEG, and the (H, W) bool pixels that were drawn."""

    rgb: np.ndarray
    gray: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a mask found: parts of the drawn pixels found, and of the other pixels of the sector flagged (those within
    3 px of the drawing apart, which JPEG and anti-aliasing touch as well)."""

    recall: float
    tissue: float


def stamp(gray: np.ndarray, seed: int, colour: str = "white", quality: int = 85) -> Stamped:
    """1 to 3 texts of 8 to 30 px, a pair of calipers with a dotted line, and a ruler in half of the frames."""
    random = np.random.default_rng(seed)
    layer = np.zeros(gray.shape, np.uint8)
    for _ in range(random.integers(1, 4)):
        layer = _text(layer, random)
    _calipers(layer, random)
    if random.random() < 0.5:
        _ruler(layer, random)
    share = layer[..., None] / 255.0
    clean = np.repeat(gray[..., None], 3, axis=2)
    drawn = (clean * (1 - share) + np.array(COLOURS[colour]) * share).round().astype(np.uint8)
    coded = cv2.imencode(".jpg", drawn[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    rgb = np.ascontiguousarray(cv2.imdecode(coded, cv2.IMREAD_COLOR)[..., ::-1])
    changed = np.abs(drawn.astype(int) - clean).max(axis=2) > 30
    return Stamped(rgb, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY), changed)


def judge(mask: np.ndarray, stamped: Stamped, sector: np.ndarray) -> Found:
    """Compare a mask, as it is, with what was drawn inside the sector."""
    drawn = stamped.drawn & sector
    near = cv2.dilate(stamped.drawn.astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
    return Found(float(mask[drawn].mean()) if drawn.any() else 1.0, float(mask[sector & ~near].mean()))


def insonified(gray: np.ndarray) -> np.ndarray:
    """A rough sector: the largest lit area without what is thin, its holes filled, a few px inside of its edge."""
    lit = (cv2.GaussianBlur(gray, (0, 0), 2) > 6).astype(np.uint8)
    lit = cv2.morphologyEx(lit, cv2.MORPH_OPEN, np.ones((17, 17), np.uint8))
    _, labels, stats, _ = cv2.connectedComponentsWithStats(lit)
    largest = (labels == 1 + stats[1:, cv2.CC_STAT_AREA].argmax()).astype(np.uint8)
    wide = cv2.copyMakeBorder(largest, 40, 40, 40, 40, cv2.BORDER_CONSTANT)
    filled = cv2.morphologyEx(wide, cv2.MORPH_CLOSE, np.ones((41, 41), np.uint8))
    return cv2.erode(filled, np.ones((13, 13), np.uint8))[40:-40, 40:-40] > 0


def _text(layer: np.ndarray, random: np.random.Generator) -> np.ndarray:
    height, width = layer.shape
    word, size = str(random.choice(WORDS)), int(random.integers(8, 31))
    if random.random() < 0.5:
        font = ImageFont.load_default(size=size)
        right, bottom = (int(value) for value in font.getbbox(word)[2:])
        image = Image.fromarray(layer)
        place = int(random.integers(max(1, width - right))), int(random.integers(max(1, height - bottom)))
        ImageDraw.Draw(image).text(place, word, fill=255, font=font)
        return np.array(image)
    font, thickness = int(random.choice(_FONTS)), 1 if size < 16 else int(random.integers(1, 4))
    scale = cv2.getFontScaleFromHeight(font, size, thickness)
    (right, tall), _ = cv2.getTextSize(word, font, scale, thickness)
    place = int(random.integers(max(1, width - right))), int(random.integers(min(tall, height - 1), height))
    kind = cv2.LINE_AA if random.random() < 0.5 else cv2.LINE_8
    return cv2.putText(layer, word, place, font, scale, 255, thickness, kind)


def _calipers(layer: np.ndarray, random: np.random.Generator) -> None:
    height, width = layer.shape
    start = random.integers(20, [width - 20, height - 20])
    end = np.clip(start + random.integers(-120, 121, 2), 12, [width - 12, height - 12])
    arm, thickness, cross = int(random.integers(4, 9)), int(random.integers(1, 3)), random.random() < 0.5
    for x, y in (start.tolist(), end.tolist()):
        if cross:
            cv2.line(layer, (x - arm, y - arm), (x + arm, y + arm), 255, thickness)
            cv2.line(layer, (x - arm, y + arm), (x + arm, y - arm), 255, thickness)
        else:
            cv2.line(layer, (x - arm, y), (x + arm, y), 255, thickness)
            cv2.line(layer, (x, y - arm), (x, y + arm), 255, thickness)
    dots = int(np.hypot(*(end - start)) // 6)
    for dot in range(1, dots):
        x, y = (start + (end - start) * dot / dots).astype(int)
        layer[y : y + thickness, x : x + thickness] = 255


def _ruler(layer: np.ndarray, random: np.random.Generator) -> None:
    x, step = int(random.integers(8, layer.shape[1] - 12)), int(random.integers(10, 40))
    for tick, y in enumerate(range(5, layer.shape[0] - 2, step)):
        layer[y : y + 1 + (tick % 5 == 0), x : x + (9 if tick % 5 == 0 else 5)] = 255
