"""Lung data sets: the Leeds phantom, COVID-BLUES, POCUS."""

from __future__ import annotations

import re
from functools import partial

from sonodistill_training.corpus.registry.core import DataSet, Licence, unknown_licence
from sonodistill_training.corpus.registry.labels import ImageMask
from sonodistill_training.corpus.registry.readers import Fields, Files, Known, Masks, Table


def _clip(fields: Fields) -> str:
    """Frames are named CLIP-F<number>."""
    return re.sub(r"-F\d+$", "", fields["stem"], flags=re.IGNORECASE)


LUS_PHANTOM = DataSet(
    key="lus_phantom",
    name="Leeds lung ultrasound phantom",
    anatomy="lung (phantom)",
    modality="B-mode stills (PNG) and clips of two seconds (WebM)",
    size="564 annotated images, 297 clips",
    licence=unknown_licence("see the record of the University of Leeds before passing it on"),
    url="https://archive.researchdata.leeds.ac.uk/1263/",
    doi="10.5518/1485",
    citation="Howell L., Ingram N., Lapham R., Morrell A., McLaughlan J.R. Deep learning for real-time multi-class "
    "segmentation of artefacts in lung ultrasound. Ultrasonics 140:107251, 2024.",
    access="download without registration",
    layout="data*/{train,test}/{images,masks}/*.png (same names), VideoClips/*.webm, vidtoImage.m; from two public "
    "loaders of it, not verified on the data",
    grouping="clip: what precedes -F<number> in a frame's name, the whole name where there is none",
    published={"items": 564, "masks": 564},
    table1="LUS Phantom",
    notes="Masks hold 1 rib, 2 pleural line, 3 A-line, 4 B-line, 5 confluent B-line. Phantoms, not patients. "
    "The clips hold the annotated frames again.",
    adapter=(
        Files(
            r"(?P<data>(?:data(?:-\d+)?/)?)(?P<split>train|test)/images/[^/]+\.png",
            group=_clip,
            split="{split}",
            mask=Masks(
                "{data}{split}/masks/{name}", make=partial(ImageMask, codes={value: value for value in range(1, 6)})
            ),
        ),
        Files(r"VideoClips/[^/]+\.(?:webm|mkv|mp4|avi)", group="{stem}", optional=True),
        Known(r"[^/]+\.(?:m|txt|md|pdf)"),
    ),
)

COVID_BLUES = DataSet(
    key="covid_blues",
    name="COVID-BLUES (bluepoint-specific lung ultrasound)",
    anatomy="lung",
    modality="clips of 60 to 100 frames at the six BLUE points, Philips Lumify, convex probe (MP4)",
    size="362 clips (31,746 frames) of 63 patients",
    licence=Licence(
        "CC BY-NC-ND 4.0",
        True,
        False,
        "the readme; its LICENSE file is CC BY-ND 4.0. Only unmodified copies may be passed on: no frames, crops or "
        "shards",
    ),
    url="https://github.com/NinaWie/COVID-BLUES",
    doi="",
    citation="Wiedemann N. et al. COVID-BLUES: a prospective study on the value of AI in lung ultrasound analysis. "
    "2025.",
    access="clone the repository",
    layout="lus_videos/patient_N_{L,R}{1,2,3}[_2].mp4, severity.csv, clinical_variables.csv, "
    "variable_explanations.csv; from the repository's readme and list of files",
    grouping="patient",
    published={"items": 362, "groups": 63},
    table1="COVID-BLUES",
    notes="Label is the severity score (Soldati) of two experts; the PCR result is in clinical_variables.csv.",
    adapter=(
        Files(
            r"lus_videos/(?P<patient>patient_\d+)_[LR][123](?:_\d)?\.mp4",
            group="{patient}",
            label="{Severity Score}",
            labels={f"{score}.0": f"severity {score}" for score in range(4)},
            table=Table("severity.csv", key="{video_file}", partial=True),
        ),
        Known(r"(?:clinical_variables|variable_explanations)\.csv|LICENSE|README\.md|appendix\.pdf"),
    ),
)


def _patient(fields: Fields) -> str:
    """The patient of the table of metadata; else what a name says; else the clip."""
    patient = fields["Patient ID / Name"].strip()
    if patient and patient.lower() not in ("nd", "n/a", "na", "unknown", "-"):
        return f"patient {patient}"
    named = re.match(r"(.*?(?:pat|set)\d+)(?=image|_vid)", fields["stem"], re.IGNORECASE)
    return named[1] if named else fields["stem"]


POCUS_LUNG = DataSet(
    key="pocus_lung",
    name="POCUS lung ultrasound (Born et al.)",
    anatomy="lung",
    modality="clips and stills of many devices, convex and linear probes, cropped by the authors",
    size="227 clips and 59 images in October 2020, from many publications and web sites",
    licence=Licence(
        "one a file",
        None,
        None,
        "column License of dataset_metadata.csv (CC BY, CC BY-NC, none stated): keep only the files whose terms suit "
        "you",
    ),
    url="https://github.com/jannisborn/covid19_ultrasound",
    doi="10.3390/app11020672",
    citation="Born J. et al. Accelerating Detection of Lung Pathologies with Explainable Ultrasound Image Analysis. "
    "Applied Sciences 11:672, 2021.",
    access="clone the repository",
    layout="data/pocus_{videos,images}/{convex,linear}/{Cov,Pneu,Vir,Reg}*, data/dataset_metadata.csv; from the "
    "repository's list of files",
    grouping="patient where the metadata or the name tells, else clip",
    notes="Other folders of the repository (CT, X-ray, unused clips, clips with arrows) are no items.",
    adapter=(
        Files(
            r"pocus_(?:videos|images)/(?:convex|linear)/(?P<finding>cov|pneu|vir|reg)[^/]*"
            r"\.(?:mp4|m4v|mov|avi|mkv|mpe?g|gif|png|jpe?g|bmp)",
            group=_patient,
            label=lambda fields: fields["finding"].lower(),
            labels={"cov": "covid", "pneu": "pneumonia", "vir": "viral pneumonia", "reg": "regular"},
            table=Table("dataset_metadata.csv", key="{Filename}", complete=False, required=False, partial=True),
        ),
        Known(r"(?:pocus|ct|xray|x-ray|data_with_artifacts|viral)/.*|[^/]+\.(?:csv|json|md|py|sh)"),
    ),
)

DATA_SETS = (LUS_PHANTOM, COVID_BLUES, POCUS_LUNG)
