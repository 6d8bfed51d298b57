"""Lung data sets on miniatures of their published layouts."""

from __future__ import annotations

import numpy as np
from PIL import Image

from sonodistill_training.corpus.registry.lung import COVID_BLUES, LUS_PHANTOM, POCUS_LUNG


def test_miniature_lus_phantom(folder, conforms, notices):
    """Layout as two public loaders of the Leeds phantom describe it: data-3/{train,test}, clips as WebM."""
    for split, name in (("train", "Scan1-F3"), ("train", "Scan1-F9"), ("test", "Scan2-F1")):
        folder.image(f"data-3/{split}/images/{name}.png")
        folder.mask(f"data-3/{split}/masks/{name}.png", box=(3, 4, 9, 40), value=4)
    # WebM is Matroska with other codecs: the content decides how a file is read.
    folder.video("VideoClips/Scan1.mkv").rename(folder.root / "VideoClips/Scan1.webm")
    folder.text("vidtoImage.m", "% frames of a clip")
    items = conforms(LUS_PHANTOM, folder.root)
    assert [(item.group, item.split) for item in items] == [
        ("Scan1", ""),
        ("Scan2", "test"),
        ("Scan1", "train"),
        ("Scan1", "train"),
    ]
    mask = items[1].mask.load((40, 48))
    assert (mask[3:9, 4:40] == 4).all() and np.count_nonzero(mask) == 6 * 36
    notices(LUS_PHANTOM, folder.root, "data-3/train/masks/Scan1-F9.png", "Scan1-F9.png")


def test_miniature_covid_blues(folder, conforms, notices):
    """Layout as NinaWie/COVID-BLUES lists and fills it: a clip a BLUE point, severity.csv by clip."""
    rows = ["video_file,Severity Score,A-lines,B-lines,comments\n"]
    for name, score in (("patient_1_L1", "0.0"), ("patient_1_R1_2", "2.0"), ("patient_15_L2", "3.0")):
        folder.video(f"lus_videos/{name}.mp4")
        rows.append(f'{name},{score},yes,yes,"broken pleura line, B-lines"\n')
    folder.text("severity.csv", "".join(rows))
    folder.text("clinical_variables.csv", "patient_id,cov_test\n1,0\n15,1\n")
    folder.text("README.md", "# COVID Bluepoint Lung Ultrasound (BLUES) dataset")
    items = conforms(COVID_BLUES, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("patient_15", "severity 3"),
        ("patient_1", "severity 0"),
        ("patient_1", "severity 2"),
    ]
    notices(COVID_BLUES, folder.root, "lus_videos/patient_15_L2.mp4", "patient_15_l2")


def test_covid_blues_may_not_be_passed_on_as_frames():
    assert COVID_BLUES.licence.commercial is False and "no frames" in COVID_BLUES.licence.notice


def test_miniature_pocus_lung(folder, conforms, notices):
    """Layout as jannisborn/covid19_ultrasound lists it: finding in the name, patients in dataset_metadata.csv."""
    for name in (
        "Cov-Atlas-Day+1",
        "Cov-Atlas-Day+2",
        "Pneu_northumbria_0409_set2_vid1",
        "Reg_pat1Image_132943",
        "Reg_clip",
    ):
        folder.video(f"data/pocus_videos/convex/{name}.mp4")
    pictures = [Image.new("L", (64, 48), level) for level in (40, 90)]
    pictures[0].save(
        folder.root / "data/pocus_videos/convex/Cov-Atlas+(44).gif", save_all=True, append_images=pictures[1:]
    )
    folder.image("data/pocus_images/linear/Vir_paper.png", colour=True)
    folder.text(
        "data/dataset_metadata.csv",
        "Filename,License,Patient ID / Name\nCov-Atlas-Day+1,CC BY-NC 4.0,35\nCov-Atlas-Day+2,CC BY-NC 4.0,35\n"
        "Cov-Butterfly-Skip Lesion,None,15\nReg_clip,CC BY 4.0,nd\n",
    )
    items = conforms(POCUS_LUNG, folder.root)
    assert [(item.group, item.label) for item in items] == [
        ("Vir_paper", "viral pneumonia"),
        ("Cov-Atlas+(44)", "covid"),
        ("patient 35", "covid"),
        ("patient 35", "covid"),
        ("Pneu_northumbria_0409_set2", "pneumonia"),
        ("Reg_clip", "regular"),
        ("Reg_pat1", "regular"),
    ]
    for name in ("Cov-Atlas-Day+1", "Cov-Atlas-Day+2", "Pneu_northumbria_0409_set2_vid1", "Reg_pat1Image_132943"):
        (folder.root / f"data/pocus_videos/convex/{name}.mp4").unlink()
    (folder.root / "data/pocus_images/linear/Vir_paper.png").unlink()
    (folder.root / "data/pocus_videos/convex/Cov-Atlas+(44).gif").unlink()
    notices(POCUS_LUNG, folder.root / "data", "pocus_videos/convex/Reg_clip.mp4", "files like")


def test_pocus_without_metadata_is_grouped_by_name(folder):
    folder.video("pocus_videos/convex/Reg_pat2Image_1.mp4")
    folder.video("pocus_videos/convex/Reg_pat2Image_2.mp4")
    assert {item.group for item in POCUS_LUNG.items(folder.root)} == {"Reg_pat2"}
