"""Frames are embedded in the background, and several annotators are told what to label next."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import examples

from sonodistill.annotate.acquire import embeddings
from sonodistill.annotate.acquire.embeddings import Embedder
from sonodistill.annotate.acquire.queue import DEFAULT, MOST, STRATEGIES, Acquisition
from sonodistill.annotate.acquire.walk import Sampling
from sonodistill.annotate.errors import InvalidIdError, InvalidPromptError, UnknownIdError, UnreachableError
from sonodistill.annotate.ids import FrameId
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import MODEL, Status
from sonodistill.annotate.studies.catalogue import FolderCatalogue
from sonodistill.annotate.training.versions import Versions
from sonodistill.networks.encoder import Encoder
from sonodistill.networks.unet import Segmenter
from sonodistill.weights import save_weights
from sonodistill.weights_header import WeightsInfo

TINY = "test_resnet"  # timm's own for tests
STILLS = 12
SECONDS = 90.0


def wait(done: Callable[[], Any]) -> None:
    until = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < until, "it takes too long"
        time.sleep(0.02)


def still(path: Path, seed: int) -> Path:
    """Speckle with a bright square, whose place follows from the seed."""
    generator = np.random.default_rng(seed)
    image = generator.integers(0, 90, (48, 64), dtype=np.uint8)
    row, column = generator.integers(0, 24), generator.integers(0, 40)
    image[row : row + 20, column : column + 20] += 150
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return path


def weights(path: Path, seed: int = 0, kind: str = "encoder") -> Path:
    torch.manual_seed(seed)
    network = Encoder(TINY).model if kind == "encoder" else Segmenter(TINY)
    labels = () if kind == "encoder" else ("lesion",)
    save_weights(path, network.state_dict(), WeightsInfo(kind, TINY, input_size=(64, 64), labels=labels))
    return path


class Bench:
    """Studies, labels, versions and what chooses, without a server."""

    def __init__(self, folder: Path) -> None:
        self.studies, self.work = folder / "studies", folder / "work"
        for at in range(STILLS):
            still(self.studies / f"p{at // 2}" / f"{at}.png", at)
        self.catalogue = FolderCatalogue(self.studies, self.work)
        self.labels = LabelStore(self.work / "labels.sqlite", ["lesion"], ["a", "b"])
        self.versions = {name: Versions(self.work / "models" / name) for name in ("embedding", "segmentation")}
        self._made: list[Acquisition] = []

    def acquisition(self, *, start: bool = True, done: bool = True, **options: Any) -> Acquisition:
        made = Acquisition(self.catalogue, self.labels, self.work, self.versions, **options)
        self._made.append(made)
        if start:
            made.start()
        if start and done:
            wait(lambda: not made.progress()["running"])
        return made

    def accept(self, frame: FrameId, annotator: str = "ann", status: Status = Status.ACCEPTED) -> None:
        image = self.catalogue.frame(frame).image
        self.labels.save(frame, (image > 120).astype(np.uint8), status=status, annotator=annotator)

    def frames(self) -> list[FrameId]:
        return [FrameId(item.id, index) for item in self.catalogue.items() for index in range(item.frames)]

    def close(self) -> None:
        for made in self._made:
            made.close()
        self.catalogue.close()
        self.labels.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    made.versions["embedding"].begin_with(weights(tmp_path / "encoder.safetensors"))
    yield made
    made.close()


def test_every_frame_is_embedded_and_new_files_are_too(bench):
    acquisition = bench.acquisition()
    progress = acquisition.progress()
    assert (progress["embedded"], progress["total"], progress["error"]) == (STILLS, STILLS, "")
    assert progress["trained"] and progress["eta_seconds"] == 0 and progress["skipped"] == []
    still(bench.studies / "later" / "one.png", 99)
    assert bench.catalogue.refresh()
    wait(lambda: acquisition.progress()["embedded"] == STILLS + 1)
    (bench.studies / "p0" / "0.png").unlink()
    bench.catalogue.refresh()
    wait(lambda: acquisition.progress()["total"] == STILLS and len(acquisition._embedder.view.frames) == STILLS)
    gone = acquisition.next("kcenter", STILLS + 1)
    assert len(gone) == STILLS and {choice.frame.item for choice in gone} == {i.id for i in bench.catalogue.items()}


def test_what_is_embedded_stays_so_over_a_restart(bench):
    bench.acquisition().close()
    (store,) = (bench.work / "embeddings").iterdir()
    again = bench.acquisition()
    assert again.progress()["embedded"] == STILLS
    assert len((store / "index.jsonl").read_text().splitlines()) == STILLS, "nothing was embedded again"
    assert again.next("kcenter")[0].why == "in the middle of all frames", "it can be chosen from at once"


def test_a_replaced_file_is_embedded_anew(bench):
    bench.acquisition().close()
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(bench.studies / "p0" / "0.png")
    bench.catalogue.refresh()
    again = bench.acquisition()
    assert again.progress()["embedded"] == STILLS
    (store,) = (bench.work / "embeddings").iterdir()
    assert len((store / "index.jsonl").read_text().splitlines()) == STILLS + 1
    assert len(again.next("kcenter", MOST)) == STILLS


def test_of_a_long_cine_every_kth_frame_is_embedded_and_those_with_a_label(bench):
    assert [len(Sampling().of(count)) for count in (1, 128, 129, 10_000)] == [1, 128, 65, 127]
    assert list(Sampling(every=4).of(10)) == [0, 4, 8]
    shutil.copy(examples.get_path("ybr_color"), bench.studies / "cine.dcm")
    bench.catalogue.refresh()
    (cine,) = [item for item in bench.catalogue.items() if item.is_cine]
    acquisition = bench.acquisition(sampling=Sampling(most=5))
    assert acquisition.progress()["total"] == STILLS + 5
    chosen = acquisition.next("kcenter", MOST)
    assert {choice.frame.index for choice in chosen if choice.frame.item == cine.id} == {0, 6, 12, 18, 24}
    bench.accept(FrameId(cine.id, 7))
    wait(lambda: acquisition.progress()["embedded"] == STILLS + 6)


def test_a_file_that_cannot_be_read_is_listed_and_the_others_go_on(bench):
    target = bench.studies / "p5" / "11.png"
    acquisition = bench.acquisition(start=False)
    content = target.read_bytes()
    target.write_bytes(content[:200])  # after the catalogue has looked at it
    acquisition.start()
    wait(lambda: acquisition.progress()["embedded"] == STILLS - 1 and not acquisition.progress()["running"])
    assert acquisition.progress()["error"] == ""
    listed = [name for name, _ in [*acquisition.progress()["skipped"], *bench.catalogue.skipped()]]
    assert "p5/11.png" in listed


def test_without_a_model_the_segmenters_encoder_embeds_and_else_an_untrained_one(tmp_path):
    bench = Bench(tmp_path)
    try:
        untrained = bench.acquisition(seed=3, done=False)
        wait(lambda: untrained.progress()["embedded"] >= STILLS)
        assert untrained.progress()["model"] == "an untrained resnet18" and not untrained.progress()["trained"]
        bench.versions["segmentation"].begin_with(weights(tmp_path / "segmenter.safetensors", kind="segmenter"))
        wait(lambda: "segmentation" in untrained.progress()["model"] and not untrained.progress()["running"])
        assert untrained.progress()["trained"] and untrained.progress()["embedded"] == STILLS
        bench.versions["embedding"].begin_with(weights(tmp_path / "encoder.safetensors"))
        wait(lambda: "the embedding model, version 1" in untrained.progress()["model"])
        wait(lambda: untrained.progress()["embedded"] == STILLS and not untrained.progress()["running"])
        assert len(list((bench.work / "embeddings").iterdir())) == 2, "what is of no use any more is removed"
    finally:
        bench.close()


def test_from_a_promotion_on_it_is_at_work_until_every_frame_is_embedded_anew(bench, tmp_path, monkeypatch):
    acquisition, said = bench.acquisition(), []
    leave = Embedder._leave

    def noted(self):
        said.append(self.progress())
        leave(self)

    monkeypatch.setattr(Embedder, "_leave", noted)
    other = bench.versions["embedding"].add(weights(tmp_path / "other.safetensors", seed=1))
    bench.versions["embedding"].promote(other.number)
    wait(lambda: "version 2" in acquisition.progress()["model"] and not acquisition.progress()["running"])
    assert acquisition.progress()["embedded"] == STILLS
    assert [each["running"] for each in said if "version 2" in each["model"]] == [True] * len(said)
    assert said


def test_weights_that_cannot_be_used_are_an_error_and_frames_are_chosen_all_the_same(bench):
    path = bench.versions["embedding"].current().path
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:1000])
    acquisition = bench.acquisition()
    wait(lambda: acquisition.progress()["error"])
    assert "version 1 was changed or lost" in acquisition.progress()["error"]
    assert len(acquisition.next(n=3)) == 3


def test_it_chooses_before_anything_is_embedded(bench):
    acquisition = bench.acquisition(start=False)
    assert acquisition.progress() | {"total": 0, "embedded": 0, "running": False} == acquisition.progress()
    chosen = acquisition.next(n=4, annotator="a")
    assert len({choice.frame for choice in chosen}) == 4 and "not embedded yet" in chosen[0].why
    assert [choice.frame for choice in acquisition.next("first", 3, annotator="a")] == bench.frames()[:3]
    assert len(acquisition.next("random", MOST, annotator="a")) == STILLS


def test_while_frames_are_embedded_as_many_are_given_as_are_asked_for(bench, monkeypatch):
    one, go_on = threading.Event(), threading.Event()
    embed = Embedder._embed

    def slowly(self, batch):
        embed(self, batch)
        self._publish(finished=True)
        one.set()
        go_on.wait(60)

    monkeypatch.setattr(Embedder, "_embed", slowly)
    monkeypatch.setattr(embeddings, "_BATCH", 1)
    acquisition = bench.acquisition(done=False)
    try:
        assert one.wait(60)
        wait(lambda: acquisition.progress()["embedded"] == 1)
        chosen = acquisition.next(n=4, annotator="a")
        assert len({choice.frame for choice in chosen}) == 4
        assert ["not embedded yet" in choice.why for choice in chosen] == [False, True, True, True]
    finally:
        go_on.set()


def test_a_label_in_the_middle_of_embedding_does_not_leave_the_next_annotator_with_less(bench, monkeypatch):
    embed = Embedder._embed

    def labelled_meanwhile(self, batch):
        embed(self, batch)
        if self._walk.embedded == 1:
            bench.accept(next(frame for frame in bench.frames() if not self._walk.has(frame)))

    monkeypatch.setattr(Embedder, "_embed", labelled_meanwhile)
    monkeypatch.setattr(embeddings, "_BATCH", 1)
    monkeypatch.setattr(embeddings, "_POLL", 60)  # what was labelled comes first, after a pause
    acquisition = bench.acquisition(done=False)
    wait(lambda: len(acquisition._embedder.view.frames) == 1)
    time.sleep(0.5)
    assert acquisition.progress() | {"embedded": 1, "running": True} == acquisition.progress()
    assert len({choice.frame for choice in acquisition.next(n=4, annotator="carol")}) == 4


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_same_is_chosen_again_until_a_label_is_saved(bench, strategy):
    acquisition = bench.acquisition()
    chosen = [choice.frame for choice in acquisition.next(strategy, 3, annotator="ann")]
    assert chosen == [choice.frame for choice in acquisition.next(strategy, 3, annotator="ann")]
    bench.accept(chosen[0])
    assert chosen[0] not in [choice.frame for choice in acquisition.next(strategy, 3, annotator="ann")]
    other = Acquisition(bench.catalogue, bench.labels, bench.work / "elsewhere", bench.versions, seed=0)
    assert DEFAULT in STRATEGIES and other.next(annotator="ann")


def test_what_one_has_in_hand_is_not_given_to_another(bench):
    acquisition = bench.acquisition()
    mine = {choice.frame for choice in acquisition.next(n=4, annotator="ann")}
    theirs = {choice.frame for choice in acquisition.next(n=4, annotator="bob")}
    nameless = {choice.frame for choice in acquisition.next(n=2)} | {choice.frame for choice in acquisition.next(n=2)}
    assert len(mine | theirs | nameless) == 12
    assert len(acquisition.next(n=1, annotator="eve")) == 1, "better one twice than none"


def test_it_may_be_given_after_a_while(bench):
    acquisition = bench.acquisition(hold_seconds=0.0)
    assert acquisition.next("kcenter", annotator="ann") == acquisition.next("kcenter", annotator="bob")


def test_labelled_accepted_and_skipped_frames_are_left_out(bench):
    acquisition = bench.acquisition()
    accepted, edited, skipped, predicted, excluded = bench.frames()[:5]
    bench.accept(accepted, "ann")
    bench.accept(edited, "ann", Status.EDITED)
    bench.labels.mark(skipped, Status.SKIPPED, "bob")
    bench.accept(predicted, MODEL, Status.PREDICTED)
    for strategy in ("first", "random", "kcenter", "auto"):
        own = {c.frame for c in acquisition.next(strategy, MOST, annotator="ann", exclude=[excluded])}
        assert own == set(bench.frames()) - {accepted, edited, skipped, excluded}, strategy
    bob = {choice.frame for choice in bench.acquisition().next(n=MOST, annotator="bob")}
    assert edited in bob and accepted not in bob, "what ann has not finished is open to others"


def test_second_opinions_are_of_frames_that_others_accepted(bench):
    acquisition = bench.acquisition()
    for frame in bench.frames()[:3]:
        bench.accept(frame, "ann")
    bench.accept(bench.frames()[0], "bob")
    wanted = {choice.frame for choice in acquisition.next(n=5, annotator="bob", second_opinion=True)}
    assert wanted == set(bench.frames()[1:3])
    again = acquisition.next("random", 5, annotator="eve", second_opinion=True)
    assert {choice.frame for choice in again} == set(bench.frames()[:3]), "the same may go to several"
    first = acquisition.next(n=5, annotator="ann", second_opinion=True)
    assert first and not {choice.frame for choice in first} & set(bench.frames()[:3]), "there is none for ann"


def test_nothing_is_left_when_all_is_labelled(bench):
    acquisition = bench.acquisition()
    for frame in bench.frames():
        bench.accept(frame)
    assert [acquisition.next(strategy, 2, annotator="bob") for strategy in STRATEGIES] == [[]] * len(STRATEGIES)


def test_the_uncertainty_follows_the_labels(bench):
    acquisition = bench.acquisition()
    assert acquisition.next("uncertainty", annotator="bob")[0].why == "drawn at random"
    for frame in bench.frames()[:6]:
        bench.accept(frame)
    wait(lambda: acquisition.progress()["learned"] == 6)
    wait(lambda: acquisition.next("uncertainty", annotator="bob")[0].why.startswith("the model is unsure"))
    bench.accept(bench.frames()[6], status=Status.EDITED)
    wait(lambda: acquisition.progress()["learned"] == 7)
    for frame in bench.frames()[:7]:
        bench.labels.remove(frame, "ann")
    wait(lambda: acquisition.progress()["learned"] == 0)


def test_what_cannot_be_asked_for_is_refused(bench):
    acquisition = bench.acquisition(start=False)
    with pytest.raises(UnknownIdError, match="no strategy 'magic'"):
        acquisition.next("magic")
    with pytest.raises(InvalidPromptError, match="0 frames"):
        acquisition.next(n=0)
    with pytest.raises(InvalidPromptError):
        acquisition.next(n=MOST + 1)
    with pytest.raises(InvalidIdError):
        acquisition.next(annotator="../x")


def test_an_empty_catalogue_has_nothing_to_label(tmp_path):
    (tmp_path / "studies").mkdir()
    catalogue, labels = FolderCatalogue(tmp_path / "studies", tmp_path), LabelStore(tmp_path / "l.sqlite", ["x"], [])
    acquisition = Acquisition(catalogue, labels, tmp_path, {})
    try:
        acquisition.start()
        wait(lambda: not acquisition.progress()["running"])
        assert [acquisition.next(strategy) for strategy in (None, "first", "random")] == [[], [], []]
        assert acquisition.progress()["error"] == ""
    finally:
        acquisition.close()
        catalogue.close()
        labels.close()


def test_a_server_that_is_away_keeps_nothing_from_being_embedded(bench, monkeypatch):
    asked = threading.Event()

    def away() -> bool:
        asked.set()
        raise UnreachableError("no answer")

    monkeypatch.setattr("sonodistill.annotate.acquire.embeddings._REFRESH", 0.0)
    monkeypatch.setattr(bench.catalogue, "refresh", away)
    progress = bench.acquisition().progress()
    assert asked.is_set() and (progress["embedded"], progress["error"]) == (STILLS, "")


def test_what_fails_names_no_file_of_this_machine(bench, monkeypatch):
    def failing(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(bench.studies / "secret.png"))

    monkeypatch.setattr(bench.catalogue, "read", failing)
    acquisition = bench.acquisition()
    assert {reason for _, reason in acquisition.progress()["skipped"]} == {"PermissionError"}
    monkeypatch.setattr(bench.catalogue, "items", failing)
    wait(lambda: acquisition.progress()["error"])
    assert acquisition.progress()["error"] == "PermissionError"


def test_requests_that_people_wait_for_come_first(bench):
    acquisition = bench.acquisition(start=False)
    with acquisition.busy():
        acquisition.start()
        wait(lambda: acquisition.progress()["total"] == STILLS)
        assert acquisition.progress()["embedded"] == 0
    wait(lambda: acquisition.progress()["embedded"] == STILLS)


def test_it_ends_when_it_is_closed(bench):
    acquisition = bench.acquisition(done=False)
    acquisition.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sonodistill-embed"]
    acquisition.close()


def test_choosing_needs_no_torch():
    program = "import sys, sonodistill.annotate.acquire.queue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
