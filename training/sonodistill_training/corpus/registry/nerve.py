"""Nerve data sets: brachial plexus clips (Regional-US), UBPD, porcine spinal cord."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.core import DataSet, Licence, unknown_licence
from sonodistill_training.corpus.registry.labels import FramePolygons, ImageMask, Polygon, Shape, fill_polygons
from sonodistill_training.corpus.registry.parse import JSON_LIMIT, read_xml
from sonodistill_training.corpus.registry.readers import Files, Known, Masks

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def _box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """The rectangle whose last pixels are right - 1 and bottom - 1."""
    return [(left, top), (right - 1, top), (right - 1, bottom - 1), (left, bottom - 1)]


def _text(path: Path) -> str:
    """The file's text; bytes that are no UTF-8 are replaced (paths in other encodings stand beside what is needed)."""
    if path.stat().st_size > JSON_LIMIT:
        raise DatasetError(f"is larger than {JSON_LIMIT >> 20} MiB", path=path)
    return path.read_bytes().decode("utf-8", errors="replace")


def _check_still(frame: int, path: Path) -> None:
    if frame:
        raise DatasetError(f"annotates one image and no frame {frame}", path=path)


def frame_boxes(paths: tuple[Path, ...]) -> FramePolygons:
    """Boxes by frame, a line each: ``{"0": {"tracker": "human", "bounding_boxes": "[[x, y, width, height]]"}}``.

    Errors: DatasetError for any other line.
    """
    boxes: dict[int, list[tuple[Polygon, int]]] = {}
    for line in filter(None, map(str.strip, _text(paths[0]).splitlines())):
        try:
            for frame, entry in json.loads(line).items():
                found = json.loads(entry["bounding_boxes"])
                boxes[int(frame)] = [(_box(x, y, x + width, y + height), 255) for x, y, width, height in found]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DatasetError(
                f"has a line that holds no boxes ({error})", path=paths[0], remedy="copy it again"
            ) from error
    return FramePolygons(paths[0], boxes)


BRACHIAL_PLEXUS = DataSet(
    key="brachial_plexus",
    name="Supraclavicular brachial plexus (Regional-US)",
    anatomy="nerve (brachial plexus)",
    modality="B-mode clips of Butterfly and Sonosite probes, three gains (MP4)",
    size="163 clips by its readme; 30 were seen in the list of its files",
    licence=Licence(
        "non-commercial data use agreement", None, False, "the readme names the agreement and does not give its text"
    ),
    url="https://github.com/Regional-US/brachial_plexus",
    doi="",
    citation="Tyagi A. et al. Automated Real Time Delineation of Supraclavicular Brachial Plexus in Neck "
    "Ultrasonography Videos: A Deep Learning Approach. 2024.",
    access="clone the repository",
    layout="data/{Butterfly,Sonosite}/videos/ID.mp4, bb_annotations/ID.txt, ac_masks/ID/ID_NNN.jpg, subjects_data.csv, "
    "Sonosite/needle/; from the repository's list of files and one annotation file",
    grouping="clip: subjects are not published",
    table1="Brachial Plexus",
    notes="Masks are the union of the boxes of a frame, which its authors take for one mask; most were carried on by a "
    "tracker. The finer outlines of ac_masks are not read.",
    adapter=(
        Files(
            r"data/(?P<scanner>[^/]+)/videos/(?P<clip>[^/]+)\.mp4",
            group="{scanner}/{clip}",
            label="{scanner}",
            mask=Masks("data/{scanner}/bb_annotations/{clip}.txt", make=frame_boxes),
        ),
        Known(
            r"data/[^/]+/(?:ac_masks|needle)/.*|data/[^/]+/subjects_data\.csv|data/demo/.*"
            r"|(?!data/).*\.(?:ipynb|py|ini|md|pdf|gif|txt|pth?|png|jpg)"
        ),
    ),
)


@dataclass(frozen=True, slots=True)
class LabelMe:
    """Polygons of a LabelMe file, each with the code of its label; labels without a code are background.

    Attributes:
        path: the file.
        codes: class code by label.
    """

    path: Path
    codes: Mapping[str, int]
    frames: frozenset[int] | None = frozenset({0})

    def load(self, shape: Shape, frame: int = 0) -> NDArray[np.uint8]:
        _check_still(frame, self.path)
        try:
            shapes = json.loads(_text(self.path))["shapes"]
            polygons = [
                ([(float(x), float(y)) for x, y in outline["points"]], self.codes[outline["label"]])
                for outline in shapes
                if outline["label"] in self.codes
            ]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise DatasetError(
                f"is no annotation of LabelMe ({error})", path=self.path, remedy="copy it again"
            ) from error
        return fill_polygons(shape, polygons, self.path)


_TISSUES = {"dongmai": 1, "jingmai": 2, "jirouzuzhi": 3, "shenjing": 4, "zhifang": 5, "jizhu": 6}


def _tissues(paths: tuple[Path, ...]) -> LabelMe:
    return LabelMe(paths[0], _TISSUES)


UBPD = DataSet(
    key="ubpd",
    name="Ultrasound Brachial Plexus Dataset (UBPD)",
    anatomy="nerve (brachial plexus)",
    modality="B-mode stills (JPEG)",
    size="how many images and patients was not verified",
    licence=unknown_licence("the terms of its web site were not seen"),
    url="https://ubpd.worldwidetracing.com:9443/",
    doi="",
    citation="Ding Y., Yang Q., Wang Y., Chen D., Qin Z., Zhang J. MallesNet: A multi-object assistance based "
    "network for brachial plexus segmentation in ultrasound images. Medical Image Analysis 80, 2022.",
    access="its web site",
    layout="JPEGImages/ID.jpg, json_train/ID.json (LabelMe, labels in pinyin); from two public loaders of it, not "
    "verified on the data",
    grouping="image: which images are of one patient is not known from the names",
    table1="UBPD",
    notes="Mask codes: 1 artery, 2 vein, 3 muscle, 4 nerve, 5 fat, 6 spine; later outlines lie over earlier ones. "
    "Images of one patient may be parted by a split.",
    adapter=(
        Files(
            r"JPEGImages/[^/]+\.jpe?g",
            group="{stem}",
            mask=Masks("json_*/{stem}.json", make=_tissues),
        ),
        Known(r"json_[^/]+/[^/]+\.json|[^/]*readme[^/]*"),
    ),
)

_CORD = {
    (128, 0, 128): 1,
    (128, 0, 0): 2,
    (0, 128, 0): 3,
    (128, 128, 0): 4,
    (0, 0, 128): 5,
    (0, 128, 128): 6,
    (64, 0, 0): 7,
    (128, 128, 128): 8,
    (192, 0, 0): 9,
}


@dataclass(frozen=True, slots=True)
class VocBoxes:
    """Boxes of a Pascal VOC file; a file without an object is an empty mask."""

    path: Path
    frames: frozenset[int] | None = frozenset({0})

    def load(self, shape: Shape, frame: int = 0) -> NDArray[np.uint8]:
        _check_still(frame, self.path)
        corners = ("xmin", "ymin", "xmax", "ymax")
        try:
            boxes = [
                _box(*(float(box.findtext(corner, "")) for corner in corners))
                for box in read_xml(self.path).iter("bndbox")
            ]
        except ValueError as error:
            raise DatasetError(
                f"has a box without numbers ({error})", path=self.path, remedy="copy it again"
            ) from error
        return fill_polygons(shape, [(box, 255) for box in boxes], self.path)


def _injury(paths: tuple[Path, ...]) -> VocBoxes:
    return VocBoxes(paths[0])


_FRAME = r"(?P<series>predict\d+)[^/]*\.png"

SPINAL_CORD_INJURY = DataSet(
    key="spinal_cord_injury",
    name="Porcine spinal cord injury localization and segmentation",
    anatomy="spinal cord (pig)",
    modality="sagittal intraoperative B-mode stills, 690 x 275 (PNG)",
    size="2,245 images of 23 pigs with boxes, 10,223 of 25 pigs with masks",
    licence=unknown_licence("the repository states none for the data; ask its authors before passing it on"),
    url="https://github.com/avishakumar21/ultrasound_spinal_cord_dataset",
    doi="10.1038/s41598-025-16275-z",
    citation="Kumar A. et al. A novel open-source ultrasound dataset with deep learning benchmarks for spinal cord "
    "injury localization and anatomical segmentation. Scientific Reports, 2025.",
    access="two archives on Google Drive, without registration",
    layout="Final dataset for object detection/{train,val,test}/predictN_scaled-AMMMM_frameK.{png,xml}, "
    "SegmentationDataset/{train,val,test}_{images,masks}/*.png; from the readme and public loaders, not verified on "
    "the data",
    grouping="series (predictN of the name), taken for the pig or coarser",
    table1="Injury Loc.",
    notes="The published folders train, val and test seem to divide series, so they are not given as splits. Masks "
    "are boxes "
    "of the injury, or codes 1 blood, 2 dura, 3 pia, 4 fluid, 5 cord, 6 haematoma, 7 dura and pia, 8 extradural, 9 "
    "dura and bone. The table counts the first part; both hold the same images in part. Animals, not patients.",
    adapter=(
        Files(
            rf"Final dataset for object detection/(?:train|val|test)/{_FRAME}",
            group="{series}",
            mask=Masks("{dir}/{stem}.xml", make=_injury),
        ),
        Files(
            rf"SegmentationDataset/(?P<split>train|val|test)_images/{_FRAME}",
            group="{series}",
            mask=Masks("SegmentationDataset/{split}_masks/{name}", make=partial(ImageMask, codes=_CORD)),
            optional=True,
        ),
        Known(r"[^/]*readme[^/]*"),
    ),
)

DATA_SETS = (BRACHIAL_PLEXUS, UBPD, SPINAL_CORD_INJURY)
