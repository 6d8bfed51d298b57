"""A training whose corpus shows what its student will be evaluated on does not start."""

from __future__ import annotations

import csv
import functools
import json

import cv2
import numpy as np
import pytest

from sonodistill.errors import DatasetError
from sonodistill_training.bench.cine import screen
from sonodistill_training.corpus.extract import extract
from sonodistill_training.corpus.extraction import Extraction
from sonodistill_training.corpus.manifest import FRAME_COLUMNS, KEPT, MANIFEST, table, write_table
from sonodistill_training.corpus.shards import Corpus, ShardWriter
from sonodistill_training.corpus.simulator import simulate_frame
from sonodistill_training.distill.guard import EvaluationLeakError, require_no_leak

NAME = "John_Doe_19700101"
"""What no error may show."""


@functools.cache
def image(seed):
    return simulate_frame(seed, size=(200, 260)).image


def labelled(folder, images, dataset=""):
    """A folder of labelled frames whose files are called after a patient."""
    folder.mkdir(parents=True)
    rows = []
    for number, shown in enumerate(images):
        cv2.imwrite(str(folder / f"{NAME}_{number}.png"), shown)
        rows.append({"file": f"{NAME}_{number}.png", "label": "benign", "dataset": dataset})
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


def corpus_of(folder, images, dataset="local", header=(), facts=()):
    """A corpus of these frames with the ids f0, f1 ..."""
    rows = []
    with ShardWriter(folder / "0.arrow") as writer:
        for number, shown in enumerate(images):
            row = {"id": f"f{number}", "dataset": dataset, "status": KEPT, "shard": "0.arrow"}
            rows.append(row | {"row": writer.append(shown)} | (facts[number] if facts else {}))
    write_table(
        folder / MANIFEST, table(rows, FRAME_COLUMNS), {"sha256": "ab" * 32, "short_side": "256", **dict(header)}
    )
    return Corpus(folder)


def trimmed(gray, fraction):
    y, x = (round(side * fraction) for side in gray.shape)
    return np.ascontiguousarray(gray[y : gray.shape[0] - y, x : gray.shape[1] - x])


GUISES = {
    "as it is": lambda gray: gray,
    "re-encoded": lambda gray: cv2.imdecode(cv2.imencode(".jpg", gray, [cv2.IMWRITE_JPEG_QUALITY, 40])[1], 0),
    "smaller": lambda gray: cv2.resize(gray, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA),
    "brighter": lambda gray: np.clip(gray * 1.2, 0, 255).astype(np.uint8),
    "cropped": lambda gray: trimmed(gray, 0.1),
    "mirrored": lambda gray: np.ascontiguousarray(gray[:, ::-1]),
    "mirrored and cropped": lambda gray: trimmed(gray[:, ::-1], 0.08),
}
SEEN = range(7)
OTHERS = range(100, 112)


@pytest.fixture(scope="module")
def busi(tmp_path_factory):
    """The evaluation set."""
    return labelled(tmp_path_factory.mktemp("sets") / "BUSI", map(image, SEEN))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Its first two frames."""
    return labelled(tmp_path_factory.mktemp("small") / "BUSI", map(image, SEEN[:2]))


def leak_of(corpus, *arguments):
    with pytest.raises(EvaluationLeakError) as caught:
        require_no_leak(corpus, *arguments)
    return caught.value


def test_a_corpus_of_other_frames_passes(tmp_path, small):
    require_no_leak(corpus_of(tmp_path, map(image, OTHERS)), [small])


def test_without_evaluation_set_nothing_is_looked_at(tmp_path):
    require_no_leak(corpus_of(tmp_path, map(image, OTHERS)), [])


@pytest.mark.parametrize("uri", [False, True], ids=["mapped", "streamed"])
def test_copies_in_every_guise_are_found_and_named_by_id_and_row(tmp_path, busi, uri):
    copies = [guise(image(seed)) for seed, guise in enumerate(GUISES.values())]
    corpus = corpus_of(tmp_path, [*map(image, OTHERS), *copies])
    error = leak_of(Corpus(tmp_path.as_uri()) if uri else corpus, [busi])
    assert error.examples == [
        f"f{len(OTHERS) + seed} shows row {seed + 1} of index.csv" + (" mirrored" if "mirrored" in guise else "")
        for seed, guise in enumerate(GUISES)
    ]
    assert "7 frames of the corpus (7 of local) show 7 frames of BUSI" in error.message


def test_the_error_says_what_to_do_shows_five_and_names_no_file(tmp_path, busi):
    error = leak_of(corpus_of(tmp_path, map(image, SEEN)), [busi])
    assert str(error).count("shows row") == 5 and "; ..." in error.message
    assert "corpus build" in error.remedy and "--evaluation BUSI=PATH --on-leak drop" in error.remedy
    assert error.evaluation == "BUSI" and error.path == tmp_path
    assert NAME not in str(error)


def test_every_set_is_looked_at(tmp_path, small):
    second = labelled(tmp_path / "ddti", map(image, range(200, 202)))
    corpus = corpus_of(tmp_path / "corpus", [*map(image, OTHERS), image(201)])
    require_no_leak(corpus, [small])
    assert leak_of(corpus, [small, second]).evaluation == "ddti"


@pytest.mark.parametrize(("dataset", "column"), [("busi", ""), ("breast", "Breast")])
def test_a_data_set_of_the_same_name_is_refused_whatever_it_shows(tmp_path, dataset, column):
    folder = labelled(tmp_path / "BUSI", [image(0)], column)
    error = leak_of(corpus_of(tmp_path / "corpus", map(image, OTHERS), dataset), [folder])
    assert f"holds 12 frames of {dataset}" in error.message
    assert error.message.endswith("f0; f1; f2; f3; f4; ...") and f"leave {dataset} out" in error.remedy


def test_frames_without_a_set_of_their_own_have_no_name(tmp_path):
    folder = labelled(tmp_path / "local", [image(0)], "local")
    require_no_leak(corpus_of(tmp_path / "corpus", map(image, OTHERS)), [folder])


def test_only_the_frames_that_are_trained_on_count(tmp_path, small):
    splits = [{"split": "test" if seed in SEEN else "train"} for seed in [*OTHERS, *SEEN]]
    corpus_of(tmp_path, map(image, [*OTHERS, *SEEN]), facts=splits)
    require_no_leak(Corpus(tmp_path, split="train"), [small])
    assert len(leak_of(Corpus(tmp_path), [small]).examples) == 2


def test_a_built_corpus_is_compared_as_its_build_would_have_cleaned_the_set(tmp_path):
    screens = [screen(image(seed), seed, "DOE^JOHN 19700101") for seed in range(3)]
    options = Extraction(short_side=128, overlay="mask")
    frames, facts = [], []
    for number, shown in enumerate([screens[2], screens[0]]):
        cv2.imwrite(str(tmp_path / f"{number}.png"), shown)
        [(header, payload)] = [
            answer for answer in extract(str(tmp_path / f"{number}.png"), options.to_json(), "00" * 32)
            if answer[0]["kind"] == "frame"
        ]  # fmt: skip
        ends = np.cumsum(header["sizes"]).tolist()
        frames.append(np.frombuffer(payload[: ends[0]], np.uint8).reshape(header["height"], header["width"]))
        facts.append({"hash": payload[ends[1] : ends[2]], "appearance": payload[ends[2] : ends[3]]})
    blank = [np.zeros_like(frame) for frame in frames]  # its manifest has the signatures: no pixel is read
    header = {"options": json.dumps(options.to_json())}
    corpus = corpus_of(tmp_path / "corpus", blank, "clinic", header, facts)
    error = leak_of(corpus, [labelled(tmp_path / "held out", screens)])
    assert error.examples == ["f0 shows row 3 of index.csv", "f1 shows row 1 of index.csv"]


def test_a_resumed_training_does_not_compare_again(tmp_path, small):
    """Seen by a corpus that changes behind the back of its own hash, which no real one does."""
    cache = tmp_path / "output" / "guard.json"
    require_no_leak(corpus_of(tmp_path / "corpus", map(image, OTHERS)), [small], cache)
    changed = corpus_of(tmp_path / "corpus", map(image, SEEN))
    require_no_leak(changed, [small], cache)
    leak_of(changed, [small])
    grown = labelled(tmp_path / "BUSI", map(image, [0, 1, 9]))
    leak_of(changed, [grown], cache)
    other = corpus_of(tmp_path / "other", map(image, SEEN), header={"sha256": "cd" * 32})
    leak_of(other, [small], cache)


def test_a_leak_is_not_forgotten_the_second_time(tmp_path, small):
    corpus, cache = corpus_of(tmp_path, map(image, SEEN)), tmp_path / "guard.json"
    assert str(leak_of(corpus, [small], cache)) == str(leak_of(corpus, [small], cache))


@pytest.mark.parametrize("content", ["", "{}", "[1]", "\udcff", '{"no_leak": 3}'])
def test_a_cache_that_cannot_be_read_is_as_good_as_none(tmp_path, content):
    folder, cache = labelled(tmp_path / "BUSI", [image(1)]), tmp_path / "guard.json"
    cache.write_bytes(content.encode("utf-8", "surrogateescape"))
    leak_of(corpus_of(tmp_path / "leaking", [image(1)]), [folder], cache)
    require_no_leak(corpus_of(tmp_path / "sound", [image(2)]), [folder], cache)
    assert len(json.loads(cache.read_text())["no_leak"]) == 1


def test_a_folder_without_index_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="has no index.csv"):
        require_no_leak(corpus_of(tmp_path / "corpus", [image(0)]), [tmp_path / "empty"])


def test_real_sets_pass_and_planted_busi_frames_do_not(shared, tmp_path):
    def some(name, step, most):
        with (shared / "data" / "frames" / name / "index.csv").open() as file:
            rows = list(csv.DictReader(file))[::step][:most]
        return [cv2.imread(str(shared / "data" / "frames" / row["file"]), 0) for row in rows]

    held_out = some("busi", 52, 15)
    folder = labelled(tmp_path / "busi", held_out)
    others = [frame for name in ("hc18", "aul", "pocus_lung", "muscle_timtrack") for frame in some(name, 40, 10)]
    require_no_leak(corpus_of(tmp_path / "sound", others), [folder])
    planted = [guise(held_out[2 * place]) for place, guise in enumerate(GUISES.values())]
    error = leak_of(corpus_of(tmp_path / "leaking", [*others, *planted]), [folder])
    shown = {(int(text.split()[0][1:]) - len(others), int(text.split()[3]) - 1) for text in error.examples}
    assert {(place, 2 * place) for place in range(len(GUISES))} <= shown
    assert min(place for place, _ in shown) >= 0
