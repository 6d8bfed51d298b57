"""The OHIF viewer in headless Chromium, as somebody in front of it uses it."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SECONDS = 120
_SOFTWARE_GL = ("--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
_VIEWPORT = """
    const { cornerstoneViewportService, viewportGridService } = window.services;
    const viewport = cornerstoneViewportService.getCornerstoneViewport(viewportGridService.getActiveViewportId());
"""
_LABELMAPS = """
    const { Labelmap } = window.cornerstoneTools.segmentation.state.getSegmentation('1').representationData;
    const labelmaps = Labelmap.imageIds.map(id => window.cornerstone.cache.getImage(id));
"""


class Viewer:
    """A page with the viewer.

    Attributes:
        page: of Playwright.
        errors: that scripts of the page raised.
        hosts: that were asked for anything.
        requests: (method, URL, body) of those to the annotation server's own routes.
        shots: folder of the screenshots.
    """

    def __init__(self, page: Any, url: str, shots: Path) -> None:
        self.page, self.url, self.shots = page, url, shots
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []
        page.set_default_timeout(SECONDS * 1000)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("response", lambda response: self.hosts.add(response.url.split("/")[2]))
        page.on("request", self._note)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}{path}")

    def open_study(self, study: str) -> None:
        """Open it in the mode of MONAI Label, and wait for its first image."""
        self.open(f"/ohif/monai-label?StudyInstanceUIDs={study}")
        self.until(lambda: self.image_id is not None)

    def connect(self) -> None:
        """Have the panel ask the server what it has."""
        self.page.locator(".settingsTable button").click()
        self.page.get_by_title("Run Segmentation", exact=True).wait_for()
        self.until(lambda: self.page.evaluate(f"() => {{ {_LABELMAPS} return labelmaps.length > 0 }}"))
        time.sleep(1.5)  # the panel paints its segments a second later, and does not say when it has

    def show(self, series: str) -> None:
        """Bring a series into view by its thumbnail, which has its description."""
        if self.series != series:
            self.page.locator("[data-cy=study-browser-thumbnail]", has_text=series).dblclick()
            self.until(lambda: self.series == series and self.image_id is not None)

    def scroll_to(self, index: int) -> None:
        """Scroll in the stack as the mouse wheel does, to an image counted from 0."""
        self.page.evaluate(f"index => {{ {_VIEWPORT} return viewport.setImageIdIndex(index) }}", index)
        self.until(lambda: self.index == index)

    @property
    def image_id(self) -> str | None:
        """Of Cornerstone, of the image in view."""
        found: str | None = self.page.evaluate(
            f"""() => {{ try {{ {_VIEWPORT} return viewport.getCurrentImageId() ?? null }}
            catch (error) {{ return null }} }}"""  # while it loads there is no viewport, and none of its services
        )
        return found

    @property
    def series(self) -> str:
        """The description of the series whose image is in view."""
        found = self.page.evaluate(
            f"""() => {{ {_VIEWPORT}
            const instance = window.cornerstone.metaData.get('instance', viewport?.getCurrentImageId?.() ?? '-');
            return instance?.SeriesDescription ?? '' }}"""
        )
        return str(found)

    @property
    def index(self) -> int:
        return int(self.page.evaluate(f"() => {{ {_VIEWPORT} return viewport.getCurrentImageIdIndex() }}"))

    @property
    def overlays(self) -> int:
        """How many labelmaps are drawn over the image in view."""
        drawn = f"() => {{ {_VIEWPORT} return viewport.getActors().filter(({{ uid }}) => uid !== viewport.id).length }}"
        return int(self.page.evaluate(drawn))

    def labels(self, image_id: str | None = None) -> np.ndarray:
        """(H, W) uint8, segment numbers of the image in view, or of another; zeros where it has no labelmap."""
        found = self.page.evaluate(
            f"""id => {{ {_LABELMAPS}
            const found = labelmaps.find(({{ referencedImageId }}) => referencedImageId === id);
            return found ? [found.rows, found.columns, Array.from(found.voxelManager.getScalarData())] : null }}""",
            image_id or self.image_id,
        )
        if found is None:
            return np.zeros((0, 0), np.uint8)
        return np.array(found[2], np.uint8).reshape(found[0], found[1])

    def click(self, x: float, y: float) -> None:
        """Set a point of the panel on the pixel (x, y) of the image in view."""
        before = self.points
        self.page.mouse.click(*self._on_screen(x, y))
        self.until(lambda: self.points == before + 1)
        self.page.wait_for_timeout(500)  # sooner, it would be a double click

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        """Press the mouse on a pixel (x, y) of the image in view, move to another one, and let go."""
        self.page.mouse.move(*self._on_screen(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self._on_screen(*end), steps=steps)
        self.page.mouse.up()

    def _on_screen(self, x: float, y: float) -> tuple[float, float]:
        left, top = self.page.evaluate(
            f"""([x, y]) => {{ {_VIEWPORT}
            const [left, top] = viewport.worldToCanvas(viewport.getImageData().imageData.indexToWorld([x, y, 0]));
            const box = viewport.canvas.getBoundingClientRect();
            return [box.left + left, box.top + top] }}""",
            [x, y],
        )
        return left, top

    @property
    def points(self) -> int:
        """How many points are shown."""
        return int(self.page.evaluate("() => window.cornerstoneTools.annotation.state.getAllAnnotations().length"))

    def press(self, button: str) -> None:
        """Press a button of the toolbar."""
        self.page.locator(f"[data-cy={button}]").click()

    def said(self, text: str) -> None:
        """Wait for a message."""
        self.page.get_by_text(text).first.wait_for()

    def until(self, condition: Callable[[], object], seconds: float = SECONDS) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                self.shot("failure")
                pytest.fail(f"not so after {seconds} s; errors of the page: {self.errors[-3:]}")
            self.page.wait_for_timeout(100)

    def shot(self, name: str) -> None:
        """Keep a screenshot, also in ``SONODISTILL_ARTEFACTS`` where that names a folder."""
        path = self.shots / f"ohif-{name}.png"
        self.page.screenshot(path=path)
        if kept := os.environ.get("SONODISTILL_ARTEFACTS"):
            Path(kept).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, kept)

    def _note(self, request: Any) -> None:
        path = "/" + request.url.split("/", 3)[3]
        if path.startswith(("/infer", "/sonodistill", "/info")):
            self.requests.append((request.method, path, request.post_data or "" if "infer" in path else ""))


@contextmanager
def viewer(url: str, shots: Path) -> Iterator[Viewer]:
    """A browser without a window, and the viewer of the server at ``url`` in it; skipped where there is no browser."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("Chromium is not installed (apt-get install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", *_SOFTWARE_GL])
        try:
            yield Viewer(browser.new_page(viewport={"width": 1400, "height": 900}), url, shots)
        finally:
            browser.close()
