"""The OHIF viewer of MONAI Label's wheel in a browser, on the app and a real Orthanc: ultrasound is annotated in it."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("monailabel", reason="monailabel is not installed; `pip install sonodistill[label]`")

from ohif_case import Viewer, viewer
from pacs_case import Pacs, pacs
from PIL import Image

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pacs]:
    with pacs(tmp_path_factory.mktemp("ohif")) as started:
        yield started


@pytest.fixture(scope="module")
def opened(running: Pacs) -> Iterator[Viewer]:
    """One page for all tests: it takes long to load."""
    with viewer(running.server.url, running.folder) as shown:
        yield shown


@pytest.fixture
def page(running: Pacs, opened: Viewer) -> Viewer:
    """The study in the mode of MONAI Label, its panel connected."""
    if "monai-label" not in opened.page.url:
        opened.open_study(running.study)
        hide = opened.page.get_by_text("Confirm and Hide")
        if hide.count():
            hide.click()
        opened.connect()
    return opened


def gray(running: Pacs, path: str) -> np.ndarray:
    response = running.server.ask("GET", path)
    return np.array(Image.open(io.BytesIO(response.content)))


def predicted(running: Pacs, image: str) -> np.ndarray:
    """(H, W): what the model says of an image when it is asked without the viewer."""
    response = running.server.request("POST", "/infer/segmentation?output=image", params={"image": image})
    assert response.ok, response.text[:500]
    return np.array(Image.open(io.BytesIO(response.content)))


def test_the_study_is_in_the_list_and_opens_in_the_mode_of_monai_label(running: Pacs, opened: Viewer) -> None:
    opened.open("/ohif/")
    opened.page.get_by_text("Test, Ultrasound").first.click()
    link = opened.page.locator("a", has_text="MONAI Label")
    link.wait_for()
    opened.shot("studies")
    link.click()
    opened.until(lambda: opened.image_id is not None)
    assert running.cine.SOPInstanceUID in str(opened.image_id)
    opened.page.get_by_text("Confirm and Hide").click()
    assert opened.page.locator("[data-cy=study-browser-thumbnail]").count() == 3
    opened.connect()
    opened.shot("study")


def test_the_panel_lists_the_models_that_segment_and_those_that_take_clicks(page: Viewer) -> None:
    options = page.page.locator(".modelSelector select").all_inner_texts()
    assert [option.split() for option in options][:2] == [["segmentation"], ["interactive"]]


def test_the_cine_plays_and_stops(page: Viewer) -> None:
    page.show("cine")
    page.scroll_to(0)
    play = page.page.locator("[data-cy=cine-player-play-pause]")
    play.click()
    page.until(lambda: page.index >= 3)
    page.shot("cine")
    play.click()
    time.sleep(0.5)
    stopped = page.index
    time.sleep(1)
    assert page.index == stopped and page.errors == []


def run(page: Viewer) -> str:
    """Press "Run" of the segmentation; the id of the image that was sent."""
    page.page.locator("label", has_text="Auto-Segmentation").click()
    before = len(page.requests)
    with page.page.expect_response(lambda response: "/infer/" in response.url) as answer:
        page.page.get_by_title("Run Segmentation", exact=True).click()
    assert answer.value.status == 200
    page.until(lambda: len(page.requests) > before)
    return re.findall(r"image=([0-9.f]+)", answer.value.url)[0]


def test_a_still_is_segmented_by_the_panel(running: Pacs, page: Viewer) -> None:
    page.show("still")
    assert run(page) == running.still.SOPInstanceUID
    page.until(lambda: page.labels().any())
    expected = predicted(running, running.still.SOPInstanceUID)
    assert 0 < expected.sum() < expected.size
    assert np.array_equal(page.labels(), expected)
    assert page.overlays == 1
    page.shot("still")


def test_stills_of_a_series_are_segmented_one_by_one_whatever_their_sizes(running: Pacs, page: Viewer) -> None:
    page.show("stack")
    for index, shape in enumerate([(480, 640), (240, 320)]):
        page.scroll_to(index)
        assert run(page) == running.stack[index].SOPInstanceUID
        page.until(lambda: page.labels().any())
        assert page.labels().shape == shape
        assert np.array_equal(page.labels(), predicted(running, running.stack[index].SOPInstanceUID))


def test_a_frame_of_a_cine_is_segmented_and_no_other_frame_shows_it(running: Pacs, page: Viewer) -> None:
    page.show("cine")
    page.scroll_to(4)
    labelled, name = page.image_id, f"{running.cine.SOPInstanceUID}.f00004"
    assert run(page) == name
    page.until(lambda: page.labels().any())
    assert np.array_equal(page.labels(), predicted(running, name))
    page.shot("frame")
    page.scroll_to(5)
    assert not page.labels().any() and page.labels(labelled).any()
    shown = page.page.evaluate(
        """() => {
        const id = window.services.viewportGridService.getActiveViewportId();
        const { getCurrentLabelmapImageIdForViewport } = window.cornerstoneTools.segmentation.state;
        return window.cornerstone.cache.getImage(getCurrentLabelmapImageIdForViewport(id, '1')).referencedImageId }"""
    )
    assert shown == page.image_id  # each frame is drawn with its own labelmap


def test_the_brush_and_the_eraser_change_the_frame_in_view_alone(page: Viewer) -> None:
    page.show("cine")
    page.scroll_to(12)
    assert not page.labels().any()
    page.press("SonoDistillBrush")
    page.drag((100, 100), (140, 100))
    page.until(lambda: page.labels().any())
    mask, painted = page.labels(), page.image_id
    assert mask[100, 110:130].all() and set(np.unique(mask)) == {0, 1} and mask.mean() < 0.5
    page.shot("brush")
    page.scroll_to(13)
    assert not page.labels().any() and np.array_equal(page.labels(painted), mask)
    page.scroll_to(12)
    page.press("SonoDistillEraser")
    page.drag((100, 100), (140, 100))
    page.until(lambda: page.labels().sum() < mask.sum())
    page.press("Zoom")


def test_clicks_are_sent_in_pixels_of_the_frame_and_their_answer_is_shown(running: Pacs, page: Viewer) -> None:
    page.show("cine")
    page.scroll_to(8)
    tab = page.page.locator(".tab", has_text="Point Prompts")
    tab.locator("label").click()
    tab.locator("tr.clickable-row", has_text="background").click()
    page.scroll_to(7)
    page.click(20, 20)
    tab.locator("tr.clickable-row", has_text="lesion").click()
    page.until(lambda: page.points == 0)  # each label shows its own
    page.click(140, 110)
    page.scroll_to(8)
    page.click(150, 120)
    page.click(160.4, 130.3)
    tab.locator("tr.clickable-row", has_text="background").click()
    page.until(lambda: page.points == 1)
    page.click(60, 30)
    tab.locator("tr.clickable-row", has_text="lesion").click()
    page.until(lambda: page.points == 3)
    with page.page.expect_response(lambda response: "/infer/interactive" in response.url) as answer:
        page.page.get_by_title("Run PointPrompts").click()
    assert answer.value.status == 200
    assert f"image={running.cine.SOPInstanceUID}.f00008" in answer.value.url
    sent = page.requests[-1][2]
    # Those of frame 7 are not among them.
    assert '"foreground":[[150,120,0],[160,130,0]]' in sent and '"background":[[60,30,0]]' in sent
    page.said("Running Inference for Point Prompts - Successful")
    page.shot("clicks")
    page.page.get_by_text("Clear All Points").click()
    page.page.locator("label", has_text="Auto-Segmentation").click()


def test_what_was_accepted_is_on_the_server_and_is_shown_again(running: Pacs, page: Viewer) -> None:
    page.show("still")
    if not page.labels().any():
        run(page)
        page.until(lambda: page.labels().any())
    mask, image = page.labels(), running.still.SOPInstanceUID
    page.press("SonoDistillAccept")
    page.said("This image is accepted")
    assert np.array_equal(gray(running, f"/sonodistill/label/{image}"), mask)
    row = running.server.get(f"/sonodistill/label/{image}/rows")["current"][-1]
    assert row["status"] == "accepted" and row["annotator"] == "annotator"
    page.show("stack")
    page.scroll_to(1)
    page.press("SonoDistillSkip")
    page.said("This image is skipped")
    frames = running.server.get(f"/sonodistill/items/{running.stack[1].SOPInstanceUID}")["frames"]
    assert [frame["status"] for frame in frames] == ["skipped"]

    page.open_study(running.study)
    page.connect()
    page.show("still")
    assert not page.labels().any()
    page.press("SonoDistillLoad")
    page.said("1 labels are shown")
    assert np.array_equal(page.labels(), mask)
    page.shot("loaded")


def test_the_page_asked_no_other_server_and_no_script_of_it_failed(running: Pacs, page: Viewer) -> None:
    assert page.hosts == {running.server.url.removeprefix("http://")}
    assert page.errors == []
