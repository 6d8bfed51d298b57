"""Cardiac data sets on miniatures of their published layouts."""

from __future__ import annotations

import numpy as np
import pytest

from sonodistill.errors import DatasetError
from sonodistill_training.corpus.registry.cardiac import CACTUS, CAMUS, ECHOCP, ECHONET_DYNAMIC

LIST = "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,NumberOfFrames,Split\n"
TRACINGS = "FileName,X1,Y1,X2,Y2,Frame\n"


def test_miniature_cactus(folder, conforms, notices):
    """Layout as a public loader of CACTUS describes it: Images Dataset/VIEW, Grades, Videos."""
    for view in ("A4C", "SC", "Random"):
        folder.image(f"Cactus Dataset/Images Dataset/{view}/1.jpg", colour=True)
        folder.image(f"Cactus Dataset/Images Dataset/{view}/2.jpg", colour=True)
        folder.text(f"Cactus Dataset/Grades/{view}_grades.csv", "Image Name,Subfolder Name,Grade\n1.jpg,A4C,7\n")
    folder.video("Cactus Dataset/Videos/Training/Video1.mp4")
    folder.text("Cactus Dataset/Videos/Training/Video1.csv", "Frame,Grade\n0,3\n")
    items = conforms(CACTUS, folder.root)
    assert [(item.group, item.label) for item in items] == [
        *[(view, view) for view in ("A4C", "Random", "SC") for _ in range(2)],
        ("Training/Video1", ""),
    ]
    assert not any(item.mask for item in items)
    notices(CACTUS, folder.root / "Cactus Dataset", "Images Dataset/SC/2.jpg", "label:SC: 1 of")


def camus(folder, patients=("patient0001", "patient0002", "patient0003")):
    """Layout as several public loaders of CAMUS_public describe it: half sequences with masks, lists of patients."""
    for number, patient in enumerate(patients):
        for view in ("2CH", "4CH"):
            stem = f"CAMUS_public/database_nifti/{patient}/{patient}_{view}"
            sequence = np.random.default_rng(number).integers(0, 255, (4, 24, 20), np.uint8)
            mask = np.zeros((4, 24, 20), np.uint8)
            for frame in range(4):
                mask[frame, 4 : 8 + frame, 5:10] = 1 + frame % 3
            folder.volume(f"{stem}_half_sequence.nii.gz", sequence, spacing=(1, 0.3, 0.3))
            folder.volume(f"{stem}_half_sequence_gt.nii.gz", mask, spacing=(1, 0.3, 0.3))
            for phase, frame in (("ED", 0), ("ES", 3)):
                folder.volume(f"{stem}_{phase}.nii.gz", sequence[frame])
                folder.volume(f"{stem}_{phase}_gt.nii.gz", mask[frame])
            folder.text(f"CAMUS_public/database_nifti/{patient}/Info_{view}.cfg", "ED: 1\nES: 4\n")
    for name, patient in zip(("training", "validation", "testing"), patients, strict=True):
        folder.text(f"CAMUS_public/database_split/subgroup_{name}.txt", f"{patient}\n")


def test_miniature_camus(folder, conforms, notices):
    camus(folder)
    items = conforms(CAMUS, folder.root)
    assert [(item.group, item.label, item.split) for item in items] == [
        ("patient0001", "2CH", "train"),
        ("patient0001", "4CH", "train"),
        ("patient0002", "2CH", "validation"),
        ("patient0002", "4CH", "validation"),
        ("patient0003", "2CH", "test"),
        ("patient0003", "4CH", "test"),
    ]
    mask = items[0].mask.load((24, 20), frame=2)
    assert set(np.unique(mask)) == {0, 3} and (mask[4:10, 5:10] == 3).all() and not mask[10:].any()
    base = folder.root / "CAMUS_public"
    notices(CAMUS, base, "database_nifti/patient0002/patient0002_4CH_half_sequence_gt.nii.gz", "no mask")


def test_camus_without_lists_of_patients_has_no_splits(folder):
    camus(folder)
    for file in (folder.root / "CAMUS_public/database_split").iterdir():
        file.unlink()
    assert {item.split for item in CAMUS.items(folder.root)} == {""}


def test_a_patient_whom_no_list_names_is_reported(folder):
    camus(folder)
    folder.text("CAMUS_public/database_split/subgroup_testing.txt", "patient0009\n")
    missing = CAMUS.check(folder.root).missing
    assert any("patient0003" in line and "no row" in line for line in missing)
    assert any("patient0009" in line for line in missing)


def test_miniature_echocp(folder, conforms, notices):
    """Layout as two public loaders of EchoCP describe it: NNN_r and NNN_v volumes with labels, a spreadsheet."""
    for patient in ("001", "002"):
        for state in "rv":
            clip = np.random.default_rng(int(patient)).integers(0, 255, (3, 20, 24), np.uint8)
            label = np.zeros_like(clip)
            label[1, 5:10, 6:12] = 2
            folder.volume(f"EchoCP_dataset/{patient}_{state}_image.nii.gz", clip)
            folder.volume(f"EchoCP_dataset/{patient}_{state}_label.nii.gz", label)
    folder.text("echoCP_diagnosis_label.xlsx", "")
    items = conforms(ECHOCP, folder.root)
    assert [(item.group, item.label) for item in items] == [
        (patient, state) for patient in ("001", "002") for state in ("rest", "valsalva")
    ]
    assert (items[1].mask.load((20, 24), 1)[5:10, 6:12] == 2).all() and not items[1].mask.load((20, 24), 0).any()
    notices(ECHOCP, folder.root, "EchoCP_dataset/002_v_label.nii.gz", "002_v_image.nii.gz")


def echonet(folder):
    """Layout as the authors' loader (echonet/dynamic) reads it: Videos, FileList.csv, VolumeTracings.csv."""
    rows = []
    for name, split in (("0X1A", "TRAIN"), ("0X2B", "VAL"), ("0X3C", "TEST")):
        folder.video(f"Videos/{name}.avi", size=(48, 64))
        rows.append(f"{name},55.1,40,90,48,64,50,3,{split}\n")
    folder.text("FileList.csv", LIST + "".join(rows))
    # The long axis comes first; three disks from row 10 to row 30, columns 20 to 39.
    chords = [(30, 8, 30, 32), (20, 10, 39, 10), (20, 20, 39, 20), (20, 30, 39, 30)]
    lines = [f"0X1A.avi,{x1},{y1},{x2},{y2},{frame}\n" for frame in (0, 2) for x1, y1, x2, y2 in chords]
    folder.text("VolumeTracings.csv", TRACINGS + "".join(lines))


def test_miniature_echonet_dynamic(folder, conforms, notices):
    echonet(folder)
    items = conforms(ECHONET_DYNAMIC, folder.root)
    assert [(item.group, item.split) for item in items] == [("0X1A", "train"), ("0X2B", "validation"), ("0X3C", "test")]
    assert items[0].mask.frames == {0, 2} and items[1].mask is None
    mask = items[0].mask.load((48, 64), 2)
    assert (mask[10:31, 20:40] == 255).all() and np.count_nonzero(mask) == 21 * 20
    with pytest.raises(DatasetError, match="frame 1 is not annotated"):
        items[0].mask.load((48, 64), 1)
    notices(ECHONET_DYNAMIC, folder.root, "Videos/0X3C.avi", "0x3c")


def test_echonet_without_tracings_is_reported_and_still_read(folder):
    echonet(folder)
    (folder.root / "VolumeTracings.csv").unlink()
    assert "VolumeTracings.csv" in ECHONET_DYNAMIC.check(folder.root).missing
    assert len(ECHONET_DYNAMIC.items(folder.root)) == 3


@pytest.mark.parametrize(
    "text", ["FileName,X1\n0X1A.avi,3\n", TRACINGS + "0X1A.avi,a,1,2,3,0\n", TRACINGS + "0X1A.avi\n"]
)
def test_damaged_tracings_name_the_file(folder, text):
    echonet(folder)
    folder.text("VolumeTracings.csv", text)
    with pytest.raises(DatasetError, match=r"VolumeTracings\.csv"):
        ECHONET_DYNAMIC.items(folder.root)


def test_echonet_may_not_be_passed_on():
    assert ECHONET_DYNAMIC.licence.redistribution is False and ECHONET_DYNAMIC.licence.commercial is False
