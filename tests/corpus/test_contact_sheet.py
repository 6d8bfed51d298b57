"""The contact sheet: one file that shows what was kept and refused, and opens in a browser without a network."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess

import cv2
import numpy as np
import pytest

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars --mute-audio"
_OFFLINE = "--disable-background-networking --disable-component-update --disable-sync --disable-default-apps"


@pytest.fixture(scope="module")
def sheet(built):
    return (built.folder / "contact_sheet.html").read_text(encoding="utf-8")


def pictures(sheet):
    return re.findall(r'src="data:image/(?:png|jpeg);base64,([^"]+)"', sheet)


def test_every_status_has_its_section(sheet, built):
    for status in {row["status"] for row in built.frames}:
        titles = {"kept": "Kept", "duplicate": "Duplicates", "colour_doppler": "Colour Doppler, kept apart"}
        assert f"<h2>{titles.get(status, f'Refused: {status}')}" in sheet


def test_nothing_is_loaded_from_elsewhere(sheet):
    assert "default-src 'none'" in sheet
    assert not re.search(r"https?://", sheet)
    assert set(re.findall(r'(?:src|href)="([^:"]*)', sheet)) == {"data"}


def test_every_picture_can_be_decoded_and_is_small(sheet, built):
    found = pictures(sheet)
    assert len(found) >= sum(row["status"] == "kept" for row in built.frames)
    for picture in found:
        image = cv2.imdecode(np.frombuffer(base64.b64decode(picture), np.uint8), cv2.IMREAD_COLOR)
        assert max(image.shape) <= 320


def test_refused_files_are_shown_with_the_reason(sheet, built):
    for row in built.frames:
        if row["status"] not in ("kept", "duplicate", "colour_doppler"):
            assert row["reason"].split("'")[0] in sheet


def test_duplicates_and_leaks_have_sections(corpus_of, stills, tmp_path):
    mine = stills(tmp_path / "mine", range(6))
    copies = stills(tmp_path / "copies", range(2))
    exam = stills(tmp_path / "exam", range(4, 6))
    sources = (f"mine={mine}", f"copies={copies}")
    found = corpus_of(tmp_path / "corpus", *sources, evaluation=[f"exam={exam}"], on_leak="drop")
    sheet = (found.folder / "contact_sheet.html").read_text(encoding="utf-8")
    assert "<h2>Duplicates (2)</h2>" in sheet
    assert 'class="pair"' in sheet
    assert "evaluation set (2)</h2>" in sheet


@pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_browser_shows_the_pictures(built, tmp_path):
    page, shot = built.folder / "contact_sheet.html", tmp_path / "shot.png"
    options = [*_QUIET.split(), *_OFFLINE.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,2400"]
    command = [_CHROMIUM, *options, f"--screenshot={shot}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=60, check=True)
    image = cv2.imread(str(shot))
    assert image.shape[:2] == (2400, 1200)
    # Frames are dark on a light page: speckle of many gray levels in the middle of it, and the line of the sector.
    middle = cv2.cvtColor(image[400:, 60:1140], cv2.COLOR_BGR2GRAY)
    assert (middle < 60).mean() > 0.05
    assert len(np.unique(middle)) > 200
    blue, green, red = (image[..., channel].astype(int) for channel in range(3))
    assert ((blue > 150) & (blue - red > 80) & (green > red)).sum() > 500
