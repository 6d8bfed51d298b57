"""Cardiac data sets: CACTUS, CAMUS, EchoCP, EchoNet-Dynamic."""

from __future__ import annotations

import csv
from dataclasses import replace
from functools import partial
from pathlib import Path

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.core import DataSet, Findings, Licence, Tree, cc_by_nc_sa, unknown_licence
from sonodistill_training.corpus.registry.labels import FramePolygons, Polygon, VolumeMask
from sonodistill_training.corpus.registry.parse import CSV_LIMIT
from sonodistill_training.corpus.registry.readers import Custom, Files, Known, Masks, Table

CACTUS = DataSet(
    key="cactus",
    name="Cardiac Assessment and ClassificaTion of UltraSound (CACTUS)",
    anatomy="heart (phantom)",
    modality="B-mode stills (JPEG) and clips of a CAE Blue Phantom",
    size="37,736 images of one phantom, six views, graded 0 to 10",
    licence=unknown_licence("the data set's page states none; see the record 10.20383/103.01484 before passing it on"),
    url="https://users.encs.concordia.ca/~kadem/cactus/",
    doi="10.20383/103.01484",
    citation="Elmekki H. et al. CACTUS: An open dataset and framework for automated Cardiac Assessment and "
    "Classification "
    "of Ultrasound images using deep transfer learning. Computers in Biology and Medicine 190:110003, 2025.",
    access="download from the data set's page (FRDR) or Academic Torrents, 13 GB, without registration",
    layout="Cactus Dataset/Images Dataset/{A4C,SC,PL,PSAV,PSMV,Random}/*.jpg, Grades/VIEW_grades.csv, "
    "Videos/{Training,Real Time Scan}/*.mp4; from a public loader of it, not verified on the data",
    grouping="the view's folder, or the video: scans are not told apart in names",
    published={
        "label:A4C": 7422,
        "label:SC": 6345,
        "label:PL": 6102,
        "label:PSAV": 5832,
        "label:PSMV": 6014,
        "label:Random": 6021,
    },
    table1="Cactus Dataset",
    notes="One phantom: no split keeps its anatomy apart, and images are frames of a few scans. Random holds other "
    "views. Grades stay in their tables.",
    adapter=(
        Files(
            r"Images Dataset/(?P<view>A4C|SC|PL|PSAV|PSMV|Random)/[^/]+\.(?:jpe?g|png)",
            group="{view}",
            label="{view}",
        ),
        Files(r"Videos/(?P<part>[^/]+)/[^/]+\.mp4", group="{part}/{stem}", optional=True),
        Known(r"(?:Grades|Videos/[^/]+)/[^/]+\.csv|[^/]*readme[^/]*"),
    ),
)


_SUBGROUPS = {"subgroup_training": "train", "subgroup_validation": "validation", "subgroup_testing": "test"}


def _patients(path: Path) -> list[dict[str, str]]:
    """A row a line: the patients of one split."""
    return [{"patient": patient} for patient in path.read_text(encoding="utf-8").split()]


CAMUS = DataSet(
    key="camus",
    name="Cardiac Acquisitions for Multi-structure Ultrasound Segmentation (CAMUS)",
    anatomy="heart",
    modality="apical two- and four-chamber B-mode half cycles, GE Vivid E95 (NIfTI)",
    size="1,000 sequences of 500 patients",
    licence=cc_by_nc_sa("the data set's page; cite the paper"),
    url="https://humanheart-project.creatis.insa-lyon.fr/database/#collection/6373703d73e9f0047faa1bc8",
    doi="10.1109/TMI.2019.2900516",
    citation="Leclerc S. et al. Deep Learning for Segmentation Using an Open Large-Scale Dataset in 2D "
    "Echocardiography. IEEE Transactions on Medical Imaging 38:2198-2210, 2019.",
    access="download without registration",
    layout="database_nifti/patientNNNN/patientNNNN_{2CH,4CH}_half_sequence[_gt].nii.gz, _ED and _ES stills, "
    "Info_{2CH,4CH}.cfg; "
    "database_split/subgroup_{training,validation,testing}.txt; from several public loaders, not verified on the data",
    grouping="patient",
    published={"items": 1000, "groups": 500, "masks": 1000},
    table1="CAMUS",
    notes="Masks hold 1 endocardium, 2 epicardium (myocardium), 3 left atrium, on every frame. The ED and ES stills "
    "are the ends of the sequences and are not listed again. The MetaImage release of 2019 is laid out otherwise.",
    adapter=(
        Files(
            r"database_nifti/(?P<patient>patient\d{4})/patient\d{4}_(?P<view>[24]CH)_half_sequence\.nii\.gz",
            group="{patient}",
            label="{view}",
            split=lambda fields: _SUBGROUPS.get(fields["table.stem"].lower(), ""),
            axis=0,
            mask=Masks("{dir}/{stem}_gt.nii.gz", make=partial(VolumeMask, codes={1: 1, 2: 2, 3: 3})),
            table=Table(
                "database_split/subgroup_*.txt",
                key="{patient}",
                match="{patient}",
                rows=_patients,
                required=False,
            ),
        ),
        Known(
            r"database_nifti/patient\d{4}/(?:Info_[24]CH\.cfg|patient\d{4}_[24]CH_(?:ED|ES)(?:_gt)?\.nii\.gz)"
            r"|database_split/[^/]+\.txt|[^/]*readme[^/]*"
        ),
    ),
)

ECHOCP = DataSet(
    key="echocp",
    name="EchoCP: contrast transthoracic echocardiography for patent foramen ovale",
    anatomy="heart",
    modality="apical four-chamber clips with agitated saline, at rest and during the Valsalva manoeuvre (NIfTI)",
    size="60 clips of 30 patients",
    licence=unknown_licence("no terms were found with the data; ask its authors before passing it on"),
    url="https://www.kaggle.com/datasets/xiaoweixumedicalai/echocp",
    doi="10.48550/arXiv.2105.08267",
    citation="Wang T. et al. EchoCP: An Echocardiography Dataset in Contrast Transthoracic Echocardiography for Patent "
    "Foramen Ovale Diagnosis. MICCAI 2021.",
    access="Kaggle account; join the parts (.z01 and .change2zip, to be renamed .zip) with `zip -s 0`, then extract",
    layout="EchoCP_dataset/NNN_{r,v}_{image,label}.nii.gz, echoCP_diagnosis_label.xlsx; from two public loaders of it, "
    "not verified on the data; axis 0 is taken for time",
    grouping="patient",
    published={"items": 60, "groups": 30},
    table1="EchoCP",
    notes="Label is the manoeuvre; the grade of the shunt is in a spreadsheet that is not read. Masks keep the "
    "published values (heart chambers). The table dates the paper 2020; it appeared in 2021.",
    adapter=(
        Files(
            r"EchoCP_dataset/(?P<patient>\d+)_(?P<state>[rv])_image\.nii\.gz",
            group="{patient}",
            label="{state}",
            labels={"r": "rest", "v": "valsalva"},
            axis=0,
            mask=Masks(
                "{dir}/{patient}_{state}_label.nii.gz",
                make=partial(VolumeMask, codes={value: value for value in range(1, 9)}),
            ),
        ),
        Known(r"echoCP_diagnosis_label\.xlsx|[^/]*readme[^/]*"),
    ),
)

_ECHONET_SPLITS = {"TRAIN": "train", "VAL": "validation", "TEST": "test"}
_TRACINGS = "VolumeTracings.csv"
_ECHONET_VIDEOS = Files(
    r"Videos/[^/]+\.avi",
    group="{stem}",
    split=lambda fields: _ECHONET_SPLITS.get(fields["Split"].upper(), ""),
    table=Table("FileList.csv", key="{FileName}", match="{stem}"),
)


def _echonet(tree: Tree) -> Findings:
    """The videos, with the tracings of all of them read once."""
    found = _ECHONET_VIDEOS.find(tree)
    name = tree.get(_TRACINGS)
    if name is None:
        found.missing.append(_TRACINGS)
        return found
    found.claimed.add(name)
    path = tree.path(name)
    traced = _tracings(path)
    for video, item in found.items.items():
        frames = traced.get(item.file.stem.lower())
        if frames:
            found.items[video] = replace(item, mask=FramePolygons(path, frames))
    return found


def _tracings(path: Path) -> dict[str, dict[int, list[tuple[Polygon, int]]]]:
    """Outlines of the left ventricle by video (lower case, without suffix) and frame, streamed: 425,000 lines.

    Each line is a chord (X1, Y1, X2, Y2) of its frame. The first is the long axis; the others are the disks of
    Simpson's method from apex to base, whose ends make the outline.
    """
    if path.stat().st_size > CSV_LIMIT:
        raise DatasetError(f"is larger than {CSV_LIMIT >> 20} MiB", path=path)
    chords: dict[str, dict[int, list[tuple[float, ...]]]] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            columns = next(lines, [])
            name, *ends, number = (columns.index(column) for column in ("FileName", "X1", "Y1", "X2", "Y2", "Frame"))
            for row in filter(None, lines):
                video = row[name].lower().removesuffix(".avi")
                chord = tuple(float(row[end]) for end in ends)
                chords.setdefault(video, {}).setdefault(int(row[number]), []).append(chord)
    except (ValueError, IndexError, csv.Error) as error:
        raise DatasetError(
            f"is no table of FileName, X1, Y1, X2, Y2, Frame ({error})", path=path, remedy="copy it again"
        ) from error
    return {
        video: {frame: [(_outline(lines), 255)] for frame, lines in frames.items() if len(lines) > 2}
        for video, frames in chords.items()
    }


def _outline(chords: list[tuple[float, ...]]) -> Polygon:
    disks = chords[1:]
    return [chord[:2] for chord in disks] + [chord[2:] for chord in reversed(disks)]


ECHONET_DYNAMIC = DataSet(
    key="echonet_dynamic",
    name="EchoNet-Dynamic",
    anatomy="heart",
    modality="apical four-chamber B-mode clips, masked and scaled to 112 x 112 (AVI)",
    size="10,030 clips of as many patients",
    licence=Licence(
        "Stanford University Dataset Research Use Agreement",
        False,
        False,
        "accept it at Stanford AIMI; research only; neither the data nor a derived corpus may be passed on",
    ),
    url="https://echonet.github.io/dynamic/",
    doi="10.1038/s41586-020-2145-8",
    citation="Ouyang D. et al. Video-based AI for beat-to-beat assessment of cardiac function. Nature 580:252-256, "
    "2020.",
    access="registration and agreement at Stanford AIMI",
    layout="Videos/*.avi, FileList.csv (FileName, EF, ..., Split), VolumeTracings.csv (FileName, X1, Y1, X2, Y2, "
    "Frame); from the authors' loader (echonet/dynamic), not verified on the data",
    grouping="patient (one clip each)",
    published={"items": 10030},
    table1="EchoNet-Dynamic",
    notes="Masks are the left ventricle on two frames of a clip; a few clips have none.",
    adapter=(Custom(_ECHONET_VIDEOS.pattern, _echonet), Known(r"FileList\.csv|VolumeTracings\.csv|[^/]*readme[^/]*")),
)

DATA_SETS = (CACTUS, CAMUS, ECHOCP, ECHONET_DYNAMIC)
