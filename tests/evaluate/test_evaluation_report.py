"""The report of an evaluation: complete in itself and true to the store."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import cv2
import numpy as np
import pytest

from sonodistill.errors import BundleConfigError, DatasetError
from sonodistill_training.evaluate.report.write import write_report
from sonodistill_training.evaluate.results import Store

sys.path.insert(0, str(Path(__file__).parent))
from report_case import DISTILLED, RANDOM, frames, parsed, visible

_CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_QUIET = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars --mute-audio"
_OFFLINE = "--disable-background-networking --disable-component-update --disable-sync --disable-default-apps"


def test_the_page_shows_every_encoder_split_machine_and_weakness(html) -> None:
    text = visible(html)
    for word in (RANDOM, DISTILLED, "seed 3", "40 / 8 / 24", "2.99.1", "bfloat16", "c0dec0dec0de", "Research use only"):
        assert word in text, word
    few = "Fewer than 5 seeds: BUSI segmentation, fine-tuned (unet), 100 % of the labels"
    assert f"{few}: {DISTILLED} (2), {RANDOM} (2)" in text
    assert "distances are in pixels and not in millimetres" in text
    assert "nothing is known of false positives" not in text  # BUSI has normals


def test_nothing_is_loaded_from_elsewhere(html, classification_alone) -> None:
    for page in (html, classification_alone):
        assert "default-src 'none'" in page
        assert not re.search(r"https?://|url\(|@import", page)
        for tag, key, value in parsed(page).attributes:
            if key in ("src", "href", "srcset", "data", "action"):
                assert value.startswith(("data:image/", "#")), (tag, key, value[:40])


def test_tags_are_balanced_ids_unique_and_links_lead_somewhere(html, classification_alone) -> None:
    for page in (html, classification_alone):
        parser = parsed(page)
        assert parser.open == []
        ids = [value for _, key, value in parser.attributes if key == "id"]
        assert len(ids) == len(set(ids)) > 5
        assert {value[1:] for _, key, value in parser.attributes if key == "href" and value[0] == "#"} <= set(ids)


def test_every_picture_says_what_it_shows(html) -> None:
    pictures = re.findall(r"<svg [^>]*>", html) + re.findall(r"<img [^>]*>", html)
    assert len(pictures) > 40
    assert all(re.search(r'(aria-label|alt)="[^"]+"', picture) for picture in pictures)


def test_the_papers_tables_come_with_their_errata(classification_alone) -> None:
    text = visible(classification_alone)
    assert "Paper A, Table 3: BUSI classification" in text
    assert "Errata of the papers" in text


def test_without_the_papers_their_tables_are_left_out(html) -> None:
    assert "Paper A, Table" not in html


def test_the_tables_on_the_page_are_those_in_the_file(written, html) -> None:
    with (written / "tables.csv").open(encoding="utf-8", newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["column"] == "dice_empty1"]
    assert len(lines) == 3
    assert all(f"{float(line['estimate']):.3f} [{float(line['low']):.3f}" in html for line in lines)


def test_the_same_store_gives_the_same_bytes(written, store, tmp_path) -> None:
    write_report(store, tmp_path, data={"busi": frames()}, papers=False)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == sorted(path.name for path in written.iterdir())
    assert len(names) == 7
    for file in names:
        assert (tmp_path / file).read_bytes() == (written / file).read_bytes(), file


def test_the_commands_name_what_was_evaluated(html) -> None:
    (code,) = re.findall(r"<pre><code>(.*?)</code></pre>", html, flags=re.S)
    words = unescape(code)
    assert "--encoder R18-Distill-US=FILE" not in words  # this store has random weights under that name
    assert "--encoder R18-Rand --data busi=FOLDER --task segmentation --protocol finetune" in words
    assert "--epochs 4 --split seed --split-seed 3" in words
    assert "--fraction 0.1 --fraction 1" in words


def test_an_empty_store_is_refused_by_name(tmp_path) -> None:
    with pytest.raises(DatasetError, match="no finished evaluation"):
        write_report(Store(tmp_path), tmp_path)


def test_a_file_as_folder_is_refused(store, tmp_path) -> None:
    (tmp_path / "report.html").touch()
    with pytest.raises(BundleConfigError, match="is a file"):
        write_report(store, tmp_path / "report.html")


def test_a_store_with_classification_alone_has_a_report(classification_alone) -> None:
    text = visible(classification_alone)
    assert "Macro F1" in text and DISTILLED in text
    assert "No segmentation is among the results" in text
    assert "No two encoders were evaluated under the same conditions" in text


@pytest.mark.skipif(_CHROMIUM is None, reason="no Chromium or Chrome is installed")
def test_a_browser_opens_it_without_an_error_and_draws_frames_and_outlines(written, tmp_path) -> None:
    shot = tmp_path / "shot.png"
    options = [*_QUIET.split(), *_OFFLINE.split(), f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,9000"]
    command = [
        _CHROMIUM,
        *options,
        "--enable-logging=stderr",
        f"--screenshot={shot}",
        (written / "report.html").as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, timeout=120, check=True)
    assert b"CONSOLE" not in done.stderr
    image = cv2.imread(str(shot))[..., ::-1].astype(int)
    assert image.shape[:2] == (9000, 1200)
    for colour in ((64, 200, 255), (255, 176, 0)):  # truth and prediction
        assert (np.abs(image - colour).max(axis=2) < 24).sum() > 300
    # Frames are drawn once and referred to afterwards: each column of a card has gray of many levels.
    gray = (np.ptp(image, axis=2) < 6) & (image[..., 0] > 50) & (image[..., 0] < 190)
    columns = [gray[:, start : start + 180].sum() for start in (110, 360, 600, 850)]
    assert min(columns) > 50_000
