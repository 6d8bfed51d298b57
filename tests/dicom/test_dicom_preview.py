"""Previews: outlines to lay over the images, and pictures that show nothing beside the ultrasound image."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from dataclasses import replace
from pathlib import Path

import findings_case
import measured_case
import numpy as np
import pytest
from conformance import dciodvfy_errors
from dicom_factory import region
from measured_case import measured
from pydicom import dcmread
from pydicom.uid import (
    ColorSoftcopyPresentationStateStorage,
    GrayscaleSoftcopyPresentationStateStorage,
    SecondaryCaptureImageStorage,
)

from sonodistill.dicom.algorithm import Segment
from sonodistill.dicom.errors import ResultError
from sonodistill.dicom.findings import Findings
from sonodistill.dicom.write.check import check_references
from sonodistill.dicom.write.common import write_file
from sonodistill.dicom.write.preview import WORDS, preview, preview_frame
from sonodistill.dicom.write.report import tracking
from sonodistill.errors import SonoDistillError
from sonodistill.frames.dicom import read_dicom
from sonodistill.frames.regions import regions_of
from sonodistill.frames.sector import image_boxes


def written(findings: Findings, path: Path, kind: str, image: np.ndarray | None = None):
    write_file(preview(findings, kind, image), path)
    return dcmread(path)


def shown_frame(findings: Findings) -> np.ndarray:
    """(H, W) or (H, W, 3): what a secondary capture is made from; skips where no decoder is installed."""
    try:
        (frame,) = read_dicom(findings.source.path, only=[preview_frame(findings)])
    except SonoDistillError as error:
        pytest.skip(error.message)
    rgb = frame.rgb()
    return frame.image if rgb is None else rgb


def outlines_of(ds) -> list[tuple[int | None, np.ndarray, str]]:
    """(frame, points, tracking UID) of each graphic."""
    return [
        (
            annotation.ReferencedImageSequence[0].get("ReferencedFrameNumber"),
            np.reshape(graphic.GraphicData, (-1, 2)),
            graphic.TrackingUID,
        )
        for annotation in ds.GraphicAnnotationSequence
        for graphic in annotation.get("GraphicObjectSequence", [])
    ]


def regional_clip(path: Path, **attributes) -> Path:
    """A cine of noise up to its borders with a region in the middle: rows 40 to 99, columns 50 to 149."""
    return findings_case.clip(
        path, 3, 120, 200, SequenceOfUltrasoundRegions=[region(50, 40, 149, 99)], FrameTime=40, **attributes
    )


@pytest.mark.parametrize("name", findings_case.PUBLIC)
def test_outlines_over_every_public_ultrasound_image(name, tmp_path):
    findings = measured(findings_case.public_file(name), frames=4)
    path = tmp_path / "gsps.dcm"
    ds = written(findings, path, "gsps")
    found = outlines_of(ds)
    assert len(found) == len(findings.structures)
    for structure, (frame, points, uid) in zip(findings.structures, found, strict=True):
        np.testing.assert_array_equal(points[:-1], structure.contour)
        np.testing.assert_array_equal(points[-1], points[0])
        assert frame == (structure.frame + 1 if findings.source.multiframe else None)
        assert uid == tracking(findings, structure)[1]
    check_references(path, findings)
    assert measured_case.faults(path, findings) == []


@pytest.mark.parametrize("name", findings_case.PUBLIC)
def test_a_picture_of_every_public_ultrasound_image_or_a_refusal(name, tmp_path):
    findings = measured(findings_case.public_file(name), frames=4)
    image = shown_frame(findings)
    path = tmp_path / "sc.dcm"
    try:
        ds = written(findings, path, "sc", image)
    except ResultError as error:
        assert "no valid 2D region" in error.message
        return
    assert ds.SOPClassUID == SecondaryCaptureImageStorage
    assert ds.BurnedInAnnotation == "YES"
    assert ds.SourceImageSequence[0].get("ReferencedFrameNumber") == (
        preview_frame(findings) + 1 if findings.source.multiframe else None
    )
    check_references(path, findings)
    assert measured_case.faults(path, findings) == []


@pytest.mark.parametrize("name", ["US1_UNCR.dcm", "US1_J2KR.dcm", "examples_rgb_color.dcm", "examples_jpeg2k.dcm"])
def test_a_frame_with_a_hospitals_name_and_no_region_is_refused(name):
    findings = measured(findings_case.public_file(name))
    with pytest.raises(ResultError, match="might show text"):
        preview(findings, "sc", shown_frame(findings))


@pytest.mark.parametrize("name", ["gdcm-US-ALOKA-16.dcm", "OBXXXX1A.dcm", "color3d_jpeg_baseline.dcm"])
def test_nothing_of_the_source_is_left_outside_its_regions(name):
    findings = replace(measured(findings_case.public_file(name), frames=1), structures=())
    source = findings.source
    picture = preview(findings, "sc", shown_frame(findings)).pixel_array[: source.rows, : source.columns]
    outside = np.ones(picture.shape[:2], bool)
    for top, left, bottom, right in image_boxes(regions_of(source.ds, source.rows, source.columns), outside.shape):
        outside[top:bottom, left:right] = False
    assert not picture[outside].any()
    assert picture[~outside].any()


def test_a_picture_holds_the_region_the_outlines_and_the_words(tmp_path):
    findings = measured(regional_clip(tmp_path / "us.dcm"))
    image = shown_frame(findings)
    blank = preview(replace(findings, structures=()), "sc", image).pixel_array
    # Noise has no sector: the whole region is shown, and nothing else.
    np.testing.assert_array_equal(blank[40:100, 50:150], np.repeat(image[40:100, 50:150, None], 3, axis=2))
    assert not blank[:40].any() and not blank[100:120].any() and not blank[40:100, :50].any()
    assert blank[120:].max() == 255  # the words
    outlined = preview(findings, "sc", image).pixel_array
    colours = {tuple(int(value) for value in colour) for colour in outlined[(outlined != blank).any(axis=2)]}
    assert {(240, 228, 66), (86, 180, 233)} <= colours


def test_an_outline_lies_on_the_border_of_its_structure(tmp_path):
    path = findings_case.clip(
        tmp_path / "us.dcm", 1, 60, 200, SequenceOfUltrasoundRegions=[region(0, 0, 199, 59)], FrameTime=40
    )
    findings = measured(path)
    mask = np.zeros((60, 200), bool)
    mask[20:40, 50:90] = True
    contour = np.array([(50, 20), (90, 20), (90, 40), (50, 40)], np.float32)
    findings = replace(findings, structures=(replace(findings.structures[0], contour=contour),))
    picture = preview(findings, "sc", np.zeros((60, 200), np.uint8)).pixel_array[:60]
    # The last row and column of pixels inside, and the first outside.
    expected = np.zeros((60, 200), bool)
    expected[19:41, 49:91] = True
    expected[21:39, 51:89] = False
    np.testing.assert_array_equal(picture.any(axis=2), expected)


def test_the_frame_shown_is_that_of_the_largest_area(tmp_path):
    findings = measured(regional_clip(tmp_path / "us.dcm"))
    small, large = findings.structures[0], replace(findings.structures[0], frame=2, pixels=9999)
    assert preview_frame(replace(findings, structures=(small, large))) == 2
    assert preview_frame(replace(findings, structures=())) == 0


def test_monochrome_gets_a_grayscale_state_with_its_window(tmp_path):
    path = regional_clip(
        tmp_path / "us.dcm", WindowCenter=[100, 90], WindowWidth=[180, 50], RescaleSlope=2, RescaleIntercept=-5
    )
    ds = written(measured(path), tmp_path / "gsps.dcm", "gsps")
    assert ds.SOPClassUID == GrayscaleSoftcopyPresentationStateStorage
    window = ds.SoftcopyVOILUTSequence[0]
    assert (window.WindowCenter, window.WindowWidth) == (100, 180)
    assert (ds.RescaleSlope, ds.RescaleIntercept, ds.PresentationLUTShape) == (2, -5, "IDENTITY")
    assert dciodvfy_errors(tmp_path / "gsps.dcm") == []


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 100}, {"WindowCenter": 100, "WindowWidth": "broken"}])
def test_a_window_that_is_none_is_not_written(window, tmp_path):
    path = regional_clip(tmp_path / "us.dcm")
    findings = measured(path)
    findings.source.ds.update(dcmread(path, stop_before_pixels=True))
    for keyword, value in window.items():
        findings.source.ds.add_new(keyword, "LO" if isinstance(value, str) else "DS", value)
    assert "SoftcopyVOILUTSequence" not in preview(findings, "gsps")


def test_the_polarity_of_monochrome1_is_kept(tmp_path):
    path = findings_case.clip(tmp_path / "us.dcm", 1, 60, 80, photometric="MONOCHROME1")
    assert preview(measured(path), "gsps").PresentationLUTShape == "INVERSE"


def test_pixels_that_are_not_square_are_shown_in_their_shape():
    area = preview(measured(findings_case.public_file("color-px.dcm")), "gsps").DisplayedAreaSelectionSequence[0]
    assert area.PresentationPixelAspectRatio == [4, 3]


def test_colour_and_palettes_get_a_colour_state():
    for name in ("examples_palette.dcm", "examples_ybr_color.dcm", "examples_rgb_color.dcm"):
        ds = preview(measured(findings_case.public_file(name), frames=1), "gsps")
        assert ds.SOPClassUID == ColorSoftcopyPresentationStateStorage
        assert ds.ICCProfile[12:16] == b"spac"


def test_outlines_say_what_they_are(tmp_path):
    segments = (Segment("Läsion"), Segment("b"), Segment("c"))
    findings = measured(regional_clip(tmp_path / "us.dcm"), segments=segments)
    ds = written(findings, tmp_path / "gsps.dcm", "gsps")
    texts = [t.UnformattedTextValue for a in ds.GraphicAnnotationSequence for t in a.get("TextObjectSequence", [])]
    assert texts == [WORDS]
    assert [layer.GraphicLayerDescription for layer in ds.GraphicLayerSequence][1:] == ["Läsion", "b", "c"]
    assert dciodvfy_errors(tmp_path / "gsps.dcm") == []


def test_nothing_found_is_said_too(tmp_path):
    findings = replace(measured(regional_clip(tmp_path / "us.dcm")), structures=())
    ds = written(findings, tmp_path / "gsps.dcm", "gsps")
    assert outlines_of(ds) == []
    assert "no structure found" in ds.GraphicAnnotationSequence[0].TextObjectSequence[0].UnformattedTextValue
    assert dciodvfy_errors(tmp_path / "gsps.dcm") == []


@pytest.mark.parametrize(("rows", "columns"), [(37, 53), (101, 35), (61, 401)])
@pytest.mark.parametrize("kind", ["gsps", "sc"])
def test_odd_sizes(rows, columns, kind, tmp_path):
    regions = [region(0, 0, columns - 1, rows - 1)]
    path = findings_case.clip(tmp_path / "us.dcm", 2, rows, columns, SequenceOfUltrasoundRegions=regions)
    findings = measured(path)
    written(findings, tmp_path / "out.dcm", kind, np.full((rows, columns), 90, np.uint8))
    assert dciodvfy_errors(tmp_path / "out.dcm") == []


def test_dcmtk_reads_both(tmp_path):
    if shutil.which("dcmpschk") is None or shutil.which("dcmj2pnm") is None:
        pytest.skip("dcmpschk and dcmj2pnm are not installed (apt install dcmtk)")
    findings = measured(regional_clip(tmp_path / "us.dcm"))
    picture = written(findings, tmp_path / "sc.dcm", "sc", shown_frame(findings)).pixel_array
    written(findings, tmp_path / "gsps.dcm", "gsps")
    checked = subprocess.run(
        ["dcmpschk", str(tmp_path / "gsps.dcm")], capture_output=True, text=True, timeout=60, check=False
    )
    said = checked.stdout + checked.stderr
    # It does not know a DT with microseconds and a time zone, which PS3.5 6.2 allows.
    known = said.count("ContributionDateTime")
    assert checked.returncode == 0 and said.count("Error:") == known, said
    command = ["dcmj2pnm", str(tmp_path / "sc.dcm"), str(tmp_path / "sc.ppm")]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    data = (tmp_path / "sc.ppm").read_bytes()[-picture.size :]
    np.testing.assert_array_equal(np.frombuffer(data, np.uint8).reshape(picture.shape), picture)


def test_no_warning_quotes_the_patient(tmp_path):
    findings = measured(regional_clip(tmp_path / "us.dcm", PatientName="Onlyonecomponent", PatientSex="X"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        preview(findings, "gsps")
        preview(findings, "sc", np.zeros((120, 200), np.uint8))


def test_an_image_of_another_size_is_refused(tmp_path):
    findings = measured(regional_clip(tmp_path / "us.dcm"))
    with pytest.raises(ValueError, match="for a source of"):
        preview(findings, "sc", np.zeros((60, 100), np.uint8))
    with pytest.raises(ValueError, match="needs the image"):
        preview(findings, "sc")
