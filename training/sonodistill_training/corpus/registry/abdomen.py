"""Abdomen data sets: 105US, AbdomenUS, AUL, the Open Kidney data set, GIST514-DB."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.core import (
    DataSet,
    Findings,
    Item,
    Tree,
    cc_by,
    cc_by_nc_sa,
    unknown_licence,
)
from sonodistill_training.corpus.registry.labels import FramePolygons, ImageMask, Polygon, PolygonMask, json_polygon
from sonodistill_training.corpus.registry.parse import read_json, read_rows
from sonodistill_training.corpus.registry.readers import Custom, Fields, Files, Known, Masks, Table, path_fields

US105 = DataSet(
    key="us105",
    name="105 US images of liver metastases of pancreatic cancer",
    anatomy="liver",
    modality="B-mode stills of several scanners (PNG)",
    size="105 images",
    licence=unknown_licence("the data's page states none; ask its authors before passing it on"),
    url="https://www.researchgate.net/publication/329586355_100_2D_US_Images_and_Tumor_Segmentation_Masks",
    doi="10.1038/s41598-017-12925-z",
    citation="Hann A. et al. Algorithm guided outlining of 105 pancreatic cancer liver metastases in Ultrasound. "
    "Scientific Reports 7:12779, 2017.",
    access="ResearchGate",
    layout="105 US Images/NNN.png, readme.txt; 105 US Masks/NNN G man.png; from two public loaders of it, not "
    "verified on the data",
    grouping="image: patients are not published",
    published={"items": 105, "masks": 105},
    table1="105 US Images",
    notes="Masks are gray; above half is taken for the lesion.",
    structure="lesion",
    adapter=(
        Files(
            r"105 US Images/(?P<number>\d+)\.png",
            group="{number}",
            mask=Masks("105 US Masks/{number} G man.png", make=partial(ImageMask, above=127)),
        ),
        Known(r"(?:105 US Images/)?readme\.txt"),
    ),
)

_ORGANS = {
    (100, 0, 100): 1,
    (255, 255, 0): 2,
    (0, 0, 255): 3,
    (255, 0, 0): 4,
    (0, 255, 255): 5,
    (0, 255, 0): 6,
    (255, 255, 255): 7,
    (255, 0, 255): 8,
}


def _simulated_from(fields: Fields) -> str:
    """The CT scan (ct14-1.png) that a simulated image was cast from; real images stand alone."""
    scan = re.match(r"(ct\d+)[-_]", fields["stem"], re.IGNORECASE)
    return f"{fields['kind']}/{scan[1] if scan else fields['stem']}".lower()


ABDOMENUS = DataSet(
    key="abdomenus",
    name="US simulation & segmentation (AbdomenUS)",
    anatomy="abdomen (liver, kidney, pancreas, vessels, adrenals, gallbladder, bones, spleen)",
    modality="real B-mode stills (RUS) and stills simulated from CT by ray casting (AUS), PNG and JPEG",
    size="617 real images (61 annotated), 926 simulated ones",
    licence=unknown_licence("the terms on its Kaggle page were not seen"),
    url="https://www.kaggle.com/datasets/ignaciorlando/ussimandsegm",
    doi="10.1007/s11548-019-02046-5",
    citation="Vitale S., Orlando J.I., Iarussi E., Larrabide I. Improving realism in patient-specific abdominal "
    "ultrasound simulation using CycleGANs. International Journal of CARS 15:183-192, 2020.",
    access="Kaggle account",
    layout="abdominal_US/{RUS,AUS}/{images,annotations}/{train,test}/NAME.{png,jpg}; RUS/annotations only of the test "
    "images; from several public loaders of it, not verified on the data",
    grouping="CT scan (simulated), image (real: patients are not published)",
    published={"label:real": 617, "label:simulated": 926},
    table1="AbdomenUS",
    notes="Label tells real from simulated: leave the simulated ones out of a corpus of real ultrasound. Mask codes "
    "1 to 8 follow the organs above.",
    adapter=(
        Files(
            r"(?P<kind>RUS|AUS)/images/(?P<split>train|test)/[^/]+\.(?:png|jpe?g)",
            group=_simulated_from,
            label=lambda fields: "real" if fields["kind"].lower() == "rus" else "simulated",
            split="{split}",
            mask=Masks("{kind}/annotations/{split}/{stem}.png", make=partial(ImageMask, codes=_ORGANS), required=False),
        ),
        Known(r"[^/]*readme[^/]*"),
    ),
)


def _mass(paths: tuple[Path, ...]) -> PolygonMask:
    return PolygonMask(paths[0], json_polygon)


AUL = DataSet(
    key="aul",
    name="Annotated Ultrasound Liver images (AUL)",
    anatomy="liver",
    modality="B-mode stills (JPEG)",
    size="735 images: 200 benign, 435 malignant, 100 normal",
    licence=cc_by("the Zenodo record"),
    url="https://zenodo.org/records/7272660",
    doi="10.5281/zenodo.7272660",
    citation="Xu Y. et al. Annotated Ultrasound Liver images. Zenodo, 2022.",
    access="download without registration",
    layout="{Benign,Malignant,Normal}/image/N.jpg, .../segmentation/{mass,liver,outline}/N.json (corners of one "
    "polygon); checked on the data",
    grouping="image (of one patient each)",
    published={"items": 735, "masks": 635, "label:benign": 200, "label:malignant": 435, "label:normal": 100},
    table1="AULI",
    notes="Masks are the mass; normal livers have none. Outlines of the liver and of the sector lie beside them, "
    "that of the liver missing once. The table calls it AULI and its author Yiming (his first name).",
    structure="mass",
    adapter=(
        Files(
            r"(?P<class>Benign|Malignant)/image/\d+\.jpg",
            group="{class}/{stem}",
            label=lambda fields: fields["class"].lower(),
            mask=Masks("{class}/segmentation/mass/{stem}.json", make=_mass),
        ),
        Files(r"Normal/image/\d+\.jpg", group="Normal/{stem}", label="normal", optional=True),
        Known(r"(?:Benign|Malignant|Normal)/segmentation/(?:liver|outline)/\d+\.json|[^/]*readme[^/]*"),
    ),
)


def _views(path: Path) -> list[dict[str, str]]:
    """A row an image from a table of the VGG Image Annotator, which has a row a region and JSON in a column."""
    rows: dict[str, dict[str, str]] = {}
    for row in read_rows(path):
        view = re.search(r'"View"\s*:\s*"([^"]*)"', row.get("file_attributes", ""))
        rows.setdefault(row.get("filename", ""), {"filename": row.get("filename", ""), "view": view[1] if view else ""})
    return list(rows.values())


KIDNEYUS = DataSet(
    key="kidneyus",
    name="Open Kidney Ultrasound Data Set",
    anatomy="kidney (native and transplant)",
    modality="B-mode stills of several scanners (PNG)",
    size="over 500 images of as many patients",
    licence=cc_by_nc_sa("the repository's readme; registration is required"),
    url="https://github.com/rsingla92/kidneyUS",
    doi="10.48550/arXiv.2206.06657",
    citation="Singla R. et al. The open kidney ultrasound data set. arXiv:2206.06657, 2022.",
    access="registration for the images; the annotations are in the repository (labels/)",
    layout="kidneyUS_images*/ or images/: N_IM-EXAM-FRAME_anon.png; beside it "
    "labels/reviewed_masks_{1,2}/{capsule,regions}/ "
    "(same names) and labels/reviewed_labels_{1,2}.csv; labels from the repository, images from two public loaders, "
    "not verified on the data",
    grouping="exam number (IM-EXAM): coarser than patient, and it holds the 20 images that come twice together",
    table1="KidneyUS",
    notes="Masks are the capsule as the first sonographer drew it. About 20 images come twice.",
    structure="kidney",
    adapter=(
        Files(
            r"(?:kidneyUS_images[^/]*|images)/\d+_(?P<exam>IM-\d+)-[\d-]+_anon\.png",
            group="{exam}",
            label=lambda fields: fields["view"].lower(),
            mask=Masks("labels/reviewed_masks_1/capsule/{name}", required=False),
            table=Table(
                "labels/reviewed_labels_1.csv",
                key="{filename}",
                match="{name}",
                rows=_views,
                complete=False,
                required=False,
                partial=True,
            ),
        ),
        Known(r"(?:labels|src)/.*|[^/]+\.(?:md|pdf|docx|xlsx|csv|png|txt)|LICENSE"),
    ),
)

_GIST_FOLDER = "usd514_jpeg_roi"
_LESIONS = {1: "leiomyoma", 2: "gist"}


def _gist(tree: Tree) -> Findings:
    """Images with lesions of one annotation file in COCO's format, or of the two of a split where it is not there."""
    found = Findings()
    tables = tree.glob(f"{_GIST_FOLDER}/annotations/all_anno_crop.json") or tree.glob(
        f"{_GIST_FOLDER}/annotations/*_anno_crop_split_0.json"
    )
    if not tables:
        found.missing.append(f"{_GIST_FOLDER}/annotations/all_anno_crop.json")
    lesions: dict[str, tuple[Path, list[tuple[Polygon, int]]]] = {}
    for name in tables:
        found.claimed.add(name)
        path = tree.path(name)
        lesions.update({image: (path, shapes) for image, shapes in _coco(path).items()})
    for name in tree.glob(f"{_GIST_FOLDER}/images/*.jpg"):
        fields = path_fields(name)
        path, shapes = lesions.pop(fields["name"], (None, []))
        if not shapes:
            found.missing.append(f"{name}: no lesion in the annotations")
        label = _LESIONS.get(shapes[0][1], "") if shapes else ""
        mask = FramePolygons(path, {0: shapes}) if path and shapes else None
        found.items[name] = Item(tree.path(name), fields["stem"], label, mask)
        found.claimed.add(name)
    found.missing += [f"{_GIST_FOLDER}/images/{image}" for image in sorted(lesions)]
    return found


def _coco(path: Path) -> Mapping[str, list[tuple[Polygon, int]]]:
    """Polygons and categories by file name.

    Errors: DatasetError for what is not COCO's format, or holds run lengths instead of polygons.
    """
    value = read_json(path)
    try:
        names = {image["id"]: image["file_name"] for image in value["images"]}
        shapes: dict[str, list[tuple[Polygon, int]]] = {name: [] for name in names.values()}
        for lesion in value["annotations"]:
            for flat in lesion["segmentation"]:
                corners = [(float(x), float(y)) for x, y in zip(flat[::2], flat[1::2], strict=True)]
                shapes[names[lesion["image_id"]]].append((corners, int(lesion["category_id"])))
        return shapes
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"is no annotation in COCO's format ({error})", path=path, remedy="copy it again") from error


GIST514_DB = DataSet(
    key="gist514_db",
    name="GIST514-DB",
    anatomy="upper gastrointestinal tract",
    modality="endoscopic B-mode stills, cropped to the region (JPEG)",
    size="514 images: 251 gastrointestinal stromal tumours, 263 leiomyomas",
    licence=unknown_licence(
        "its repository states none; a public loader (torch-em) calls it CC BY-NC-SA 4.0: see the folder before use"
    ),
    url="https://github.com/howardchina/query2",
    doi="10.1016/j.compbiomed.2022.106424",
    citation="He Q. et al. Query2: Query over queries for improving gastrointestinal stromal tumour detection in an "
    "endoscopic ultrasound. Computers in Biology and Medicine 152:106424, 2023.",
    access="Google Drive, without registration",
    layout="usd514_jpeg_roi/images/*.jpg, usd514_jpeg_roi/annotations/{all_anno_crop,train_anno_crop_split_K,"
    "val_anno_crop_split_K}.json (COCO); from three public loaders of it, not verified on the data",
    grouping="image: patients are not published",
    published={"items": 514, "masks": 514, "label:gist": 251, "label:leiomyoma": 263},
    table1="GIST514-DB",
    notes="Mask codes: 1 leiomyoma, 2 stromal tumour. The table dates the paper 2022; it appeared in 2023.",
    adapter=(
        Custom(rf"{_GIST_FOLDER}/images/[^/]+\.jpg", _gist),
        Known(rf"{_GIST_FOLDER}/annotations/[^/]+\.json|[^/]*readme[^/]*"),
    ),
)

DATA_SETS = (US105, ABDOMENUS, AUL, KIDNEYUS, GIST514_DB)
