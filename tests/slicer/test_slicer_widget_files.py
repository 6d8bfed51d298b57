"""The panel and files: what is opened, sliced, exported and imported, packages of local models, sample data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.backend import Threshold
from qt_shim.harness import Panel

from sonodistill.models import FOLDER_VARIABLE


def test_a_dicom_cine_is_opened_by_its_path(module: Panel) -> None:
    from pydicom import examples

    module.ui.openButton.click()
    assert "choose a DICOM or video file" in module.ui.messageLabel.text
    module.ui.sourceEdit.text = str(examples.get_path("ybr_color"))
    module.ui.openButton.click()
    module.run(lambda: module.desk.cine is not None, 20)
    assert module.desk.cine.count == 30
    assert "33.3" in module.ui.timeLabel.text
    assert module.ui.frameSlider.maximum == 29


def test_a_file_that_is_opened_while_another_is_read_replaces_it(module: Panel) -> None:
    from pydicom import examples

    for name in ("ybr_color", "rgb_color"):
        module.ui.sourceEdit.text = str(examples.get_path(name))
        module.ui.openButton.click()
    module.idle(20)
    assert module.desk.cine.count == 1
    assert "Stopped" not in module.ui.messageLabel.text


def test_a_file_that_cannot_be_read_is_said(module: Panel, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    module.ui.sourceEdit.text = str(tmp_path / "notes.txt")
    module.ui.openButton.click()
    module.idle()
    assert "is no DICOM file" in module.ui.messageLabel.text
    assert not module.ui.cancelButton.visible


def test_a_whole_volume_is_segmented_by_a_server_that_can(module: Panel, scene: Any) -> None:
    import slicer

    class Volumes(Threshold):
        def segment_volume(self, volume: Any, model: str, cancel: Any) -> np.ndarray:
            return (volume.voxels > 50).astype(np.uint8)

    module.connect(Threshold())
    module.ui.wholeVolumeButton.click()
    assert "No volume is chosen" in module.ui.messageLabel.text
    module.parameters.volume = slicer.util.addVolumeFromArray(np.full((4, 8, 9), 90, np.uint8), name="block")
    module.ui.wholeVolumeButton.click()
    assert "sweep the volume by planes" in module.ui.messageLabel.text
    module.connect(Volumes())
    module.ui.wholeVolumeButton.click()
    module.idle()
    assert "block segmented is there" in module.ui.messageLabel.text
    assert scene.GetFirstNodeByName("block segmented").GetSegmentation().GetNumberOfSegments() == 1


def test_a_still_is_a_cine_of_one_frame(module: Panel) -> None:
    import slicer

    module.parameters.volume = slicer.util.addVolumeFromArray(np.full((1, 40, 50), 90, np.uint8), name="still")
    module.ui.sweepButton.click()
    module.idle()
    assert module.desk.cine.count == 1


def test_a_volume_is_cut_by_planes_and_about_an_axis(module: Panel, scene: Any) -> None:
    import slicer

    module.parameters.volume = slicer.util.addVolumeFromArray(np.full((16, 24, 24), 90, np.uint8), name="block")
    kinds = type(module.parameters.sweepKind)
    module.parameters.sweepKind = kinds.OBLIQUE
    assert module.ui.planeSelector.enabled
    assert not module.ui.axisSelector.enabled
    module.ui.sweepButton.click()
    assert "needs a plane" in module.ui.messageLabel.text
    plane = scene.AddNewNodeByClass("vtkMRMLMarkupsPlaneNode")
    plane.SetCenterWorld(12, 12, 8)
    plane.SetNormalWorld(0, 0.6, 0.8)
    module.parameters.plane, module.parameters.sweepCount, module.parameters.sweepStepMm = plane, 5, 1.0
    module.ui.sweepButton.click()
    module.idle()
    assert module.desk.cine.count == 5
    module.parameters.sweepKind = kinds.ROTATIONAL
    module.ui.sweepButton.click()
    assert "needs an axis" in module.ui.messageLabel.text
    axis = scene.AddNewNodeByClass("vtkMRMLMarkupsLineNode")
    axis.AddControlPointWorld(12, 12, 0)
    axis.AddControlPointWorld(12, 12, 16)
    module.parameters.axis, module.parameters.sweepCount = axis, 6
    module.ui.sweepButton.click()
    module.idle()
    assert module.desk.cine.count == 6


def test_a_volume_is_sliced_drawn_on_and_put_together_again(module: Panel, scene: Any) -> None:
    from UltrasoundSegmentLib.masks.status import Status

    import slicer

    z, y, x = np.mgrid[:24, :40, :40]
    ball = ((x - 20) ** 2 + (y - 20) ** 2 + ((z - 12) * 1.5) ** 2 < 15**2).astype(np.uint8)
    volume = slicer.util.addVolumeFromArray(ball * 100, name="ball")
    volume.SetSpacing(1.0, 1.0, 1.5)
    module.ui.sweepButton.click()
    assert "No volume is chosen" in module.ui.messageLabel.text
    module.parameters.volume = volume
    module.ui.sweepButton.click()
    module.run(lambda: module.desk.cine is not None)
    cine = module.desk.cine
    assert cine.count == 24
    store = module.desk.masks(["ball"])
    for index in range(cine.count):
        store.write(index, (cine.frame(index).image > 50).astype(np.uint8), Status.EDITED, annotator="anna")
    module.ui.volumeButton.click()
    module.run(lambda: "ml" in module.ui.volumeLabel.text)
    true = float(ball.sum()) * 1.5 / 1000
    assert float(module.ui.volumeLabel.text.split(":")[1].split()[0]) == pytest.approx(true, rel=0.02)
    segmentations = scene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    assert segmentations >= 1


FORMS = ("SEG_NRRD", "PNG", "COCO", "DICOM_SEG")


@pytest.mark.parametrize("form", FORMS)
def test_what_was_accepted_is_exported_and_read_again(module: Panel, tmp_path: Path, form: str) -> None:
    from pydicom import examples
    from UltrasoundSegmentLib.masks.status import Status

    if form == "DICOM_SEG":
        pytest.importorskip("highdicom", reason="needs highdicom: pip install sonodistill[dicom]")
        module.ui.sourceEdit.text = str(examples.get_path("ybr_color"))
        module.ui.openButton.click()
        module.idle(20)
    else:
        module.cine(3)
    module.ui.exportButton.click()
    assert "no masks yet" in module.ui.messageLabel.text
    cine = module.desk.cine
    mask = np.zeros(cine.frame(0).image.shape, np.uint8)
    mask[100:140, 120:200] = 1
    store = module.desk.masks(["cavity"])
    store.write(0, mask, Status.ACCEPTED, annotator="anna")
    store.write(1, mask, Status.PREDICTED, confidence=0.5)
    module.ui.exportButton.click()
    assert "No folder is chosen" in module.ui.messageLabel.text
    module.parameters.exportForm = type(module.parameters.exportForm)[form]
    module.parameters.exportFolder = str(tmp_path / "out")
    module.ui.exportButton.click()
    module.run(lambda: not module.widget.exchange.tasks.busy)
    assert module.ui.messageLabel.text == ""
    assert module.ui.exchangeLabel.text.startswith("1 written, 1 left out")
    store.clear(0)
    files = [path for path in (tmp_path / "out").iterdir() if path.is_file()]
    module.parameters.importFile = str(tmp_path / "out" if form == "PNG" else files[0])
    module.ui.importButton.click()
    module.run(lambda: not module.widget.exchange.tasks.busy)
    assert module.ui.messageLabel.text == ""
    assert module.ui.exchangeLabel.text.startswith("1 labels read")
    assert store.status(0) is Status.ACCEPTED
    np.testing.assert_array_equal(store.mask(0), mask)
    assert store.labels == ("cavity",)


def test_labels_are_imported_into_a_cine_without_masks(module: Panel, tmp_path: Path) -> None:
    from UltrasoundSegmentLib.exchange.exports import export
    from UltrasoundSegmentLib.masks.status import Status

    cine = module.cine(3)
    store = module.desk.masks(["cavity"])
    store.write(1, np.ones((240, 320), np.uint8), Status.ACCEPTED, annotator="anna")
    export(cine, store, tmp_path, "coco")
    module.desk.leave()
    cine.browser.RemoveSynchronizedSequenceNode(store.sequence.GetID())
    cine.scene.RemoveNode(store.sequence)
    module.desk.use(cine.browser)
    assert module.desk.store is None
    module.parameters.importFile = str(next(tmp_path.glob("*.json")))
    module.ui.importButton.click()
    module.run(lambda: not module.widget.exchange.tasks.busy)
    assert module.ui.messageLabel.text == ""
    assert module.desk.store.labels == ("cavity",)
    assert module.widget.review.strip.statusAt(1) == "accepted"


def test_the_packages_of_local_models_are_only_named_where_slicer_cannot_ask(module: Panel, tmp_path: Path) -> None:
    from UltrasoundSegmentWidgets import packages

    lines = tmp_path / "requirements.txt"
    lines.write_text("# a comment\nnumpy>=1\nno-such-package-here[extra]>=2  # why\n", encoding="utf-8")
    assert packages.missing(lines) == ["no-such-package-here[extra]>=2"]
    with pytest.raises(packages.PackagesMissingError, match="slicer.util.pip_install"):
        packages.ensure(lines)
    assert packages.missing() == []
    module.parameters.backendKind = type(module.parameters.backendKind).LOCAL
    module.ui.packagesButton.click()
    assert module.ui.messageLabel.text == "The packages of local models are installed."


def test_slicer_asks_before_it_installs(module: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    from UltrasoundSegmentWidgets import packages

    asked: list[Any] = []
    stand_in = types.ModuleType("slicer.packaging")
    stand_in.load_requirements = lambda path: Path(path).read_text(encoding="utf-8").split()
    stand_in.pip_ensure = lambda requirements, **more: asked.append((requirements, more))
    monkeypatch.setitem(sys.modules, "slicer.packaging", stand_in)
    lines = tmp_path / "requirements.txt"
    lines.write_text("no-such-package-here\n", encoding="utf-8")
    with pytest.raises(packages.PackagesMissingError, match="Not installed"):
        packages.ensure(lines)
    assert asked == [(["no-such-package-here"], {"requester": "UltrasoundSegment"})]


def test_a_local_model_that_is_none_is_said(module: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))  # a bundle that came without models
    module.parameters.backendKind = type(module.parameters.backendKind).LOCAL
    module.ui.connectButton.click()
    assert "No model file is chosen" in module.ui.messageLabel.text
    (tmp_path / "model.onnx").write_bytes(b"no model")
    module.ui.localModelEdit.text = str(tmp_path / "model.onnx")
    module.ui.connectButton.click()
    module.idle(60)
    assert "model.onnx" in module.ui.backendLabel.text
    assert module.ui.connectButton.enabled


def test_sample_data_is_registered_and_made_without_a_network(module: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    import types

    import UltrasoundSegment

    registered: list[dict[str, Any]] = []
    stand_in = types.ModuleType("SampleData")

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(**given: Any) -> None:
            registered.append(given)

    stand_in.SampleDataLogic = SampleDataLogic
    monkeypatch.setitem(sys.modules, "SampleData", stand_in)
    UltrasoundSegment.registerSampleData()
    synthetic, colour = registered
    assert all(Path(one["thumbnailFileName"]).is_file() for one in registered)
    assert colour["uris"].startswith("https://")
    images = synthetic["customDownloader"](None)
    assert images.GetNumberOfDataNodes() == 60


def test_the_checksum_of_the_sample_is_that_of_the_file(module: Panel) -> None:
    import hashlib

    from pydicom import examples
    from UltrasoundSegmentWidgets import sample_data

    digest = hashlib.sha256(Path(examples.get_path("ybr_color")).read_bytes()).hexdigest()
    assert f"SHA256:{digest}" == sample_data.CINE_SHA256


@pytest.mark.parametrize("said", ['{"categories": 5}', '{"categories": [5]}', '{"labels": 5}', "[]", "{"])
def test_a_damaged_json_file_is_refused_in_words(module: Panel, tmp_path: Path, said: str) -> None:
    from UltrasoundSegmentWidgets.exchange import names_in

    path = tmp_path / "annotations.json"
    path.write_text(said, encoding="utf-8")
    assert names_in(path) == []
    module.cine(2)
    module.parameters.importFile = str(path)
    module.ui.importButton.click()
    module.run(lambda: not module.widget.exchange.tasks.busy)
    text = module.ui.messageLabel.text
    assert text and "object" not in text.replace("JSON object", "")
