"""Obstetrics: HC18, JNU-IFM, PSFHS, FASS, Fast-U-Net, US Fetus, Fetal Echo, Fetal Planes."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sonodistill_training.corpus.registry.core import DataSet, cc_by, unknown_licence
from sonodistill_training.corpus.registry.labels import ImageMask, VolumeMask
from sonodistill_training.corpus.registry.parse import read_lines
from sonodistill_training.corpus.registry.pickled import PickledMask
from sonodistill_training.corpus.registry.readers import IMAGE, Files, Known, Masks, Table

_OUTLINE = Masks("{dir}/{stem}_Annotation.png", make=partial(ImageMask, fill="ellipse"))

HC18 = DataSet(
    key="hc18",
    name="HC18 (fetal head circumference)",
    anatomy="fetal head",
    modality="B-mode stills (PNG, 800 x 540), GE Voluson E8 and 730",
    size="1334 images of 551 women: 999 training, 335 test",
    licence=cc_by("stated on the Zenodo record"),
    url="https://zenodo.org/records/1327317",
    doi="10.5281/zenodo.1327317",
    citation="van den Heuvel TLA, de Bruijn D, de Korte CL, van Ginneken B. Automated measurement of fetal head "
    "circumference using 2D ultrasound images. PLOS ONE 13(8):e0200412, 2018.",
    access="download from Zenodo without registration",
    layout="training_set/010_HC.png, 010_2HC.png (the same woman) beside 010_HC_Annotation.png, test_set/000_HC.png, "
    "training_set_pixel_size_and_HC.csv, test_set_pixel_size.csv; checked on a part of the data",
    grouping="woman: the number before _HC, within training or test (test names repeat training names)",
    published={"items": 1334, "masks": 999, "split:train": 999, "split:test": 335},
    table1="HC",
    notes="Annotations are outlines of ellipses, some of which leave the image: an ellipse is fitted and filled. "
    "mm_per_pixel comes from the tables.",
    structure="fetal head",
    adapter=(
        Files(
            r"training_set/(?:training_set/)?(?P<woman>\d+)_\d*HC\.png",
            group="train/{woman}",
            split="train",
            mm="{pixel size(mm)}",
            mask=_OUTLINE,
            table=Table("training_set_pixel_size_and_HC.csv", key="{filename}", match="{name}"),
        ),
        Files(
            r"test_set/(?:test_set/)?(?P<woman>\d+)_\d*HC\.png",
            group="test/{woman}",
            split="test",
            mm="{pixel size(mm)}",
            table=Table("test_set_pixel_size.csv", key="{filename}", match="{name}"),
            optional=True,
        ),
    ),
)

JNU_IFM = DataSet(
    key="jnu_ifm",
    name="JNU-IFM",
    anatomy="fetal head and pubic symphysis",
    modality="frames of transperineal videos (PNG), Youkey D8 wireless",
    size="6224 frames of 78 videos of 51 women",
    licence=cc_by("stated on Figshare"),
    url="https://figshare.com/articles/dataset/JNU-IFM/14371652",
    doi="10.6084/m9.figshare.14371652",
    citation="Lu Y, Zhou M, Zhi D, et al. The JNU-IFM dataset for segmenting pubic symphysis-fetal head. Data in Brief "
    "41:107904, 2022.",
    access="download from Figshare without registration",
    layout="us_data/VIDEO/image/VIDEO_FRAME.png, VIDEO/mask/VIDEO_FRAME_mask.png, VIDEO/mask_enhance/ (pictures for "
    "the eye), VIDEO/frame_label.csv (frame_id, frame_label); from public loaders, not verified on the data",
    grouping="video: which videos are of the same woman is not published",
    published={"items": 6224, "groups": 78},
    table1="JNU-IFM",
    notes="Mask codes: 1 pubic symphysis (7 in the files), 2 fetal head (8). The challenge FH-PS-AOP (Zenodo 7851339) "
    "and PSFHS come from the same hospitals and may repeat frames.",
    structures=("pubic symphysis", "fetal head"),
    adapter=(
        Files(
            r"(?P<video>[^/]+)/image/(?:[^/]*_)?(?P<frame>\d+)\.png",
            group="{video}",
            label="{frame_label}",
            labels={"3": "none", "4": "symphysis", "5": "head", "6": "symphysis and head"},
            mask=Masks("{video}/mask/{stem}_mask.png", make=partial(ImageMask, codes={7: 1, 8: 2})),
            table=Table(
                "*/frame_label.csv",
                key="{table.folder}/{frame_id}",
                match="{video}/{frame}",
                complete=False,
                partial=True,
                required=False,
            ),
        ),
        Known(r"[^/]+/(?:mask_enhance|enhance_mask)/.*|[^/]*\.(?:txt|md|pdf)"),
    ),
)

PSFHS = DataSet(
    key="psfhs",
    name="PSFHS",
    anatomy="fetal head and pubic symphysis",
    modality="transperineal B-mode stills (MetaImage, 256 x 256, three equal planes), ObEye and Esaote MyLab",
    size="1358 images of 1124 women",
    licence=cc_by("stated on the Zenodo record"),
    url="https://zenodo.org/records/10969427",
    doi="10.5281/zenodo.10969427",
    citation="Chen G, Bai J, Ou Z, Lu Y, Wang H. PSFHS: Intrapartum ultrasound image dataset for AI-based segmentation "
    "of pubic symphysis and fetal head. Scientific Data 11:436, 2024. doi 10.1038/s41597-024-03266-4.",
    access="download PSFHS.zip from Zenodo without registration",
    layout="PSFHS/image_mha/NUMBER.mha, PSFHS/label_mha/NUMBER.mha; from public loaders, not verified on the data",
    grouping="image: no patient is published, and 1124 women gave 1358 images",
    published={"items": 1358, "masks": 1358},
    table1="PSFHS",
    notes="Mask codes: 1 pubic symphysis, 2 fetal head. Only the first of the three planes is taken. Comes from "
    "hospitals of JNU-IFM and may repeat its frames.",
    structures=("pubic symphysis", "fetal head"),
    adapter=(
        Files(
            r"image_mha/[^/]+\.mha",
            group="{stem}",
            only=frozenset({0}),
            mask=Masks("label_mha/{stem}.mha", make=partial(VolumeMask, codes={1: 1, 2: 2})),
        ),
        Known(r"[^/]*\.(?:txt|md|pdf|csv|xlsx)"),
    ),
)

_FASS_WORDS = (("aort", "arter"), ("liver",), ("stomach",), ("vein", "umbil"))

FASS = DataSet(
    key="fass",
    name="Fetal Abdominal Structures Segmentation (FASS)",
    anatomy="fetal abdomen",
    modality="B-mode stills (PNG, 1024 x 768), Siemens Acuson, GE Voluson 730, Philips EPIQ Elite",
    size="1588 images of 169 women",
    licence=cc_by("stated on Mendeley Data"),
    url="https://data.mendeley.com/datasets/4gcpm9dsc3/1",
    doi="10.17632/4gcpm9dsc3.1",
    citation="da Correggio KS, Noya Galluzzo R, Santos LO, et al. Fetal Abdominal Structures Segmentation Dataset "
    "Using Ultrasonic Images. Mendeley Data, V1, 2023.",
    access="download from Mendeley Data without registration; an archive lies inside the archive",
    layout="IMAGES/P1_IMG1.png, ARRAY_FORMAT/P1_IMG1.npy; from public loaders, not verified on the data",
    grouping="patient: P and the number",
    published={"items": 1588, "groups": 169},
    table1="FASS",
    notes="Masks are pickled Python objects in .npy files. Unpickling a download can run any code: they are read with "
    "nothing allowed but NumPy's arrays. Mask codes: 1 aorta, 2 liver, 3 stomach, 4 umbilical vein.",
    structures=("aorta", "liver", "stomach", "umbilical vein"),
    adapter=(
        Files(
            r"IMAGES/(?P<patient>P\d+)_IMG\d+\.png",
            group="{patient}",
            mask=Masks("ARRAY_FORMAT/{stem}.npy", make=partial(PickledMask, words=_FASS_WORDS), required=False),
        ),
        Known(r"ARRAY_FORMAT/[^/]+\.npy|[^/]*\.(?:txt|md|pdf|ipynb|py)"),
    ),
)


def _listed(path: Path) -> list[dict[str, str]]:
    """Lines "image mask" of a list as rows."""
    return [{"image": Path(line.split()[0]).stem} for line in read_lines(path)]


def _fast_u_net(plane: str, group: str, masks: str, fill: str) -> Files:
    return Files(
        rf"(?P<top>Dataset/{plane}/(?:resized_data/)?)image\d*/(?P<image>(?P<number>[^/_]+)[^/]*)\.png",
        group=group,
        label=plane,
        split=lambda fields: {"train": "train", "val": "validation"}.get(fields["table.stem"].lower(), ""),
        mask=Masks(masks, make=partial(ImageMask, above=127, fill=fill)),
        table=Table(
            f"Dataset/{plane}/*.txt", key="{image}", rows=_listed, complete=False, partial=True, required=False
        ),
        optional=plane == "HC",
    )


FAST_U_NET = DataSet(
    key="fast_u_net",
    name="Fast-U-Net (fetal abdomen and head)",
    anatomy="fetal abdomen and head",
    modality="B-mode stills (PNG), resized by its authors",
    size="412 images of the abdomen, 999 of the head (the training set of HC18)",
    licence=unknown_licence("the repository states none; the images of the head are those of HC18 (CC BY 4.0)"),
    url="https://github.com/vahidashkani/Fast-U-Net",
    doi="10.1177/01617346211069882",
    citation="Ashkani Chenarlogh V, Ghelich Oghli M, Shabanzadeh A, et al. Fast and accurate U-Net model for fetal "
    "ultrasound image segmentation. Ultrasonic Imaging 44(1):25-38, 2022.",
    access="clone the GitHub repository and extract its .rar archives so that image and mask folders result",
    layout="Dataset/AC/resized_data/{image,mask}/0039.png, Dataset/HC/resized_data/image/514_HC.png and mask/"
    "514_HC_Annotation.png, train.txt and val.txt beside; test_data/{image,mask}/N.jpg; from the lists in the "
    "repository, the inside of the archives not verified",
    grouping="abdomen: image (no patient is published); head: the woman's number, as in HC18",
    table1="Fast-U-Net",
    notes="Table 1 of the paper calls it fetal head; what is new in it is the abdomen. The head part repeats HC18's "
    "training images: leave it out where HC18 is taken.",
    adapter=(
        _fast_u_net("AC", "AC/{image}", "{top}mask/{image}.png", ""),
        _fast_u_net("HC", "HC/{number}", "{top}mask/{image}_Annotation.png", "outline"),
        Files(
            r"test_data/(?:image/)?[^/]+\.jpg",
            group="test/{stem}",
            split="test",
            mask=Masks("test_data/mask/{name}", make=partial(ImageMask, above=127, resize=True), required=False),
            optional=True,
        ),
        Known(r"Fast_unet/.*|.*\.(?:rar|txt|py|md|h5|hdf5|json)"),
    ),
)


US_FETUS = DataSet(
    key="us_fetus",
    name="Ultrasound Fetus Dataset",
    anatomy="fetal head",
    modality="B-mode stills (PNG)",
    size="not stated by its source",
    licence=cc_by("stated on Mendeley Data"),
    url="https://data.mendeley.com/datasets/yrzzw9m6kk/2",
    doi="10.17632/yrzzw9m6kk.2",
    citation="Anitha A. Ultrasound Fetus Dataset. Mendeley Data, 2024.",
    access="download from Mendeley Data without registration; mirrored on Kaggle (orvile/ultrasound-fetus-dataset)",
    layout="Ultrasound Fetus Dataset/Data/Data/{train,validation,test}/{normal,benign,malignant}/NAME.png, some beside "
    "NAME_Annotation.png; Datasets/ holds the same images undivided; from public loaders, not verified on the data",
    grouping="the number before _HC, as in HC18; else the image",
    table1="US Fetus",
    notes="Public loaders find HC18's images and names in it: treat it as a copy of HC18 (the leakage audit decides) "
    "and trust its splits, which divide women, and its labels, which HC18 does not have, no further than that.",
    adapter=(
        Files(
            r"(?P<split>train|validation|test)/(?P<label>normal|benign|malignant)/(?:(?P<woman>\d+)_\d*HC[^/]*|[^/]+)\.png",
            group=lambda fields: fields["woman"] or fields["stem"],
            label=lambda fields: fields["label"].lower(),
            exclude="_Annotation",
            mask=Masks(
                "{dir}/{stem}_Annotation.png", make=partial(ImageMask, above=127, fill="outline"), required=False
            ),
        ),
        Known(r"Datasets/.*|[^/]*\.csv"),
    ),
)

FETAL_ECHO = DataSet(
    key="fetal_echo",
    name="First Trimester Fetal Echocardiography Data Set for Classification",
    anatomy="fetal heart",
    modality="B-mode and colour Doppler frames of first trimester sweeps",
    size="not verified",
    licence=unknown_licence("see the Figshare record"),
    url="https://figshare.com/articles/figure/First_Trimester_Fetal_Echocardiography_Data_Set_for_Classification/21215492",
    doi="10.1007/978-3-030-85030-2_1",
    citation="Stoean R, Iliescu D, Stoean C, et al. Deep learning for the detection of frames of interest in fetal "
    "heart assessment from first trimester ultrasound. IWANN 2021, LNCS 12861:3-14, 2021.",
    access="download from Figshare without registration",
    layout="one folder a view (Aorta, Flows, Other, V sign, X sign), perhaps under train, validation and test; the "
    "views from papers that use it, folder names not verified on the data",
    grouping="image: no patient or sweep is published; neighbouring frames of a sweep are in it",
    table1="Fetal Echo",
    notes="Many frames are colour Doppler.",
    adapter=(
        Files(
            r"(?:(?P<split>train|val|test)[^/]*/)?(?P<view>aorta|flows?|other|v|x)(?:[ _-]?sign)?/[^/]+\." + IMAGE,
            group="{path}",
            label=lambda fields: fields["view"].lower(),
            labels={"v": "v sign", "x": "x sign", "flow": "flows"},
            split=lambda fields: {"val": "validation"}.get(fields["split"].lower(), fields["split"].lower()),
        ),
        Known(r"[^/]*\.(?:txt|md|csv|xlsx)"),
    ),
)

FETAL_PLANES = DataSet(
    key="fetal_planes",
    name="FETAL_PLANES_DB",
    anatomy="fetus and maternal cervix",
    modality="B-mode stills (PNG), GE Voluson E6, S8, S10 and Aloka",
    size="12400 images of 1792 women",
    licence=cc_by("stated on the Zenodo record"),
    url="https://zenodo.org/records/3904280",
    doi="10.5281/zenodo.3904280",
    citation="Burgos-Artizzu XP, Coronado-Gutierrez D, Valenzuela-Alcaraz B, et al. Evaluation of deep convolutional "
    "neural networks for automatic classification of common maternal fetal ultrasound planes. Scientific Reports "
    "10:10200, 2020. doi 10.1038/s41598-020-67076-5.",
    access="download from Zenodo without registration",
    layout="Images/Patient00001_Plane1_1_of_15.png, FETAL_PLANES_DB_data.csv (Image_name;Patient_num;Plane;Brain_plane;"
    "Operator;US_Machine;Train), the same as .xlsx; as its README is quoted, not verified on the data",
    grouping="patient: column Patient_num",
    published={
        "items": 12400,
        "groups": 1792,
        "label:Fetal abdomen": 711,
        "label:Fetal brain": 3092,
        "label:Fetal femur": 1040,
        "label:Fetal thorax": 1718,
        "label:Maternal cervix": 1626,
        "label:Other": 4213,
    },
    table1="Fetal Plane",
    adapter=(
        Files(
            r"Images/[^/]+\.png",
            group="{Patient_num}",
            label="{Plane}",
            split=lambda fields: {"1": "train", "0": "test"}.get(fields["Train"], ""),
            table=Table("FETAL_PLANES_DB_data.csv", key="{Image_name}", delimiter=";"),
        ),
        Known(r"[^/]*\.(?:xlsx|txt|md)"),
    ),
)

DATA_SETS = (HC18, JNU_IFM, PSFHS, FASS, FAST_U_NET, US_FETUS, FETAL_ECHO, FETAL_PLANES)
