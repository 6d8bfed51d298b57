"""Annotations as published, loaded when asked for: mask images, outlines, polygons, tracings, label volumes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.parse import read_json

if TYPE_CHECKING:
    from xml.etree import ElementTree

    import numpy as np
    from numpy.typing import NDArray

Shape = tuple[int, int]
Polygon = Sequence[tuple[float, float]]
"""Corners (x, y) in pixels of the frame."""
Code = int | tuple[int, int, int]
"""A gray value or palette index, or (R, G, B)."""


class Mask(Protocol):
    """An annotation. ``frames`` are the annotated frames of a clip or volume; None is all of them."""

    frames: frozenset[int] | None

    def load(self, shape: Shape, frame: int = 0) -> NDArray[np.uint8]:
        """(H, W) uint8 of the frame's shape: 0 and 255, or 0 and class codes where the entry says so.

        Errors: DatasetError for an annotation that is damaged, of another shape, or without that frame.
        """
        ...


@dataclass(frozen=True, slots=True)
class ImageMask:
    """One or several mask images of one frame, merged.

    Attributes:
        paths: the images; bright is annotated.
        codes: class code by gray value, palette index, or (R, G, B); values not listed are background. The highest
            code wins where images overlap.
        tolerance: how far a channel may be from a colour of ``codes`` (masks that were smoothed or compressed).
        above: without codes, what counts as annotated: values above it, in any channel (127 for JPEG masks).
        fill: the images hold an outline: "outline" fills what it encloses; "ellipse" fits an ellipse to it, which also
            closes one that leaves the frame.
        resize: the source publishes masks of another size than the frames; they are resized, nearest neighbour.
    """

    paths: tuple[Path, ...]
    codes: Mapping[Code, int] | None = None
    tolerance: int = 0
    above: int = 0
    fill: Literal["", "outline", "ellipse"] = ""
    resize: bool = False
    frames: frozenset[int] | None = None

    def load(self, shape: Shape, frame: int = 0) -> NDArray[np.uint8]:
        import numpy as np

        _check_frame(self.frames, frame, self.paths[0])
        return np.maximum.reduce([self._one(path, shape) for path in self.paths])

    def _one(self, path: Path, shape: Shape) -> NDArray[np.uint8]:
        import numpy as np

        pixels = _pixels(path, self.codes)
        if self.codes is None:
            bright = pixels > self.above
            mask = np.where(bright.any(axis=2) if bright.ndim == 3 else bright, 255, 0).astype(np.uint8)
        else:
            mask = np.zeros(pixels.shape[:2], np.uint8)
            for value, code in self.codes.items():
                same = np.abs(pixels.astype(np.int16) - np.array(value, np.int16)) <= self.tolerance
                mask[same.all(axis=2) if same.ndim == 3 else same] = code
        if self.fill:
            mask = _filled(mask, self.fill)
        return _fitted(mask, shape, path, self.resize)


@dataclass(frozen=True, slots=True)
class PolygonMask:
    """Outlines as corner lists, filled. ``read`` gives the polygons of the file; those of another frame never come.

    Attributes:
        path: the file the polygons are in.
        read: polygons from it.
        codes: class code of each polygon in the order of ``read``; 255 for all when empty.
    """

    path: Path
    read: Callable[[Path], Sequence[Polygon]]
    codes: tuple[int, ...] = ()
    frames: frozenset[int] | None = None

    def load(self, shape: Shape, frame: int = 0) -> NDArray[np.uint8]:
        _check_frame(self.frames, frame, self.path)
        polygons = self.read(self.path)
        codes = self.codes or (255,) * len(polygons)
        return fill_polygons(shape, list(zip(polygons, codes, strict=True)), self.path)


@dataclass(frozen=True, slots=True)
class FramePolygons:
    """Polygons by frame number, already read: tracings of clips (EchoNet's CSV) and annotations of many files in one.

    Attributes:
        path: where they were read, for error messages.
        polygons: (polygon, code) by frame.
    """

    path: Path
    polygons: Mapping[int, Sequence[tuple[Polygon, int]]] = field(default_factory=dict)

    @property
    def frames(self) -> frozenset[int] | None:
        return frozenset(self.polygons)

    def load(self, shape: Shape, frame: int = 0) -> NDArray[np.uint8]:
        _check_frame(self.frames, frame, self.path)
        return fill_polygons(shape, self.polygons[frame], self.path)


@dataclass(frozen=True, slots=True)
class VolumeMask:
    """Slices of label volumes (NIfTI, MetaImage, NRRD), cut as ``sonodistill.frames.read`` cuts the image.

    Attributes:
        paths: the volumes, merged (several structures in separate files); the highest code wins.
        axis: 0, 1, 2 in numpy order, 0 being the one frames are read along.
        codes: class code by label value, values not listed are background; None: every label becomes 255.
    """

    paths: tuple[Path, ...]
    axis: int = 0
    codes: Mapping[int, int] | None = None
    frames: frozenset[int] | None = None

    def load(self, shape: Shape, frame: int = 0) -> NDArray[np.uint8]:
        import numpy as np

        _check_frame(self.frames, frame, self.paths[0])
        return np.maximum.reduce([self._one(path, shape, frame) for path in self.paths])

    def _one(self, path: Path, shape: Shape, frame: int) -> NDArray[np.uint8]:
        import numpy as np
        import SimpleITK as sitk

        try:
            volume = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        except RuntimeError as error:
            raise DatasetError("the label volume cannot be read", path=path, remedy="copy it again") from error
        if volume.ndim == 3:
            if not 0 <= frame < volume.shape[self.axis]:
                raise DatasetError(f"has {volume.shape[self.axis]} slices and no slice {frame}", path=path)
            volume = np.take(volume, frame, axis=self.axis)
        if volume.ndim != 2:
            raise DatasetError(f"has {volume.ndim} dimensions", path=path)
        if self.codes is None:
            mask = np.where(volume > 0, 255, 0).astype(np.uint8)
        else:
            mask = np.zeros(volume.shape, np.uint8)
            for value, code in self.codes.items():
                mask[volume == value] = code
        return _fitted(mask, shape, path, False)


def svg_polygons(case: ElementTree.Element) -> dict[int, list[Polygon]]:
    """Polygons by image number of an XML case of DDTI: ``<mark><image>1</image><svg>[{"points": ...}]</svg></mark>``.

    Images without a mark, and those whose mark is cut off in the middle (as some of the published ones are), are not in
    the answer: half an outline is none. Neither are outlines of fewer than three corners, which are stray clicks.
    """
    found: dict[int, list[Polygon]] = {}
    for mark in case.iter("mark"):
        try:
            shapes = json.loads(mark.findtext("svg") or "[]")
            polygons = [[(float(point["x"]), float(point["y"])) for point in shape["points"]] for shape in shapes]
            closed = [polygon for polygon in polygons if len(polygon) > 2]
            if closed:
                found.setdefault(int(mark.findtext("image") or ""), []).extend(closed)
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def json_polygon(path: Path) -> list[Polygon]:
    """One polygon as a JSON list of [x, y], or several as a list of such lists.

    Errors: DatasetError for anything else.
    """
    value = read_json(path)
    try:
        flat = bool(value) and not isinstance(value[0][0], list)
        return [[(float(x), float(y)) for x, y in polygon] for polygon in ([value] if flat else value)]
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DatasetError("is no list of [x, y]", path=path) from error


def fill_polygons(shape: Shape, polygons: Sequence[tuple[Polygon, int]], path: Path) -> NDArray[np.uint8]:
    """The polygons filled in order, later ones over earlier ones.

    Errors: DatasetError for polygons of fewer than three corners, or wholly outside the frame.
    """
    import cv2
    import numpy as np

    mask = np.zeros(shape, np.uint8)
    for polygon, code in polygons:
        corners = np.asarray(polygon, np.float64)
        if corners.ndim != 2 or len(corners) < 3 or not np.isfinite(corners).all():
            raise DatasetError(f"a polygon of {len(corners)} corners encloses nothing", path=path)
        low, high = corners.min(axis=0), corners.max(axis=0)
        if (high < 0).any() or low[0] >= shape[1] or low[1] >= shape[0]:
            raise DatasetError(f"a polygon lies outside the frame of {shape[1]} x {shape[0]} pixels", path=path)
        cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], int(code))
    return mask


def _pixels(path: Path, codes: Mapping[Code, int] | None) -> NDArray[np.uint8]:
    """(H, W) gray values or palette indices, or (H, W, 3) colours, whichever the codes speak of."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    colours = codes is not None and isinstance(next(iter(codes)), tuple)
    try:
        with Image.open(path, formats=("PNG", "JPEG", "BMP", "TIFF", "GIF")) as image:
            if colours or (image.mode == "P" and codes is None) or image.mode not in ("1", "L", "P", "I", "I;16"):
                return np.array(image.convert("RGB"))
            # 1-bit images become 0 and 255 in "L"; palettes keep their indices, which are the codes.
            return np.minimum(np.asarray(image.convert("L") if image.mode == "1" else image), 255).astype(np.uint8)
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise DatasetError("the mask cannot be decoded", path=path, remedy="copy it again from its source") from error


def _filled(outline: NDArray[np.uint8], how: str) -> NDArray[np.uint8]:
    import cv2
    import numpy as np

    filled = np.zeros_like(outline)
    if how == "ellipse":
        points = np.argwhere(outline)[:, ::-1]
        if len(points) >= 5:
            cv2.ellipse(filled, cv2.fitEllipseDirect(points.astype(np.float32)), 255, -1)
        return filled
    contours, _ = cv2.findContours(outline, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(filled, contours, -1, 255, -1)


def _fitted(mask: NDArray[np.uint8], shape: Shape, path: Path, resize: bool) -> NDArray[np.uint8]:
    if mask.shape == shape:
        return mask
    if not resize:
        raise DatasetError(
            f"the mask has {mask.shape[1]} x {mask.shape[0]} pixels, its frame {shape[1]} x {shape[0]}", path=path
        )
    import cv2

    return cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)


def _check_frame(frames: frozenset[int] | None, frame: int, path: Path) -> None:
    if frames is not None and frame not in frames:
        raise DatasetError(f"frame {frame} is not annotated; annotated are {sorted(frames)[:20]}", path=path)
