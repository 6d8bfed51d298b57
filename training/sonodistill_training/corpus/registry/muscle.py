"""Muscle data sets: transverse cross-sections (STMUS), and the fascicle images of TimTrack."""

from __future__ import annotations

import re

from sonodistill_training.corpus.registry.core import DataSet, Licence, cc_by
from sonodistill_training.corpus.registry.readers import IMAGE, Fields, Files, Known, Masks


def _subject(fields: Fields) -> str:
    """anon_<subject>_<image>: the subject, whichever muscle."""
    return re.sub(r"(?<=\d)_\d+$", "", fields["stem"])


STMUS = DataSet(
    key="stmus",
    name="Transverse musculoskeletal ultrasound for neuromuscular disease assessment (STMUS_NDA)",
    anatomy="muscle (biceps brachii, gastrocnemius medialis, tibialis anterior)",
    modality="transverse B-mode stills, linear probe (PNG)",
    size="3,917 images of 1,283 subjects",
    licence=cc_by("Mendeley Data; results must cite the article"),
    url="https://data.mendeley.com/datasets/3jykz7wz8d/1",
    doi="10.17632/3jykz7wz8d.1",
    citation="Marzola F., van Alfen N., Doorduin J., Meiburger K.M. Deep learning segmentation of transverse "
    "musculoskeletal ultrasound images for neuromuscular disease assessment. Computers in Biology and Medicine "
    "135:104623, 2021.",
    access="download without registration; the archive holds another, to be extracted too",
    layout="Polito-Radboud-DeepLearningUS/{BB,GM,TA}/{Healthy,Pathological}/{Images,Masks}/anon_SUBJECT_N.png, "
    "Segmentation_models/ (code and a second copy); from several public loaders of it, not verified on the data",
    grouping="subject, as named in the file (across muscles)",
    published={"items": 3917},
    table1="STMUS",
    notes="The masks are cross-sectional areas. Names of the form anon_SUBJECT_N were seen for TA alone; another "
    "name is taken for its own subject. Loaders report 3,910 pairs of image and mask.",
    adapter=(
        Files(
            r"(?P<muscle>BB|GM|TA)/(?P<state>Healthy|Pathological)/Images/[^/]+\.png",
            group=_subject,
            label=lambda fields: fields["state"].lower(),
            mask=Masks("{muscle}/{state}/Masks/{name}"),
        ),
        Known(r"Segmentation_models/.*|(?:BB|GM|TA)/[^/]+\.xlsx|[^/]+\.(?:m|txt|xlsx?|csv|pdf|md|mat)"),
    ),
)

_STILL = rf"[^/]+\.{IMAGE}"

MUSCLE_TIMTRACK = DataSet(
    key="muscle_timtrack",
    name="The four data sets of the TimTrack paper",
    anatomy="muscle (vastus lateralis, gastrocnemius)",
    modality="longitudinal B-mode stills of GE Logiq E9, Telemed and Philips HD11XE (PNG, BMP, JPEG)",
    size="339 images: 153, 56, 100 and 30",
    licence=Licence(
        "CC0 1.0 (data sets 1, 2), CC BY 4.0 (3, 4)",
        True,
        True,
        "Readme.md; cite the original sources of data sets 3 and 4",
    ),
    url="https://github.com/timvanderzee/ultrasound-automated-algorithm",
    doi="10.1371/journal.pone.0265752",
    citation="van der Zee T.J., Kuo A.D. TimTrack: A drift-free algorithm for estimating geometric muscle features "
    "from ultrasound images. PLoS ONE 17(3):e0265752, 2022; Drazan J. et al., PeerJ 7:e7120, 2019 (data set 3); "
    "Seynnes O., Cronin N., PLoS ONE 15(1):e0229034, 2020 (data set 4).",
    access="clone the repository: Example images/raw/TimTrack paper",
    layout="Readme.md, dataset_1/SN/*.png, dataset_2/TASK/*, dataset_3/SPEED/pN_*, dataset_4/{SampleA,SampleB}/*; "
    "data sets 1 and 4 checked on the data, 2 and 3 from names of their frames",
    grouping="subject (1, 3), task (2), sample (4)",
    notes="Not in the paper's table. Frames of one contraction are near-copies. Folders may be written with a blank "
    "(dataset 1).",
    adapter=(
        Files(rf"dataset[ _]1/(?P<subject>S\d+)/{_STILL}", group="1/{subject}", label="vastus lateralis"),
        Files(
            rf"dataset[ _]2/(?P<task>[^/]+)/{_STILL}", group="2/{task}", label="gastrocnemius lateralis", optional=True
        ),
        Files(
            rf"dataset[ _]3/[^/]+/(?P<subject>p\d+)_{_STILL}",
            group="3/{subject}",
            label="gastrocnemius medialis",
            optional=True,
        ),
        Files(
            rf"dataset[ _]4/(?P<sample>Sample[AB])/{_STILL}",
            group="4/{sample}",
            label="gastrocnemius medialis",
            optional=True,
        ),
        Known(r"Readme\.md"),
    ),
)

DATA_SETS = (STMUS, MUSCLE_TIMTRACK)
