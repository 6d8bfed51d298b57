"""`sonodistill dicom predict`: files and folders once, a table of what became of each, results that others can read."""

from __future__ import annotations

import csv
import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom
import pydicom
import pytest
from conformance import dcentvfy, dciodvfy_errors, dcmftest
from dicom_factory import region
from findings_case import PUBLIC, clip, public_file
from highdicom.seg import SegmentationTypeValues
from service_case import bright_model
from test_dicom_seg import INHERITED
from typer.testing import CliRunner

from sonodistill.dicom.commands import app
from sonodistill.errors import BundleConfigError, EmptyInputError, UnreadableFileError
from sonodistill.models import FOLDER_VARIABLE

HAS_LIBJPEG = importlib.util.find_spec("libjpeg") is not None
SHORT = [name for name in PUBLIC if name != "color3d_jpeg_baseline.dcm"]
STILL, CINE = "examples_rgb_color.dcm", "examples_ybr_color.dcm"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_model(tmp_path_factory.mktemp("model") / "model.onnx")


def predict(*words: object, code: int = 0) -> None:
    result = CliRunner().invoke(app, ["predict", "--threads", "1", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return {Path(row["source"]).name: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two that are sound, one of them with a folder of its own, and much that is not."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "later").mkdir()
    (folder / STILL).write_bytes(public_file(STILL).read_bytes())
    (folder / "later" / CINE).write_bytes(public_file(CINE).read_bytes())
    (folder / "truncated.dcm").write_bytes(public_file(STILL).read_bytes()[:100_000])
    (folder / "broken.dcm").write_bytes(public_file(CINE).read_bytes()[:-150_000])
    (folder / "notes.txt").write_text("no DICOM")
    clip(folder / "ct.dcm", Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    (folder / "link.dcm").symlink_to(public_file(STILL))
    (folder / ".hidden.dcm").write_bytes(b"hidden")
    (folder / "DICOMDIR").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def out(study: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    predict(study, "--out", folder, "--model", model, code=2)
    return folder


def test_what_is_refused_is_listed_with_its_reason_and_the_rest_is_done(study, out):
    rows = table(out)
    assert {name: row["state"] for name, row in rows.items()} == {
        **{STILL: "done", CINE: "done"},
        **dict.fromkeys(("truncated.dcm", "broken.dcm", "notes.txt", "ct.dcm"), "refused"),
    }
    assert "truncated" in rows["truncated.dcm"]["reason"] and "DICOM" in rows["notes.txt"]["reason"]
    assert "ultrasound" in rows["ct.dcm"]["reason"]
    assert all(row["reason"] for row in rows.values() if row["state"] == "refused")
    assert (rows[CINE]["frames"], rows[CINE]["route"]) == ("30", "SonoDistill")
    assert int(rows[STILL]["structures"]) > 0 and int(rows[STILL]["largest_area_pixels"]) > 0
    assert rows[CINE]["largest_area_mm2"] == "", "its calibration is stale"
    files = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    kinds = ("seg", "sr")
    expected = {f"{name}.{kind}.dcm" for name in (STILL, f"later/{CINE}") for kind in kinds}
    assert files == {"results.csv", *expected}
    assert {row["segmentation"] or "" for row in rows.values()} == {"", *(name for name in expected if "seg" in name)}


def test_the_results_are_read_by_highdicom_and_refer_to_their_image(study, out):
    for name in (STILL, f"later/{CINE}"):
        source = pydicom.dcmread(study / name, stop_before_pixels=True)
        frames = int(source.get("NumberOfFrames", 1))
        segmentation = highdicom.seg.segread(out / f"{name}.seg.dcm")
        if frames > 1:
            pixels = segmentation.get_pixels_by_source_frame(source.SOPInstanceUID, list(range(1, frames + 1)))
        else:
            pixels = segmentation.get_pixels_by_source_instance([source.SOPInstanceUID])
        assert pixels.shape == (frames, source.Rows, source.Columns, 1) and 0 < pixels.mean() < 1
        report = highdicom.sr.srread(out / f"{name}.sr.dcm")
        evidence = report.CurrentRequestedProcedureEvidenceSequence
        named = {
            each.ReferencedSOPInstanceUID
            for study_item in evidence
            for series in study_item.ReferencedSeriesSequence
            for each in series.ReferencedSOPSequence
        }
        assert {source.SOPInstanceUID, segmentation.SOPInstanceUID} == named
        assert segmentation.PatientName == report.PatientName == source.PatientName
        assert segmentation.StudyInstanceUID == report.StudyInstanceUID == source.StudyInstanceUID


def identifiers(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID
        for path in folder.rglob("*.dcm")
    }


def test_run_again_it_gives_the_same_identifiers_and_pixels_and_other_settings_give_others(study, model, out, tmp_path):
    predict(study / STILL, "--out", tmp_path / "again", "--model", model)
    predict(study / STILL, "--out", tmp_path / "again", "--model", model)  # over what is there
    predict(study / STILL, "--out", tmp_path / "other", "--model", model, "--threshold", 0.6)
    first = {name: uid for name, uid in identifiers(out).items() if name.startswith(STILL)}
    assert identifiers(tmp_path / "again") == first
    again, other = (pydicom.dcmread(tmp_path / name / f"{STILL}.seg.dcm") for name in ("again", "other"))
    assert again.PixelData == pydicom.dcmread(out / f"{STILL}.seg.dcm").PixelData
    assert set(identifiers(tmp_path / "other").values()).isdisjoint(first.values())
    assert other.SeriesInstanceUID != again.SeriesInstanceUID


@pytest.fixture(scope="module")
def public_results(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of every public file but the longest, whose acquisition is there as a shorter one."""
    folder, results = tmp_path_factory.mktemp("public"), tmp_path_factory.mktemp("results")
    for name in SHORT:
        shutil.copyfile(public_file(name), folder / name)
    result = CliRunner().invoke(
        app, ["predict", str(folder), "--out", str(results), "--model", str(model), "--preview", "gsps"]
    )
    assert result.exit_code == (0 if HAS_LIBJPEG else 2), result.output
    return results


@pytest.mark.parametrize("name", SHORT)
def test_every_public_ultrasound_file_gives_objects_that_independent_programs_pass(name, public_results):
    if name.startswith("JPGLossless") and not HAS_LIBJPEG:
        assert "needs a decoder that is not installed" in table(public_results)[name]["reason"]
        return
    made = sorted(public_results.glob(f"{name}.*.dcm"))
    assert [path.suffixes[-2] for path in made] == [".gsps", ".seg", ".sr"]
    inherited = re.compile(INHERITED.get(name, "(?!)"))
    for path in made:
        assert [line for line in dciodvfy_errors(path) if not inherited.search(line)] == []
        assert dcmftest(path)
    assert [line for line in dcentvfy(made) if not inherited.search(line)] == []
    segmentation = highdicom.seg.segread(public_results / f"{name}.seg.dcm")
    with pydicom.config.disable_value_validation():
        header = pydicom.dcmread(public_file(name), stop_before_pixels=True)
    assert (segmentation.Rows, segmentation.Columns) == (header.Rows, header.Columns)
    highdicom.sr.srread(public_results / f"{name}.sr.dcm")


@pytest.mark.parametrize("kind", ["binary", "fractional"])
def test_several_labels_are_several_segments(kind, tmp_path):
    model = bright_model(tmp_path / "model.onnx", ("bright", "brighter"))
    source = clip(tmp_path / "clip.dcm", frames=3, rows=48, columns=64)
    predict(source, "--out", tmp_path / "out", "--model", model, "--segmentation", kind, "--threshold", 0.5)
    segmentation = highdicom.seg.segread(tmp_path / "out" / "clip.dcm.seg.dcm")
    assert segmentation.segmentation_type == SegmentationTypeValues[kind.upper()]
    assert [segmentation.get_segment_description(at).segment_label for at in (1, 2)] == ["bright", "brighter"]
    assert dciodvfy_errors(tmp_path / "out" / "clip.dcm.seg.dcm") == []


def test_a_label_map_is_made_of_one_label_and_refused_where_segments_overlap(model, tmp_path):
    overlapping = bright_model(tmp_path / "model.onnx", ("bright", "brighter"))
    source = clip(tmp_path / "clip.dcm", frames=3, rows=48, columns=64)
    words = (source, "--segmentation", "labelmap", "--out", tmp_path / "out", "--model")
    predict(*words, overlapping, code=2)
    assert "segments overlap" in table(tmp_path / "out")["clip.dcm"]["reason"]
    predict(*words, model)
    segmentation = highdicom.seg.segread(tmp_path / "out" / "clip.dcm.seg.dcm")
    assert segmentation.segmentation_type == SegmentationTypeValues.LABELMAP


@pytest.mark.parametrize("preview", ["gsps", "sc"])
def test_a_preview_is_a_file_and_a_column_more(preview, model, tmp_path):
    source = clip(tmp_path / CINE, rows=120, columns=160, SequenceOfUltrasoundRegions=[region(0, 0, 159, 119)])
    words = ("--preview", preview, "--no-report", "--segmentation", "none")
    predict(source, "--out", tmp_path / "out", "--model", model, *words)
    (made,) = (tmp_path / "out").glob("*.dcm")
    assert dciodvfy_errors(made) == []
    ds = pydicom.dcmread(made)
    assert (ds.Modality == "PR") == (preview == "gsps")
    assert ("PixelData" in ds) == (preview == "sc")
    row = table(tmp_path / "out")[CINE]
    assert row["preview"] == made.name and row["segmentation"] == row["report"] == ""


def test_the_routes_of_a_configuration_choose_the_model_and_refuse_what_none_covers(study, tmp_path):
    bright_model(tmp_path / "one.onnx")
    bright_model(tmp_path / "two.onnx", ("bright", "brighter"))
    (tmp_path / "service.toml").write_text(
        '[[destination]]\nname = "out"\nkind = "folder"\nfolder = "out"\n'
        '[[route]]\nname = "stills"\nmodel = "one.onnx"\nruntime = "onnxruntime"\nsop_class = "still"\n'
        'outputs = {segmentation = "fractional", report = false}\n'
        '[[route]]\nname = "cines of a probe"\nmodel = "two.onnx"\nruntime = "onnxruntime"\ntransducer = "LINEAR"\n'
    )
    out = tmp_path / "out"
    predict(study / STILL, study / "later" / CINE, "--out", out, "--config", tmp_path / "service.toml", code=2)
    rows = table(out)
    assert rows[STILL]["route"] == "stills" and rows[STILL]["report"] == ""
    assert rows[CINE]["state"] == "refused" and "no route covers it" in rows[CINE]["reason"]
    assert "cines of a probe" in rows[CINE]["reason"]


def test_it_refuses_to_guess_the_model_and_to_do_nothing(study, model, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "empty"))  # a bundle that came without models
    (tmp_path / "service.toml").write_text("")
    with pytest.raises(BundleConfigError, match="--model FILE, or --config"):
        predict(study, "--out", tmp_path / "out")
    with pytest.raises(BundleConfigError):
        predict(study, "--out", tmp_path / "out", "--model", model, "--config", tmp_path / "service.toml")
    with pytest.raises(EmptyInputError):
        predict(tmp_path / "empty", "--out", tmp_path / "out", "--model", model)
    with pytest.raises(UnreadableFileError, match="no such file"):
        predict(tmp_path / "nowhere", "--out", tmp_path / "out", "--model", model)
    assert not (tmp_path / "out").exists()


def test_as_a_command_it_exits_with_2_and_says_nothing_of_the_patient(study, model, tmp_path):
    line = [sys.executable, "-m", "sonodistill", "dicom", "predict", str(study), "--out", str(tmp_path)]
    done = subprocess.run([*line, "--model", str(model)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "2 of 6 files analysed, 4 refused" in done.stderr, done.stderr
    patient = pydicom.dcmread(study / STILL, stop_before_pixels=True)
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    assert str(patient.PatientName) not in done.stderr and patient.SOPInstanceUID not in done.stderr
