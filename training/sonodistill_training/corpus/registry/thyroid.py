"""Thyroid and neck: DDTI (evaluation), SegThy, the common carotid artery of Momot."""

from __future__ import annotations

import re
from functools import partial

from sonodistill_training.corpus.registry.core import DataSet, Findings, Item, Tree, cc_by, unknown_licence
from sonodistill_training.corpus.registry.labels import FramePolygons, VolumeMask, svg_polygons
from sonodistill_training.corpus.registry.parse import read_xml
from sonodistill_training.corpus.registry.readers import Custom, Files, Known, Masks, several

_DDTI_IMAGE = r"(?P<case>\d+)(?:_(?P<image>\d+))?\.jpg"


def _search_ddti(tree: Tree) -> Findings:
    """``N.xml`` describes ``N_1.jpg``, ``N_2.jpg`` ...; of some cases the first image is called ``N.jpg``."""
    found, orphans = Findings(), []
    cases: dict[str, tuple[str, dict[int, list]]] = {}
    for name in tree.files:
        match = re.fullmatch(_DDTI_IMAGE, name, re.IGNORECASE)
        if match is None:
            continue
        case, number = match["case"], int(match["image"] or 1)
        xml = tree.get(f"{case}.xml")
        if xml is None:
            orphans.append(name)
        elif case not in cases:
            root = read_xml(tree.path(xml))
            cases[case] = (root.findtext("tirads") or "").strip(), svg_polygons(root)
            found.claimed.add(xml)
        tirads, polygons = cases.get(case, ("", {}))
        outline = [(polygon, 255) for polygon in polygons.get(number, ())]
        mask = FramePolygons(tree.path(xml), {0: outline}) if xml and outline else None
        found.items[name] = Item(tree.path(name), case, tirads, mask)
        found.claimed.add(name)
    found.missing += several("images have no XML file of their case", orphans)
    return found


DDTI = DataSet(
    key="ddti",
    name="Digital Database of Thyroid Images (DDTI)",
    anatomy="thyroid",
    modality="B-mode stills (JPEG, 560 x 360), Toshiba Nemio",
    size="480 images of 390 cases",
    licence=unknown_licence("the paper calls it open access, the page states no licence"),
    url="http://cimalab.unal.edu.co/applications/thyroid/",
    doi="10.1117/12.2073532",
    citation="Pedraza L, Vargas C, Narvaez F, Duran O, Munoz E, Romero E. An open access thyroid ultrasound image "
    "database. Proc. SPIE 9287, 92870W, 2015.",
    access="download without registration; mirrored on Kaggle",
    layout="N.xml (one case: TI-RADS, composition, SVG outlines in JSON) beside N_1.jpg, N_2.jpg ... or N.jpg; checked "
    "on the complete data",
    grouping="case: the number of the XML file",
    published={"items": 480, "groups": 390, "masks": 465},
    evaluation=True,
    notes="Labels are TI-RADS grades (2, 3, 4a, 4b, 4c, 5), absent in 92 cases. Several nodules an image are merged. "
    "15 images have no outline, or one cut off in the middle: no mask. Text such as TIRADS 4C is burned into many "
    "frames. The paper counts 347 images; derived releases count 637 crops.",
    structure="nodule",
    adapter=(Custom(_DDTI_IMAGE, _search_ddti),),
)

SEGTHY = DataSet(
    key="segthy",
    name="SegThy",
    anatomy="thyroid and neck",
    modality="tracked freehand sweeps compounded into volumes (NIfTI), Siemens Acuson NX-3; the MRI is not read",
    size="28 volunteers, several sweeps of each lobe by three physicians",
    licence=cc_by("CC BY without a version on the data set's page"),
    url="https://www.cs.cit.tum.de/camp/publications/segthy-dataset/",
    doi="10.1371/journal.pone.0268550",
    citation="Kronke M, Eilers C, Dimova D, et al. Tracked 3D ultrasound and deep neural network-based thyroid "
    "segmentation reduce interobserver variability in thyroid volumetry. PLOS ONE 17(7):e0268550, 2022.",
    access="download US_data.zip (18.6 GB) without registration",
    layout="US_volunteer_dataset/ground_truth_data/US/001_P1_1_left_US.nii, "
    ".../ground_truth_data/US_thyroid_label/001_P1_1_left.nii; from public loaders, not verified on the data; other "
    "volumes of a volunteer are taken wherever they lie",
    grouping="volunteer: the number that file names begin with",
    table1="Segthy",
    notes="Mask codes: 1 thyroid, 2 carotid artery, 3 jugular vein.",
    adapter=(
        Files(
            r"ground_truth_data/US/(?P<sweep>(?P<volunteer>\d+)_[^/]+?)(?:_US)?\.nii(?:\.gz)?",
            group="{volunteer}",
            axis=0,
            mask=Masks(
                tuple(
                    f"ground_truth_data/US_thyroid_label/{name}.nii{packed}"
                    for name in ("{sweep}", "{sweep}_US")
                    for packed in ("", ".gz")
                ),
                make=partial(VolumeMask, codes={1: 1, 2: 2, 3: 3}),
            ),
        ),
        Files(
            r"(?!.*(?:ground_truth_data|label|seg)[^/]*/)(?:[^/]+/)*(?P<volunteer>\d{3})_P\d[^/]*\.nii(?:\.gz)?",
            group="{volunteer}",
            axis=0,
            optional=True,
        ),
        Known(r"(?:[^/]+/)*[^/]*label[^/]*/.*|[^/]*\.(?:txt|pdf|md|csv|xlsx)"),
    ),
)

CCAUI = DataSet(
    key="ccaui",
    name="Common Carotid Artery Ultrasound Images",
    anatomy="carotid artery",
    modality="B-mode frames (PNG, 709 x 749), Mindray UMT-500Plus, linear probe L13-3s",
    size="1100 frames of 11 people",
    licence=cc_by("stated on Mendeley Data, as two public projects report"),
    url="https://data.mendeley.com/datasets/d4xt63mgjm/1",
    doi="10.17632/d4xt63mgjm.1",
    citation="Momot A. Common Carotid Artery Ultrasound Images. Mendeley Data, V1, 2022.",
    access="download from Mendeley Data without registration",
    layout="Common Carotid Artery Ultrasound Images/US images/202201121748100022VAS_slice_1419.png and Expert mask "
    "images/ with the same names; from public loaders, not verified on the data",
    grouping="recording: what stands before _slice_; a person may have more than one",
    published={"items": 1100, "masks": 1100},
    table1="Carotid Artery",
    notes="Frames of one recording follow one another closely.",
    structure="carotid artery",
    adapter=(
        Files(
            r"US images/(?P<recording>[^/]+?)(?:_slice_\d+)?\.png",
            group="{recording}",
            mask=Masks("Expert mask images/{name}"),
        ),
    ),
)

DATA_SETS = (DDTI, SEGTHY, CCAUI)
