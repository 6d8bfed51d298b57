"""Nothing that a build writes or prints names a file, a folder, a patient, a date or this machine."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from sonodistill_training.bench.cine import screen
from sonodistill_training.corpus.shards import Corpus
from sonodistill_training.corpus.simulator import simulate_frame

KEY = b"a key of thirty-two bytes or more"
# As file and folder names, Patient Name and ID, Study Date, screen text, and the folders of this machine have them.
NAMES = ("John_Doe", "John", "Doe^", "DOE^", "19700101", "clinic", "still_0", "photo_0", "_cine", "pytest", "/tmp")
# Compressed and encoded bytes hold any three letters somewhere.
LONG = tuple(name for name in NAMES if len(name) >= 8)


def written_text(folder):
    """Everything in the files of a corpus that is text: pages as they are, strings and metadata of its tables."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".json", ".md"):
            text = path.read_text(encoding="utf-8")
            # Pictures are base64 and may spell anything.
            yield (
                path.name,
                " ".join(part.split('"')[-1] if i else part for i, part in enumerate(text.split("base64,"))),
            )
            yield path.name, text.replace("base64,", "") if path.suffix != ".html" else ""
        elif path.suffix == ".parquet":
            table = pq.read_table(path)
            binary = {"hash", "appearance", "thumbnail"}
            for name in set(table.column_names) - binary:
                yield f"{path.name} {name}", str(table[name].to_pylist())
            yield f"{path.name} metadata", str(pq.read_metadata(path).metadata) + str(pq.read_schema(path))
        yield "a file's name", path.relative_to(folder).as_posix()


@pytest.mark.parametrize("name", NAMES)
def test_no_output_holds_a_name(built, name):
    for where, text in written_text(built.folder):
        assert name not in text, where


def test_no_byte_of_any_file_spells_a_name_or_the_key(built):
    for path in built.folder.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            for secret in (*(name.encode() for name in LONG), str(built.sources).encode(), KEY, KEY.hex().encode()):
                assert secret not in data, path.name


def test_the_command_prints_no_name(built):
    """Not for the corrupt and the truncated file either."""
    assert "could not be read" in built.printed
    assert not [name for name in NAMES if name in built.printed]


def test_text_beside_the_sector_is_in_no_stored_frame(built):
    corpus = Corpus(built.folder)
    rows = [row for row in built.frames if row["status"] == "kept"]
    stamped = {row["id"] for number in range(3) for row in built.of(f"_screen_{number}.png")}
    assert stamped <= {row["id"] for row in rows}
    for index, row in enumerate(rows):
        if row["id"] in stamped:
            image = corpus[index]
            top, left, bottom, right = row["crop"]
            nothing = np.zeros((400, 520), np.uint8)
            text = screen(nothing, 0, "DOE^JOHN 19700101")[top:bottom, left:right]
            drawn = cv2.resize((text > 0).astype(np.float32), image.shape[::-1], interpolation=cv2.INTER_AREA) > 0
            assert not image[drawn].any()


def test_text_beside_the_sector_changes_no_stored_pixel(corpus_of, tmp_path):
    stored = []
    for text in ("", "DOE^JOHN 19700101"):
        folder = tmp_path / f"with {text}" / "scans"
        folder.mkdir(parents=True)
        shown = screen(simulate_frame(100, size=(400, 520), probe="convex").image, 0, text)
        cv2.imwrite(str(folder / "a.png"), shown)
        [row] = corpus_of(tmp_path / f"corpus {text}", folder).frames
        stored.append(row["pixels_sha256"])
    assert stored[0] == stored[1]


def test_a_thumbnail_of_a_page_shows_no_letters(built):
    """Lettering of a report is a few percent of its page: there is less than two pixels of it in the thumbnail."""
    [row] = built.of("text.png")
    small = cv2.imdecode(np.frombuffer(row["thumbnail"], np.uint8), cv2.IMREAD_UNCHANGED)
    capitals = 22  # pixels, of 300
    assert capitals * small.shape[0] / row["source_height"] < 2


def test_names_follow_from_the_key_alone(corpus_of, stills, tmp_path):
    folder = stills(tmp_path / "scans", range(3))
    first, second, other = (
        corpus_of(tmp_path / name, folder, key=key)
        for name, key in (("first", KEY), ("second", KEY), ("other", b"another key of thirty-two bytes!"))
    )

    def hidden(corpus):
        return [{row[name] for row in corpus.frames} for name in ("id", "source", "group")]

    assert hidden(first) == hidden(second)
    for names, others in zip(hidden(first), hidden(other), strict=True):
        assert not names & others
    pixels = [sorted(row["pixels_sha256"] for row in corpus.frames) for corpus in (first, other)]
    assert pixels[0] == pixels[1]


def test_who_has_the_key_and_the_files_finds_a_path_again(built, clinic, key_file, command):
    [row] = built.of("_calibrated.dcm")
    ran = command("corpus", "find", row["source"], clinic, "--key", key_file, cwd=clinic.parent)
    assert ran.returncode == 0
    assert ran.stdout.strip().endswith("John_Doe_19700101_calibrated.dcm")


def test_another_key_finds_nothing(built, clinic, command, tmp_path):
    (tmp_path / "key").write_bytes(b"another key of thirty-two bytes!")
    ran = command("corpus", "find", built.frames[0]["source"], clinic, "--key", tmp_path / "key", cwd=clinic.parent)
    assert ran.returncode == 2
    assert "no file is called" in ran.stderr


@pytest.mark.slow
def test_a_crashed_decoder_and_a_killed_worker_print_no_name(clinic, key_file, tmp_path):
    command = [sys.executable, "-m", "sonodistill", "corpus", "build", clinic, "--out", "corpus", "--key", key_file]
    running = subprocess.Popen(
        [*map(str, command), "--workers", "1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    shards, killed = tmp_path / "corpus" / "shards", []
    while running.poll() is None and len(killed) < 2:
        for process in psutil.Process(running.pid).children(recursive=True) if list(shards.glob(".*.tmp")) else ():
            with contextlib.suppress(psutil.Error):
                if "corpus.child" in " ".join(process.cmdline()) and process.pid not in killed:
                    victim = process.parent() if killed else process
                    killed.append(process.pid)
                    victim.kill()
                    break
        time.sleep(0.01)
    printed = running.communicate(timeout=300)[0]
    assert len(killed) == 2, "a decoder, and then the worker of its successor"
    assert running.returncode == 2
    assert not [name for name in NAMES if name in printed], printed
    for where, text in written_text(tmp_path / "corpus"):
        assert not [name for name in NAMES if name in text], where
