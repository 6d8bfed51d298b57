"""Breast: BUSI (evaluation), BUS-BRA, BUS-UCLM, BUS_UC, BrEaST, S1, STU-Hospital."""

from __future__ import annotations

from functools import partial

from sonodistill_training.corpus.registry.core import DataSet, Licence, cc_by, unknown_licence
from sonodistill_training.corpus.registry.labels import ImageMask
from sonodistill_training.corpus.registry.parse import read_sheet
from sonodistill_training.corpus.registry.readers import Files, Known, Masks, Table

BUSI = DataSet(
    key="busi",
    name="Breast Ultrasound Images (BUSI)",
    anatomy="breast",
    modality="B-mode stills (PNG), GE LOGIQ E9 and LOGIQ E9 Agile",
    size="780 images of 600 women: 437 benign, 210 malignant, 133 normal",
    licence=cc_by(
        "the licence of the data paper (Data in Brief 28:104863), under which the set is cited; its page states none"
    ),
    url="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
    doi="10.1016/j.dib.2019.104863",
    citation="Al-Dhabyani W, Gomaa M, Khaled H, Fahmy A. Dataset of breast ultrasound images. Data in Brief 28:104863, "
    "2020.",
    access="download without registration",
    layout="Dataset_BUSI_with_GT/{benign,malignant,normal}/NAME (N).png beside NAME (N)_mask.png, _mask_1.png ...; "
    "checked on a part of the data",
    grouping="image: no patient is published, and some women have several images",
    published={
        "items": 780,
        "masks": 780,
        "label:benign": 437,
        "label:malignant": 210,
        "label:normal": 133,
    },
    evaluation=True,
    notes="Up to 3 masks an image; those of normal images are empty. Known to hold duplicates, images of the axilla "
    "and burned-in marks (Pawlowska et al., Data in Brief 48:109247, 2023).",
    structure="lesion",
    adapter=(
        Files(
            r"(?P<label>benign|malignant|normal)/(?P<image>(?:benign|malignant|normal) \(\d+\))\.png",
            group="{image}",
            label="{label}",
            mask=Masks("{dir}/{image}_mask*.png"),
        ),
    ),
)

BUS_BRA = DataSet(
    key="bus_bra",
    name="BUS-BRA",
    anatomy="breast",
    modality="B-mode stills (PNG), four scanners",
    size="1875 images of 1064 women: 1268 benign, 607 malignant",
    licence=cc_by("stated on the Zenodo record; cite the paper"),
    url="https://zenodo.org/records/8231412",
    doi="10.5281/zenodo.8231412",
    citation="Gomez-Flores W, Gregorio-Calas MJ, Pereira WCA. BUS-BRA: A breast ultrasound dataset for assessing "
    "computer-aided diagnosis systems. Medical Physics 51(4):3110-3123, 2024. doi 10.1002/mp.16812.",
    access="download from Zenodo without registration",
    layout="BUSBRA/Images/bus_0001-l.png, BUSBRA/Masks/mask_0001-l.png, BUSBRA/bus_data.csv (ID, Case, Pathology, "
    "BIRADS ...), 5-fold-cv.csv, 10-fold-cv.csv; from github.com/wgomezf/BUS-BRA and public loaders, "
    "not verified on the data",
    grouping="patient: column Case of bus_data.csv",
    published={"items": 1875, "groups": 1064, "masks": 1875, "label:benign": 1268, "label:malignant": 607},
    table1="BUSBRA",
    structure="lesion",
    adapter=(
        Files(
            r"Images/bus_(?P<scan>[^/]+)\.png",
            group="{Case}",
            label="{Pathology}",
            mask=Masks("Masks/mask_{scan}.png"),
            table=Table("bus_data.csv", key="{ID}"),
        ),
        Known(r"(?:5|10)-fold-cv\.csv|[^/]*\.(?:txt|md|pdf)"),
    ),
)

BUS_UCLM = DataSet(
    key="bus_uclm",
    name="BUS-UCLM",
    anatomy="breast",
    modality="B-mode stills (PNG), some with colour Doppler, Siemens ACUSON S2000",
    size="683 images of 38 women: 419 normal, 174 benign, 90 malignant",
    licence=Licence(
        "CC BY 4.0",
        True,
        None,
        "version 3 on Mendeley Data; version 1 was CC BY-NC 3.0 and the authors' GitHub repository says CC BY-NC 4.0: "
        "ask them before commercial use",
    ),
    url="https://data.mendeley.com/datasets/7fvgj4jsp7/3",
    doi="10.17632/7fvgj4jsp7.3",
    citation="Vallez N, Bueno G, Deniz O, Rienda MA, Pastor C. BUS-UCLM: Breast ultrasound lesion segmentation "
    "dataset. Scientific Data 12:242, 2025. doi 10.1038/s41597-025-04562-3.",
    access="download from Mendeley Data without registration",
    layout="BUS-UCLM/images/ALWI_000.png, BUS-UCLM/masks/ALWI_000.png (green benign, red malignant), BUS-UCLM/INFO.csv "
    "(Image;Label;Doppler ...); from github.com/noeliavallez/BUS-UCLM-Dataset and public loaders, not verified on the "
    "data",
    grouping="patient: the letters before the underscore",
    published={
        "items": 683,
        "groups": 38,
        "masks": 683,
        "label:normal": 419,
        "label:benign": 174,
        "label:malignant": 90,
    },
    table1="BUS-UCLM",
    notes="Mask codes: 1 benign, 2 malignant. Public loaders report some images that were cropped and no longer have "
    "the size of their mask: those masks refuse to load.",
    structure="lesion",
    adapter=(
        Files(
            r"images/(?P<patient>[^/_]+)_(?P<number>[^/]+)\.png",
            group="{patient}",
            label=lambda fields: fields["Label"].lower(),
            mask=Masks("masks/{name}", make=partial(ImageMask, codes={(0, 255, 0): 1, (255, 0, 0): 2}, tolerance=100)),
            table=Table("INFO.csv", key="{Image}", match="{name}", delimiter=";"),
        ),
        Known(r"partitions/.*|[^/]*\.(?:json|md|txt|py)"),
    ),
)

BUS_UC = DataSet(
    key="bus_uc",
    name="BUS_UC",
    anatomy="breast",
    modality="B-mode stills (PNG) taken from ultrasoundcases.info",
    size="811 images: 358 benign, 453 malignant",
    licence=cc_by(
        "stated on Mendeley Data; the pictures are those of ultrasoundcases.info, whose terms are not stated"
    ),
    url="https://data.mendeley.com/datasets/3ksd7w7jkx/1",
    doi="10.17632/3ksd7w7jkx.1",
    citation="Iqbal A, Sharif M. Memory-efficient transformer network with feature fusion for breast tumor "
    "segmentation and classification task. Engineering Applications of Artificial Intelligence 127:107292, 2024.",
    access="download from Mendeley Data without registration",
    layout="BUS_UC/{Benign,Malignant}/{images,masks}/NUMBER.png; All/ holds the same images again; from public "
    "loaders, not verified on the data",
    grouping="image: no patient is published",
    published={"items": 811, "label:benign": 358, "label:malignant": 453},
    table1="BUS_UC",
    notes="A mask is reported to be one pixel larger than its image, so masks are fitted to the image.",
    structure="lesion",
    adapter=(
        Files(
            r"(?P<label>benign|malignant)/images/[^/]+\.png",
            group=lambda fields: f"{fields['label']}/{fields['stem']}".lower(),
            label=lambda fields: fields["label"].lower(),
            mask=Masks("{label}/masks/{name}", make=partial(ImageMask, resize=True)),
        ),
        Known(r"All/.*|[^/]*\.(?:txt|pdf|docx?)"),
    ),
)

BREAST = DataSet(
    key="breast",
    name="BrEaST (BREAST-LESIONS-USG)",
    anatomy="breast",
    modality="B-mode stills (PNG), several scanners",
    size="256 images of 256 women: 154 benign, 98 malignant, 4 normal; 266 lesions outlined",
    licence=cc_by("stated on the collection's page of The Cancer Imaging Archive"),
    url="https://www.cancerimagingarchive.net/collection/breast-lesions-usg/",
    doi="10.7937/9WKK-Q141",
    citation="Pawlowska A, Cwierz-Pienkowska A, Domalik A, et al. Curated benchmark dataset for ultrasound based "
    "breast lesion analysis. Scientific Data 11:148, 2024. doi 10.1038/s41597-024-02984-z.",
    access="download from The Cancer Imaging Archive without registration: the images, and the clinical data (XLSX)",
    layout="BrEaST-Lesions_USG-images_and_masks/case001.png, case001_tumor.png, case001_other1.png; the clinical data "
    "as *.xlsx beside that folder or in it; from public loaders, not verified on the data",
    grouping="case, which is a patient",
    published={"items": 256, "groups": 256},
    table1="BrEaST",
    notes="Masks hold the tumour; outlines of other findings (_other) are not taken. Normal cases have no mask. Labels "
    "need the clinical data.",
    structure="lesion",
    adapter=(
        Files(
            r"(?:BrEaST-Lesions_USG-images_and_masks[^/]*/)?(?P<case>case\d+)\.png",
            group="{case}",
            label="{Classification}",
            mask=Masks("{dir}/{case}_tumor*.png", required=False),
            table=Table(
                "*.xlsx",
                key="{Image_filename}",
                match="{name}",
                rows=read_sheet,
                complete=False,
                partial=True,
                required=False,
            ),
        ),
        Known(r"(?:[^/]+/)?case\d+_other\d*\.png|[^/]*\.(?:xlsx|csv|pdf|txt|tcia)"),
    ),
)

S1 = DataSet(
    key="s1",
    name="S1 (supporting information of Guo et al. 2021)",
    anatomy="breast",
    modality="B-mode stills (JPEG)",
    size="about 200 images",
    licence=cc_by("supporting information of a PLOS ONE article, which is CC BY; the archive itself states nothing"),
    url="https://pmc.ncbi.nlm.nih.gov/articles/PMC8205136/",
    doi="10.1371/journal.pone.0253202",
    citation="Guo Y, Duan X, Wang C, Guo H. Segmentation and recognition of breast ultrasound images based on an "
    "expanded U-Net. PLOS ONE 16(6):e0253202, 2021.",
    access="the archive S1 among the article's supporting information",
    layout="Data/TrainingDataSet/{BreastTumourImages/N.jpg,General-1-channel-Labels/N.png,Expanded-3-channel-Labels}, "
    "Data/TestingDataSet/{Test-General-1-BreastTumourImages,Test-General-1-channel-Labels,Test-Expanded-...}; from "
    "public loaders, not verified on the data",
    grouping="image: no patient is published",
    table1="S1",
    notes="The Expanded folders hold the same images again, with labels of three channels.",
    structure="lesion",
    adapter=(
        Files(
            r"TrainingDataSet/BreastTumourImages/[^/]+\.jpe?g",
            group="train/{stem}",
            split="train",
            mask=Masks("TrainingDataSet/General-1-channel-Labels/{stem}.png"),
        ),
        Files(
            r"TestingDataSet/(?:Test-General-1-)?BreastTumourImages/[^/]+\.jpe?g",
            group="test/{stem}",
            split="test",
            mask=Masks(
                (
                    "TestingDataSet/Test-General-1-channel-Labels/{stem}.png",
                    "TestingDataSet/General-1-channel-Labels/{stem}.png",
                )
            ),
        ),
        Known(r"(?:Training|Testing)DataSet/(?:Test-)?Expanded-[^/]*/.*|Segmentation_Results/.*|Code/.*"),
    ),
)

STU_HOSPITAL = DataSet(
    key="stu_hospital",
    name="STU-Hospital",
    anatomy="breast",
    modality="B-mode stills (PNG, 128 x 128), GE Voluson E10",
    size="42 images",
    licence=unknown_licence("the repository states none"),
    url="https://github.com/xbhlk/STU-Hospital",
    doi="10.1371/journal.pone.0221535",
    citation="Zhuang Z, Li N, Joseph Raj AN, Mahesh VGV, Qiu S. An RDAU-NET model for lesion segmentation in breast "
    "ultrasound images. PLOS ONE 14(8):e0221535, 2019.",
    access="clone or download the GitHub repository",
    layout="Hospital/Test_Image_N.png beside Hospital/mask_N.png; demo/ repeats images, Dataset B/ holds the release "
    "agreement of another data set; verified on the repository's list of files",
    grouping="image: no patient is published",
    published={"items": 42, "masks": 42},
    table1="STU Hospital",
    notes="Table 1 of the paper calls it thyroid; the images are of the breast (First Affiliated Hospital of Shantou "
    "University). Masks are gray (several annotators) and of other sizes than the images: taken above half, resized.",
    structure="lesion",
    adapter=(
        Files(
            r"Hospital/Test_Image_(?P<number>\d+)\.png",
            group="{number}",
            mask=Masks("Hospital/mask_{number}.png", make=partial(ImageMask, above=127, resize=True)),
        ),
        Known(r"demo/.*|Dataset B/.*|[^/]*\.(?:md|txt)|LICENSE"),
    ),
)

DATA_SETS = (BUSI, BUS_BRA, BUS_UCLM, BUS_UC, BREAST, S1, STU_HOSPITAL)
