"""The panel and a real annotation server: the next sample, labels sent, training, versions, a server that is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("slicer_core", reason="needs slicer-core: pip install slicer-core")
pytest.importorskip("PySide6", reason="needs PySide6: pip install pyside6-essentials")

from qt_shim.harness import Panel
from server_case import Gate, Server, running


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def module(module: Panel, server: Server) -> Panel:
    """The panel, connected to the server."""
    module.ui.serverEdit.text = server.url
    module.ui.annotatorEdit.text = "anna"
    module.ui.connectButton.click()
    module.run(lambda: module.desk.backend is not None, 30)
    return module


def test_the_models_of_the_server_are_listed(module: Panel) -> None:
    assert "1 segmentation, 1 interactive models" in module.ui.backendLabel.text
    combo = module.ui.modelCombo
    assert {combo.itemText(i) for i in range(combo.count)} == {"segmentation", "interactive"}


def test_the_next_sample_is_labelled_and_submitted(module: Panel) -> None:
    module.ui.nextSampleButton.click()
    module.run(lambda: module.desk.cine is not None and module.desk.store is not None, 30)
    index = module.desk.cine.selected
    assert module.desk.store.labels == ("lesion",)
    module.ui.segmentButton.click()
    module.idle(30)
    assert module.desk.store.status(index).value == "predicted"
    module.ui.submitButton.click()
    assert "accept it first" in module.ui.messageLabel.text
    module.ui.acceptButton.click()
    module.desk.go(index)
    module.ui.submitButton.click()
    module.run(lambda: "The server has the label" in module.ui.learningLabel.text, 30)
    client = module.desk.backend.client
    from UltrasoundSegmentLib.backends.model import Cancel

    frame = module.desk.backend.frame_id(index)
    rows = client.json("GET", f"/sonodistill/label/{frame}/rows", Cancel())
    assert "accepted" in str(rows)
    assert "anna" in str(rows)
    assert not module.ui.unsentButton.enabled


def test_versions_are_asked_for(module: Panel) -> None:
    module.ui.refreshButton.click()
    module.idle(30)
    assert module.ui.versionCombo.count >= 1 or "no trained version" in module.ui.learningLabel.text


def test_a_training_is_begun_watched_and_stopped_or_refused_with_the_reason(module: Panel) -> None:
    ui = module.ui
    ui.trainButton.click()
    module.run(lambda: not ui.trainingBar.isHidden() or "refused" in ui.learningLabel.text, 60)
    if ui.trainingBar.isHidden():
        assert ui.trainButton.enabled
        return
    assert ui.stopTrainingButton.enabled
    assert not ui.trainButton.enabled
    ui.stopTrainingButton.click()
    module.run(lambda: ui.trainingBar.isHidden(), 90)
    assert ui.trainButton.enabled


def test_a_label_waits_while_the_server_is_lost_and_is_sent_when_it_is_back(module: Panel, server: Server) -> None:
    gate = Gate(server)
    try:
        module.ui.disconnectButton.click()
        module.ui.serverEdit.text = gate.url
        module.ui.connectButton.click()
        module.run(lambda: module.desk.backend is not None, 30)
        module.ui.nextSampleButton.click()
        module.run(lambda: module.desk.store is not None, 30)
        index = module.desk.cine.selected
        module.ui.acceptButton.click()
        module.desk.go(index)
        gate.shut()
        module.ui.submitButton.click()
        module.run(lambda: "does not answer" in module.ui.messageLabel.text, 30)
        assert module.ui.unsentButton.enabled
        assert module.ui.unsentButton.text == "Send 1 unsent"
        gate.open()
        module.run(lambda: "answers again" in module.ui.messageLabel.text, 30)
        module.ui.unsentButton.click()
        module.run(lambda: not module.ui.unsentButton.enabled, 30)
    finally:
        gate.shut()
