"""Tracked sequences: pixels as SimpleITK reads them, each frame where the chain of its transforms puts it."""

from __future__ import annotations

import gzip
import importlib.util
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

import SimpleITK
from UltrasoundSegmentLib.frames.calibration import with_ruler
from UltrasoundSegmentLib.frames.igs import SequenceFileError, read_sequence
from UltrasoundSegmentLib.frames.image import pixels
from UltrasoundSegmentLib.frames.read import UnknownFileError, read
from UltrasoundSegmentLib.frames.tracked import TrackingError, load_tracked

IMAGE_TO_PROBE = np.array([[0.0, 0.2, 0, 5], [0.2, 0, 0, -3], [0, 0, -0.2, 1], [0, 0, 0, 1]])


def images(count: int = 4, size: tuple[int, ...] = (6, 9)) -> np.ndarray:
    return np.random.default_rng(4).integers(0, 255, (count, *size)).astype(np.uint8)


def at(x: float, angle: float = 0.0) -> np.ndarray:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, -sine, 0, x], [sine, cosine, 0, 1], [0, 0, 1, 2], [0, 0, 0, 1.0]])


def said(matrix: np.ndarray) -> str:
    return " ".join(repr(float(value)) for value in matrix.ravel())


def tracking(count: int = 4) -> list[dict[str, str]]:
    """Fields of each frame: the probe moves and turns, and so does the reference."""
    return [
        {
            "ProbeToTrackerTransform": said(at(10 * index, 0.1 * index)),
            "ProbeToTrackerTransformStatus": "OK",
            "ReferenceToTrackerTransform": said(at(-index, 0.3)),
            "ReferenceToTrackerTransformStatus": "OK",
            "Timestamp": str(100.5 + 0.25 * index),
            "ImageStatus": "OK",
        }
        for index in range(count)
    ]


def written(
    path: Path,
    values: np.ndarray,
    frames: list[dict[str, str]],
    orientation: str = "MF",
    compressed: bool = True,
    **more: str,
) -> Path:
    data = zlib.compress(values.tobytes()) if compressed else values.tobytes()
    count, rows, columns = values.shape[:3]
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "CompressedData": str(compressed),
        "DimSize": f"{columns} {rows} {count}",
        "ElementNumberOfChannels": str(values.shape[3] if values.ndim == 4 else 1),
        "ElementSpacing": "1 1 1",
        "ElementType": {"uint8": "MET_UCHAR", "int16": "MET_SHORT"}[values.dtype.name],
        "UltrasoundImageOrientation": orientation,
        **more,
    }
    for index, fields in enumerate(frames):
        lines.update({f"Seq_Frame{index:04}_{name}": value for name, value in fields.items()})
    header = "".join(f"{key} = {value}\n" for key, value in lines.items()) + "ElementDataFile = LOCAL\n"
    path.write_bytes(header.encode() + data)
    return path


@pytest.mark.parametrize("compressed", [True, False])
def test_frames_lie_where_image_probe_tracker_and_reference_put_them(scene, tmp_path, compressed):
    path = written(tmp_path / "scan.igs.mha", images(), tracking(), compressed=compressed)
    cine = load_tracked(path, scene, image_to_probe=IMAGE_TO_PROBE)
    assert cine.times() == pytest.approx([0, 0.25, 0.5, 0.75])
    assert cine.calibration.spacing_mm == pytest.approx((0.2, 0.2))
    assert cine.calibration.source == "volume geometry"
    assert (cine.calibration.time_source, cine.calibration.warnings) == ("tracker timestamps", ())
    for index in range(4):
        frame = cine.frame(index)
        np.testing.assert_array_equal(frame.image, images()[index])
        pixel = np.array([7, 2, 0, 1])
        expected = np.linalg.solve(at(-index, 0.3), at(10 * index, 0.1 * index) @ (IMAGE_TO_PROBE @ pixel))
        np.testing.assert_allclose(frame.ijk_to_ras @ pixel, expected)
        assert np.linalg.det(frame.ijk_to_ras) > 0


def test_another_target_is_used_when_asked_for(scene, tmp_path):
    path = written(tmp_path / "scan.igs.mha", images(), tracking())
    cine = load_tracked(path, scene, image_to_probe=IMAGE_TO_PROBE, target="Tracker")
    np.testing.assert_allclose(cine.frame(3).ijk_to_ras[:3, 3], (at(30, 0.3) @ IMAGE_TO_PROBE)[:3, 3])
    with pytest.raises(TrackingError, match="to Phantom"):
        load_tracked(path, scene, target="Phantom")


def test_without_the_place_on_the_probe_the_scale_is_unknown_and_a_ruler_sets_it(scene, tmp_path):
    cine = load_tracked(written(tmp_path / "scan.igs.mha", images(4, (20, 30)), tracking()), scene)
    assert cine.calibration.spacing_mm is None
    assert any("where the image lies on the probe" in warning for warning in cine.calibration.warnings)
    place = cine.ijk_to_world(0)
    ends = [(place @ [x, 5, 0, 1])[:3] for x in (4, 24)]
    known = with_ruler(ends, 6.0, cine)
    assert known.spacing_mm == pytest.approx((0.3, 0.3))
    np.testing.assert_allclose(cine.frame(2).ijk_to_ras[:3, 3], np.linalg.solve(at(-2, 0.3), at(20, 0.2))[:3, 3])


def test_a_transform_of_the_image_in_the_file_needs_no_calibration(scene, tmp_path):
    frames = [{**fields, "ImageToProbeTransform": said(IMAGE_TO_PROBE)} for fields in tracking()]
    cine = load_tracked(written(tmp_path / "scan.igs.mha", images(), frames), scene)
    assert cine.calibration.spacing_mm == pytest.approx((0.2, 0.2))


def test_rows_stored_from_the_far_end_are_turned_and_stay_where_they_were(scene, tmp_path):
    near = load_tracked(written(tmp_path / "n.igs.mha", images(), tracking()), scene, image_to_probe=IMAGE_TO_PROBE)
    path = written(tmp_path / "f.igs.mha", images(), tracking(), "MNA")
    far = load_tracked(path, scene, image_to_probe=IMAGE_TO_PROBE)
    np.testing.assert_array_equal(far.frame(1).image, images()[1][::-1])
    for row in range(6):
        here = far.frame(1).ijk_to_ras @ [3, row, 0, 1]
        np.testing.assert_allclose(here, near.frame(1).ijk_to_ras @ [3, 5 - row, 0, 1], atol=1e-9)


def test_frames_the_tracker_lost_are_left_out_and_named(scene, tmp_path):
    frames = tracking()
    frames[1]["ProbeToTrackerTransformStatus"] = "INVALID"
    frames[3]["ImageStatus"] = "INVALID"
    cine = load_tracked(written(tmp_path / "scan.igs.mha", images(), frames), scene, image_to_probe=IMAGE_TO_PROBE)
    assert cine.count == 2
    np.testing.assert_array_equal(cine.frame(1).image, images()[2])
    assert cine.frame(1).time_s == pytest.approx(0.5)
    assert any("2 of 4 frames have no valid place and are left out: 2, 4" in text for text in cine.calibration.warnings)
    for fields in frames:
        fields["ProbeToTrackerTransformStatus"] = "INVALID"
    before = scene.GetNumberOfNodes()
    with pytest.raises(TrackingError, match="No frame"):
        load_tracked(tmp_path / "scan.igs.mha", scene, target="Stylus")
    assert scene.GetNumberOfNodes() == before


def test_a_sequence_without_a_tracker_is_a_cine(scene, tmp_path):
    cine = load_tracked(written(tmp_path / "scan.igs.mha", images().astype(np.int16), [{}] * 4), scene)
    assert cine.count == 4
    assert cine.calibration.frame_time_s is None
    assert cine.calibration.spacing_mm is None
    np.testing.assert_array_equal(pixels(cine.volume(2)), images()[2])
    path = written(tmp_path / "mm.igs.mha", images(), [{}] * 4, ElementSpacing="0.2 0.3 1")
    assert load_tracked(path, scene).calibration.spacing_mm == (0.3, 0.2)


def test_colour_and_nrrd(scene, tmp_path):
    values = images(2, (5, 7, 3))
    header = "\n".join(
        [
            "NRRD0004",
            "# made by a test",
            "type: uint8",
            "dimension: 4",
            "kinds: vector domain domain list",
            "sizes: 3 7 5 2",
            "encoding: gz",
            "endian: little",
            "ultrasound image orientation:=MF",
            f"Seq_Frame0001_ProbeToTrackerTransform:={said(at(4))}",
            f"Seq_Frame0000_ProbeToTrackerTransform:={said(at(3))}",
            "\n",
        ]
    )
    path = tmp_path / "scan.igs.nrrd"
    path.write_bytes(header.encode() + gzip.compress(values.tobytes()))
    cine = read(path, scene)
    np.testing.assert_array_equal(pixels(cine.volume(1)), values[1])
    np.testing.assert_allclose(cine.frame(1).ijk_to_ras[:3, 3], (4, 1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:-40], "ends after|cannot be decompressed"),
        (lambda raw: raw.replace(b"MET_UCHAR", b"MET_TEXT "), "type of its pixels"),
        (lambda raw: raw.replace(b"DimSize = 9", b"DimSize = x"), "where numbers belong"),
        (lambda raw: raw.replace(b"DimSize = 9", b"DimSize = 0"), "sizes"),
        (lambda raw: raw.replace(b"DimSize = 9 6", b"DimSize = 99999999 99999999"), "MiB"),
        (lambda raw: raw.replace(b"= LOCAL", b"= other.raw"), "another file"),
        (lambda raw: raw[:200], "no end"),
        (lambda raw: b"\0" * 100, "neither"),
        (lambda raw: b"", "neither"),
    ],
)
def test_damaged_files_say_what_is_wrong(scene, tmp_path, change, message):
    path = written(tmp_path / "scan.igs.mha", images(), tracking())
    path.write_bytes(change(path.read_bytes()))
    before = scene.GetNumberOfNodes()
    with pytest.raises(SequenceFileError, match=message):
        load_tracked(path, scene)
    assert scene.GetNumberOfNodes() == before


def test_compressed_pixels_take_no_more_memory_than_the_header_says(tmp_path):
    path = written(tmp_path / "bomb.igs.mha", np.zeros((4, 6, 9), np.uint8), [])
    head = path.read_bytes().partition(b"LOCAL\n")[0] + b"LOCAL\n"
    path.write_bytes(head + zlib.compress(bytes(50_000_000)))
    assert read_sequence(path).images.shape == (4, 6, 9)


def test_a_matrix_that_is_no_place_is_refused(scene, tmp_path):
    path = written(tmp_path / "scan.igs.mha", images(), tracking())
    for matrix in (np.zeros((4, 4)), np.eye(3), np.full((4, 4), np.nan)):
        with pytest.raises(TrackingError, match="invertible"):
            load_tracked(path, scene, image_to_probe=matrix)


def test_what_is_no_file_of_frames_is_refused(scene, tmp_path):
    (tmp_path / "notes.txt").write_text("notes")
    for name in ("notes.txt", "nowhere.mp4"):
        with pytest.raises(UnknownFileError):
            read(tmp_path / name, scene)


@pytest.mark.parametrize(
    ("name", "count", "target"),
    [
        ("SpinePhantomFreehand.igs.mha", 21, "Reference"),
        ("BoneUltrasound_L14.igs.mha", 21, "Reference"),
        ("BkCurvilinearScanConvertedData.igs.mha", 1, None),
        ("ColorNrrdSample.igs.nrrd", 1, None),
    ],
)
def test_real_sequences_of_plus(scene, shared, name, count, target):
    path = shared / "data/raw/volumes" / name
    if not path.is_file():
        pytest.skip(f"no {name}")
    image = SimpleITK.ReadImage(str(path))
    expected = SimpleITK.GetArrayFromImage(image)
    cine = read(path, scene)
    assert (cine.count, cine.attribute("target")) == (count, target)
    assert cine.calibration.spacing_mm is None
    frames = expected.reshape(count, *pixels(cine.volume(0)).shape)
    for index in (0, count - 1):
        np.testing.assert_array_equal(pixels(cine.volume(index)), frames[index])
        if target:
            field = _matrix_of(image, index)
            np.testing.assert_allclose(cine.frame(index).ijk_to_ras, field, atol=1e-9)
    if target:
        steps = np.diff(cine.times())
        assert steps.min() > 0.05
        assert cine.calibration.frame_time_s == pytest.approx(np.median(steps))
        # A hand moves some millimetres between frames, no more.
        moves = [np.linalg.norm(b.ijk_to_ras[:3, 3] - a.ijk_to_ras[:3, 3]) for a, b in _pairs(cine)]
        assert max(moves) < 10


def _pairs(cine: Any) -> list[tuple[Any, Any]]:
    frames = list(cine.frames())
    return list(zip(frames, frames[1:], strict=False))


def _matrix_of(image: Any, index: int) -> np.ndarray:
    """Reference from probe, of the fields as SimpleITK reads them."""

    def field(name: str) -> np.ndarray:
        text = image.GetMetaData(f"Seq_Frame{index:04}_{name}Transform")
        return np.array([float(value) for value in text.split()]).reshape(4, 4)

    return np.linalg.inv(field("ReferenceToTracker")) @ field("ProbeToTracker")
