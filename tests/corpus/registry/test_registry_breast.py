"""Breast data sets, on miniatures of their published layouts and on real files where there are some."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

import sonodistill.frames as frames
from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.breast import BREAST, BUS_BRA, BUS_UC, BUS_UCLM, BUSI, S1, STU_HOSPITAL


def test_miniature_busi(folder, conforms):
    """Layout: data paper, Data in Brief 28:104863 (2020), and the files under shared/data/raw/busi."""
    top = "Dataset_BUSI_with_GT"
    for name in ("benign (1)", "benign (10)", "malignant (4)", "normal (1)"):
        folder.image(f"{top}/{name.split()[0]}/{name}.png", colour=True)
    folder.mask(f"{top}/benign/benign (1)_mask.png", box=(0, 0, 4, 4))
    folder.mask(f"{top}/benign/benign (1)_mask_1.png", box=(10, 10, 14, 14))
    folder.mask(f"{top}/benign/benign (10)_mask.png", box=(0, 0, 9, 9))
    folder.mask(f"{top}/malignant/malignant (4)_mask.png")
    folder.mask(f"{top}/normal/normal (1)_mask.png", box=None)
    items = conforms(BUSI, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("benign (1)", "benign"),
        ("benign (10)", "benign"),
        ("malignant (4)", "malignant"),
        ("normal (1)", "normal"),
    ]
    assert [(item.mask.load((40, 48)) > 0).sum() for item in items] == [32, 81, 180, 0]


def test_real_busi(shared):
    items = BUSI.items(shared / "data" / "raw" / "busi")
    assert {item.label for item in items} == {"benign", "malignant", "normal"}
    (several,) = [item for item in items if item.group == "benign (100)"]
    image = next(frames.read(several.file)).image
    single = [type(several.mask)((path,)).load(image.shape) > 0 for path in several.mask.paths]
    assert len(single) == 2
    assert np.array_equal(several.mask.load(image.shape) > 0, single[0] | single[1])
    report = BUSI.check(shared / "data" / "raw" / "busi")
    assert report.unexpected == ()
    assert all(" published" in line for line in report.missing)


def test_miniature_bus_bra(folder, conforms):
    """Layout: github.com/wgomezf/BUS-BRA and loaders that read bus_data.csv (ID, Case, Pathology) and Masks/mask_*."""
    rows = ["ID,Case,Histology,Pathology,BIRADS,Device,Width,Height,Side,BBOX"]
    for scan, case, pathology in (("0001-l", 1, "benign"), ("0001-r", 1, "benign"), ("0002-l", 2, "malignant")):
        folder.image(f"BUSBRA/Images/bus_{scan}.png")
        folder.mask(f"BUSBRA/Masks/mask_{scan}.png")
        rows.append(f'bus_{scan},{case},Cyst,{pathology},2,GE,48,40,left,"[12,10,18,10]"')
    folder.text("BUSBRA/bus_data.csv", "\n".join(rows))
    folder.text("BUSBRA/5-fold-cv.csv", "ID,kFold\n")
    items = conforms(BUS_BRA, folder.root)
    assert [(item.group, item.label) for item in items] == [("1", "benign"), ("1", "benign"), ("2", "malignant")]


def test_miniature_bus_uclm(folder, conforms):
    """Layout: github.com/noeliavallez/BUS-UCLM-Dataset; Scientific Data 12:242 for the colours of the masks."""
    rows = ["Image;Label;Doppler;Marks"]
    colours = {"Benign": (0, 255, 0), "Malignant": (250, 4, 0), "Normal": (0, 0, 0)}
    for name, label in (("ALWI_000", "Normal"), ("ALWI_001", "Benign"), ("CAPE_000", "Malignant")):
        folder.image(f"BUS-UCLM/images/{name}.png", colour=True)
        folder.mask(f"BUS-UCLM/masks/{name}.png", value=colours[label])
        rows.append(f"{name}.png;{label};0;0")
    folder.text("BUS-UCLM/INFO.csv", "\n".join(rows))
    items = conforms(BUS_UCLM, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("ALWI", "normal"),
        ("ALWI", "benign"),
        ("CAPE", "malignant"),
    ]
    assert [item.mask.load((40, 48)).max() for item in items] == [0, 1, 2]


def test_an_image_of_bus_uclm_cut_smaller_than_its_mask_refuses_the_mask(folder):
    folder.image("images/ALWI_000.png", size=(30, 40))
    folder.mask("masks/ALWI_000.png", value=(0, 255, 0))
    folder.text("INFO.csv", "Image;Label\nALWI_000.png;Benign\n")
    (item,) = BUS_UCLM.items(folder.root)
    with pytest.raises(DatasetError, match="48 x 40"):
        item.mask.load((30, 40))


def test_miniature_bus_uc(folder, conforms):
    """Layout: public loaders of mendeley.com/datasets/3ksd7w7jkx (BUS_UC/{Benign,Malignant,All}/{images,masks})."""
    for label, number in (("Benign", "001"), ("Malignant", "001"), ("Malignant", "0319")):
        folder.image(f"BUS_UC/{label}/images/{number}.png")
        folder.mask(f"BUS_UC/{label}/masks/{number}.png", size=(41, 48) if number == "0319" else (40, 48))
    folder.image("BUS_UC/All/images/001.png")
    folder.mask("BUS_UC/All/masks/001.png")
    items = conforms(BUS_UC, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("benign/001", "benign"),
        ("malignant/001", "malignant"),
        ("malignant/0319", "malignant"),
    ]


def sheet(rows) -> bytes:
    """A workbook with the text in its cells."""
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    cells = "".join(
        "<row>"
        + "".join(f'<c r="{chr(65 + x)}{y}" t="inlineStr"><is><t>{text}</t></is></c>' for x, text in enumerate(row))
        + "</row>"
        for y, row in enumerate(rows, start=1)
    )
    with zipfile.ZipFile(buffer := io.BytesIO(), "w") as book:
        book.writestr("xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{cells}</sheetData></worksheet>")
    return buffer.getvalue()


def test_miniature_breast(folder, conforms):
    """Layout: loaders of BrEaST-Lesions_USG-images_and_masks (case001.png, case001_tumor.png, case001_other1.png)."""
    top = "BrEaST-Lesions_USG-images_and_masks-Dec-15-2023"
    for case in ("case001", "case002", "case003"):
        folder.image(f"{top}/{case}.png", colour=True)
    folder.mask(f"{top}/case001_tumor.png")
    folder.mask(f"{top}/case001_other1.png", box=(0, 0, 5, 5))
    folder.mask(f"{top}/case002_tumor.png")
    head = ("CaseID", "Image_filename", "Classification")
    rows = [head, ("1", "case001.png", "benign"), ("2", "case002.png", "malignant"), ("3", "case003.png", "normal")]
    folder.text("BrEaST-Lesions-USG-clinical-data-Dec-15-2023.xlsx", "").write_bytes(sheet(rows))
    items = conforms(BREAST, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("case001", "benign"),
        ("case002", "malignant"),
        ("case003", "normal"),
    ]
    assert (items[0].mask.load((40, 48)) > 0).sum() == 180
    assert items[2].mask is None


def test_breast_without_its_clinical_data_has_no_labels(folder, conforms):
    folder.image("case001.png")
    folder.mask("case001_tumor.png")
    assert [item.label for item in conforms(BREAST, folder.root)] == [""]


def test_miniature_s1(folder, conforms):
    """Layout: public loaders of the archive S1 of journal.pone.0253202."""
    for part, prefix in (("TrainingDataSet", ""), ("TestingDataSet", "Test-General-1-")):
        labels = "Test-General-1-channel-Labels" if prefix else "General-1-channel-Labels"
        folder.image(f"Data/{part}/{prefix}BreastTumourImages/0.jpg")
        folder.mask(f"Data/{part}/{labels}/0.png")
    folder.image("Data/TestingDataSet/Test-Expanded-BreastTumourImages/0.jpg")
    folder.mask("Data/TrainingDataSet/Expanded-3-channel-Labels/0.png", value=(127, 127, 127))
    items = conforms(S1, folder.root)
    assert sorted((item.group, item.split) for item in items) == [("test/0", "test"), ("train/0", "train")]


def test_miniature_stu_hospital(folder, conforms):
    """Layout: the list of files of github.com/xbhlk/STU-Hospital; masks are gray and of other sizes than the images."""
    for number in (1, 12):
        folder.image(f"Hospital/Test_Image_{number}.png", size=(128, 128))
        folder.mask(f"Hospital/mask_{number}.png", size=(150, 140), box=(20, 20, 100, 100), value=200, background=60)
    folder.image("demo/Test_Image_10.png", size=(128, 128))
    folder.text("Dataset B/BUS_ReleaseAgreement.pdf", "x")
    folder.text("README.md", "x")
    items = conforms(STU_HOSPITAL, folder.root)
    assert [item.group for item in items] == ["1", "12"]
    assert 0.2 < (items[0].mask.load((128, 128)) > 0).mean() < 0.4
    assert STU_HOSPITAL.anatomy == "breast"
