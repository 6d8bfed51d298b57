"""The extension's client and a real server that runs the app: models, frames, clicks, propagation, labels, the next.

The tests of a module go on from one another.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

import vtk
from server_case import Gate, Server, pump, running
from UltrasoundSegmentLib.backends import items
from UltrasoundSegmentLib.backends.client import Client
from UltrasoundSegmentLib.backends.model import Backend, BackendError, Cancel, Model, Prompts
from UltrasoundSegmentLib.backends.refusal import RefusedError
from UltrasoundSegmentLib.backends.server import SonoDistillServer, is_ours
from UltrasoundSegmentLib.backends.stock import StockServer, open_server
from UltrasoundSegmentLib.backends.volume_files import Volume
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.frames.cine import Cine
from UltrasoundSegmentLib.frames.frame import Frame
from UltrasoundSegmentLib.frames.image import to_matrix
from UltrasoundSegmentLib.jobs import Jobs
from UltrasoundSegmentLib.learning import Learning
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.store import MaskStore
from UltrasoundSegmentLib.session import Session
from UltrasoundSegmentLib.volume_work import mask_of, segment_volume
from vtk.util.numpy_support import numpy_to_vtk

FRAMES, SHAPE, MM = 6, (64, 80), 0.25


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    made = Client(server.url, annotator="anna")
    yield made
    made.close()


@pytest.fixture
def jobs() -> Iterator[Jobs]:
    made = Jobs()
    yield made
    made.close()
    assert made.join(10)


def item(client: Client, part: str) -> str:
    listed = client.json("GET", "/sonodistill/items", Cancel())["items"]
    return next(one["id"] for one in listed if part in one["name"])


def frames_of(client: Client, part: str) -> list[Frame]:
    fetched = items.fetch(client, item(client, part), Cancel(), lambda *_: None)
    return [
        Frame(image, at, None, np.diag([-1.0, -1.0, 1.0, 1.0]), f"x#{at}") for at, image in enumerate(fetched.frames)
    ]


def truth(image: np.ndarray) -> np.ndarray:
    return (image > 135).astype(np.uint8)


def test_the_server_is_known_as_ours_and_offers_its_models(client: Client) -> None:
    backend = open_server(client, Cancel())
    assert isinstance(backend, SonoDistillServer) and isinstance(backend, Backend)
    kinds = {model.id: (model.kind, model.labels) for model in backend.models(Cancel())}
    assert kinds == {"segmentation": ("segmentation", ("lesion",)), "interactive": ("interactive", ())}


def test_a_cine_is_fetched_with_its_frames_and_the_size_of_its_pixels_where_it_is_known(client: Client) -> None:
    told: list[tuple[int, int]] = []
    known = items.fetch(client, item(client, "cine0"), Cancel(), lambda *said: told.append(said))
    assert len(known.frames) == FRAMES and known.frames[0].shape == SHAPE and known.names == ("lesion",)
    assert known.spacing_mm == pytest.approx((MM, MM))
    assert told[-1] == (FRAMES, FRAMES)
    unknown = items.fetch(client, item(client, "cine1"), Cancel(), lambda *_: None)
    assert unknown.spacing_mm is None
    for index, image in enumerate(unknown.frames):
        alone = client.request("GET", f"/sonodistill/frame/{unknown.id}.f{index:05d}.png", Cancel()).content
        assert np.array_equal(items.png.decode(alone), image)


def test_a_frame_of_the_server_and_the_same_pixels_sent_are_segmented_alike(client: Client) -> None:
    backend, frame = SonoDistillServer(client), frames_of(client, "cine1")[2]
    sent = backend.segment(frame, "segmentation", Cancel())
    backend.bind(item(client, "cine1"))
    named = backend.segment(frame, "segmentation", Cancel())
    assert np.array_equal(sent.mask, named.mask) and set(np.unique(named.mask)) == {0, 1}
    assert named.mask.shape == SHAPE and named.mask.dtype == np.uint8
    assert named.confidence is not None and 0 < named.confidence <= 1 and named.model == "segmentation 1"


def test_the_server_says_of_frames_of_its_own_and_of_sent_ones_how_unfamiliar_they_are(client: Client) -> None:
    backend, frame = SonoDistillServer(client), frames_of(client, "cine1")[1]
    noise = replace(frame, image=np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8))
    assert (backend.segment(noise, "segmentation", Cancel()).unfamiliarity or 0) > 1
    sent = backend.segment(frame, "segmentation", Cancel()).unfamiliarity
    backend.bind(item(client, "cine1"))
    named = backend.segment(frame, "segmentation", Cancel()).unfamiliarity
    assert sent is not None and sent == named and 0 < sent <= 1


def test_what_is_sent_is_no_item_of_the_server_afterwards(client: Client) -> None:
    before = client.json("GET", "/sonodistill/items", Cancel())["total"]
    backend, frame = SonoDistillServer(client), frames_of(client, "cine1")[1]
    frame = replace(frame, image=255 - frame.image)
    backend.segment(frame, "segmentation", Cancel())
    backend.refine(frame, Prompts(positive=((40.0, 30.0),)), None, "interactive", Cancel())
    assert client.json("GET", "/sonodistill/items", Cancel())["total"] == before


@pytest.mark.parametrize("bound", [True, False], ids=["of the server", "sent"])
def test_prompts_change_their_own_label_and_no_other(client: Client, bound: bool) -> None:
    backend, frame = SonoDistillServer(client), frames_of(client, "cine1")[0]
    backend.bind(item(client, "cine1") if bound else "")
    previous = np.zeros(SHAPE, np.uint8)
    previous[:4, :4] = 2
    prompts = Prompts(positive=((40.0, 30.0),), box=(20.0, 15.0, 60.0, 45.0), scribbles=(((30.0, 30.0), (50.0, 32.0)),))
    result = backend.refine(frame, prompts, previous, "interactive", Cancel())
    assert result.confidence is not None and 0 <= result.confidence <= 1
    assert set(np.unique(result.mask)) <= {0, 1, 2}
    assert (result.mask == 1).any() or (result.mask == 2).sum() == 16


def test_clicks_of_the_server_and_on_sent_pixels_agree(client: Client) -> None:
    backend, frame = SonoDistillServer(client), frames_of(client, "cine1")[0]
    prompts = Prompts(positive=((40.0, 30.0), (42.0, 33.0)), negative=((3.0, 3.0),))
    sent = backend.refine(frame, prompts, None, "interactive", Cancel())
    again = backend.refine(frame, prompts, None, "interactive", Cancel())
    backend.bind(item(client, "cine1"))
    named = backend.refine(frame, prompts, None, "interactive", Cancel())
    assert np.array_equal(sent.mask, named.mask) and np.array_equal(sent.mask, again.mask)


def test_a_prompt_of_nothing_is_refused_here(client: Client) -> None:
    with pytest.raises(BackendError, match="nothing drawn"):
        SonoDistillServer(client).refine(frames_of(client, "cine1")[0], Prompts(), None, "interactive", Cancel())


def test_a_label_of_the_server_is_carried_on_by_it_and_it_says_why_it_stops(client: Client) -> None:
    backend, frames = SonoDistillServer(client), frames_of(client, "cine2")
    backend.bind(item(client, "cine2"))
    mask, found = truth(frames[0].image), []
    items.send(client, backend.frame_id(0), mask, "edited", "", Cancel())
    why = backend.propagate(frames, mask, "interactive", Cancel(), lambda *one: found.append(one))
    assert [at for at, _ in found] == list(range(1, 1 + len(found)))
    assert why or len(found) == FRAMES - 1
    kept = items.label_of(client, backend.frame_id(0), SHAPE, Cancel())
    assert (kept.status, kept.annotator) == ("edited", "anna") and np.array_equal(kept.mask, mask)


def test_a_mask_that_was_not_submitted_is_carried_on_and_nothing_is_kept_on_the_server(client: Client) -> None:
    backend, frames = SonoDistillServer(client), frames_of(client, "cine1")
    backend.bind(item(client, "cine1"))
    found: list[int] = []
    why = backend.propagate(frames, truth(frames[0].image), "interactive", Cancel(), lambda at, _: found.append(at))
    assert (len(found) == FRAMES - 1) == (why == "")
    listed = client.json("GET", f"/sonodistill/items/{backend.item}", Cancel())["frames"]
    assert [row["status"] for row in listed] == [""] * FRAMES


def test_a_mask_of_sent_frames_is_carried_by_clicks_backward_too(client: Client) -> None:
    backend, frames = SonoDistillServer(client), frames_of(client, "cine2")[::-1]
    found: list[int] = []
    why = backend.propagate(frames, truth(frames[0].image), "interactive", Cancel(), lambda at, _: found.append(at))
    assert found == [4, 3, 2, 1, 0][: len(found)]
    assert (len(found) == FRAMES - 1) == (why == "")


def test_an_unknown_model_is_refused_with_what_the_server_says(client: Client) -> None:
    with pytest.raises(RefusedError, match="no model") as caught:
        SonoDistillServer(client).segment(frames_of(client, "cine1")[0], "nosuch", Cancel())
    assert caught.value.status == 404


def test_a_stock_client_segments_a_still_and_a_volume_on_their_own_grid(client: Client) -> None:
    stock, ours, frame = StockServer(client), SonoDistillServer(client), frames_of(client, "cine1")[0]
    still = stock.segment(frame, "segmentation", Cancel())
    assert np.array_equal(still.mask, ours.segment(frame, "segmentation", Cancel()).mask)
    place = np.array([[0.0, 0.0, 2.0, 5.0], [-0.5, 0.0, 0.0, 7.0], [0.0, -0.5, 0.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
    voxels = np.stack([one.image for one in frames_of(client, "cine1")])
    labels = stock.segment_volume(Volume(voxels, place), "segmentation", Cancel())
    assert labels.shape == voxels.shape
    for index, image in enumerate(voxels):
        alone = ours.segment(replace(frame, image=image), "segmentation", Cancel()).mask
        assert np.array_equal(labels[index], alone)


def test_stock_servers_are_told_apart_and_do_not_propagate(client: Client) -> None:
    assert is_ours(client, Cancel())
    with pytest.raises(BackendError, match="no propagation"):
        StockServer(client).propagate([], np.zeros(SHAPE, np.uint8), "interactive", Cancel(), lambda *_: None)


class Desk:
    """A person at work: what the widget would hold."""

    def __init__(self, client: Client, jobs: Jobs, scene: Any) -> None:
        self.jobs, self.learning = jobs, Learning(client, jobs, scene=scene)
        self.client = client
        self.opened: list[tuple[Any, Any, int]] = []
        self.failed: list[Exception] = []
        self.learning.opened.connect(lambda *said: self.opened.append(said))
        self.learning.failed.connect(self.failed.append)

    def do(self, act: Callable[[], None], until: Callable[[], bool] | None = None, seconds: float = 60) -> None:
        act()
        pump(self.jobs, until, seconds)
        assert self.failed == []

    def session(self) -> Session:
        cine, store, _ = self.opened[-1]
        made = Session(cine, store, SonoDistillServer(self.client), self.jobs, annotator="anna")
        made.failed.connect(self.failed.append)
        self.do(made.fetch_models)
        return made


def test_a_sample_is_opened_segmented_corrected_and_sent(client: Client, jobs: Jobs, scene: Any) -> None:
    desk = Desk(client, jobs, scene)
    desk.do(desk.learning.next_sample)
    cine, store, index = desk.opened[-1]
    assert cine.count in (1, FRAMES) and 0 <= index < cine.count and cine.selected == index
    assert store.labels == ("lesion",)

    session = desk.session()
    assert session.backend.item == cine.attribute("item")
    desk.do(lambda: session.segment([index], "segmentation"))
    assert store.status(index) is Status.PREDICTED
    with pytest.raises(SegmentError, match="accept it first"):
        desk.learning.submit(store, index)

    mask = truth(cine.frame(index).image)
    store.write(index, mask, Status.EDITED, annotator="anna")
    session.accept(index)
    sent: list[int] = []
    desk.learning.sent.connect(sent.append)
    desk.do(lambda: desk.learning.submit(store, index))
    assert sent == [index] and desk.learning.unsent(cine) == []
    kept = items.label_of(client, f"{cine.attribute('item')}.f{index:05d}", SHAPE, Cancel())
    assert (kept.status, kept.annotator) == ("accepted", "anna") and np.array_equal(kept.mask, mask)


def test_a_cine_that_is_open_is_not_fetched_again_and_a_fresh_one_has_its_labels(
    client: Client, jobs: Jobs, scene: Any
) -> None:
    desk = Desk(client, jobs, scene)
    which = item(client, "cine2")
    desk.do(lambda: desk.learning.open(which, 3))
    cine, store, index = desk.opened[-1]
    assert index == 3 and store.status(0) is Status.EDITED and store.info(0)["annotator"] == "anna"
    assert np.array_equal(store.mask(0), truth(cine.frame(0).image))
    assert cine.calibration.spacing_mm is None and any("scale" in one for one in cine.calibration.warnings)
    desk.do(lambda: desk.learning.open(which, 1))
    assert desk.opened[-1][0].images is cine.images and cine.selected == 1
    desk.do(lambda: desk.learning.open(item(client, "cine0")))
    assert desk.opened[-1][0].calibration.spacing_mm == pytest.approx((MM, MM))


def test_a_label_that_the_server_does_not_know_is_not_sent(client: Client, jobs: Jobs, scene: Any) -> None:
    desk = Desk(client, jobs, scene)
    desk.do(lambda: desk.learning.open(item(client, "cine3")))
    _, store, _ = desk.opened[-1]
    store.write(0, np.full(SHAPE, store.add_label("cyst"), np.uint8), Status.ACCEPTED, annotator="anna")
    with pytest.raises(SegmentError, match="no label “cyst”"):
        desk.learning.submit(store, 0)
    assert desk.learning.unsent(store.cine) == []


def test_labels_are_exported_into_a_zip(client: Client, jobs: Jobs, scene: Any, tmp_path: Any) -> None:
    desk = Desk(client, jobs, scene)
    desk.do(lambda: desk.learning.export(tmp_path / "labels.zip"))
    assert (tmp_path / "labels.zip").read_bytes().startswith(b"PK") and [one.name for one in tmp_path.iterdir()] == [
        "labels.zip"
    ]


def test_a_server_that_is_lost_is_told_once_and_what_was_not_sent_waits(server: Server, jobs: Jobs, scene: Any) -> None:
    gate = Gate(server)
    client = Client(gate.url, annotator="anna")
    desk = Desk(client, jobs, scene)
    lost, back = [], []
    desk.learning.connection.lost.connect(lost.append)
    desk.learning.connection.back.connect(lambda: back.append(True))
    desk.do(lambda: desk.learning.open(item(client, "cine3")))
    cine, store, _ = desk.opened[-1]
    gate.shut()
    for index in (1, 2):
        store.write(index, truth(cine.frame(index).image), Status.ACCEPTED, annotator="anna")
        desk.learning.submit(store, index)
        pump(jobs)
    assert len(lost) == 1 and desk.failed == [] and back == []
    assert desk.learning.unsent(cine) == [1, 2]
    other = MaskStore.of(Cine(cine.browser))  # as after the scene was saved and loaded
    assert Learning(client, jobs, scene=scene).unsent(other.cine) == [1, 2]

    gate.open()
    pump(jobs, lambda: bool(back))
    assert desk.learning.unsent(cine) == [1, 2], "nothing is sent without the person's act"
    desk.do(lambda: desk.learning.send_unsent(store))
    assert desk.learning.unsent(cine) == []
    for index in (1, 2):
        kept = items.label_of(client, f"{cine.attribute('item')}.f{index:05d}", SHAPE, Cancel())
        assert kept.status == "accepted" and np.array_equal(kept.mask, store.mask(index))
    client.close()
    gate.shut()


def test_a_label_that_changed_while_it_was_sent_still_waits(
    server: Server, client: Client, jobs: Jobs, scene: Any
) -> None:
    desk = Desk(client, jobs, scene)
    desk.do(lambda: desk.learning.open(item(client, "cine3")))
    _, store, _ = desk.opened[-1]
    store.write(4, np.zeros(SHAPE, np.uint8), Status.ACCEPTED, annotator="anna")
    desk.learning.submit(store, 4)
    time.sleep(0.01)
    store.write(4, np.ones(SHAPE, np.uint8), Status.ACCEPTED, annotator="anna")
    desk.do(lambda: None)
    assert desk.learning.unsent(store.cine) == [4]
    desk.do(lambda: desk.learning.send_unsent(store))
    assert desk.learning.unsent(store.cine) == []


def test_a_skipped_frame_is_sent_as_skipped(client: Client, jobs: Jobs, scene: Any) -> None:
    desk = Desk(client, jobs, scene)
    desk.do(lambda: desk.learning.open(item(client, "cine3")))
    cine, store, _ = desk.opened[-1]
    store.mark(5, Status.SKIPPED, "anna")
    desk.do(lambda: desk.learning.submit(store, 5))
    scene.RemoveNode(cine.images)
    desk.do(lambda: desk.learning.open(item(client, "cine3")))
    store = desk.opened[-1][1]
    assert store.status(5) is Status.SKIPPED


def test_a_volume_gets_a_segmentation_on_its_own_grid(client: Client, jobs: Jobs, scene: Any) -> None:
    voxels = np.stack([one.image for one in frames_of(client, "cine1")])
    place = np.array([[0.0, 0.0, 2.0, 5.0], [-0.5, 0.0, 0.0, 7.0], [0.0, -0.5, 0.0, 9.0], [0.0, 0.0, 0.0, 1.0]])
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "thyroid")
    data = vtk.vtkImageData()
    data.SetDimensions(*voxels.shape[::-1])
    data.GetPointData().SetScalars(numpy_to_vtk(voxels.ravel(), deep=True))
    volume.SetAndObserveImageData(data)
    volume.SetIJKToRASMatrix(to_matrix(place))
    for backend in (StockServer(client), SonoDistillServer(client)):
        made, failed = [], []
        model = Model("segmentation", "segmentation", ("lesion",))
        segment_volume(volume, backend, model, jobs, made.append, failed.append)
        pump(jobs)
        assert failed == []
        segmentation = made[0].GetSegmentation()
        assert segmentation.GetNumberOfSegments() == 1 and segmentation.GetNthSegment(0).GetName() == "lesion"
        found = mask_of(made[0], volume, (segmentation.GetNthSegmentID(0),))
        for index, frame in enumerate(frames_of(client, "cine1")):
            expected = SonoDistillServer(client).segment(frame, "segmentation", Cancel()).mask
            assert np.array_equal(found[index], expected)


class Trained(Desk):
    """Watches a training to its end."""

    def train(self, model: str, **settings: Any) -> tuple[dict[str, Any], list[tuple[int, int, str]]]:
        training, told, ended = self.learning.training, [], []
        training.progress.connect(lambda *said: told.append(said))
        training.ended.connect(ended.append)
        self.do(lambda: training.start(model, **settings), lambda: bool(ended or self.failed), seconds=400)
        return ended[0], told


def accept_all(desk: Desk, patients: range) -> None:
    for patient in patients:
        which = item(desk.client, f"cine{patient}")
        desk.do(lambda which=which: desk.learning.open(which))
        cine, store, _ = desk.opened[-1]
        for index in range(FRAMES):
            store.write(index, truth(cine.frame(index).image), Status.ACCEPTED, annotator="anna")
            desk.learning.submit(store, index)
        pump(desk.jobs)
        assert desk.learning.unsent(cine) == []


def dice(mask: np.ndarray, image: np.ndarray) -> float:
    found, true = mask > 0, truth(image) > 0
    return float(2 * (found & true).sum() / max(1, found.sum() + true.sum()))


def test_accepted_labels_train_a_model_that_answers_better(client: Client, jobs: Jobs, scene: Any) -> None:
    desk, versions = Trained(client, jobs, scene), []
    accept_all(desk, range(4))
    desk.do(lambda: desk.learning.open(item(client, "cine4")))
    cine, store, _ = desk.opened[-1]
    session = desk.session()

    def mean_dice() -> float:
        desk.do(lambda: session.segment(range(FRAMES), "segmentation"))
        return float(np.mean([dice(store.mask(index), cine.frame(index).image) for index in range(FRAMES)]))

    before = mean_dice()
    said, told = desk.train("segmentation", max_epochs=6, batch_size=8, learning_rate=3e-3)
    assert (said["state"], said["version"]) == ("done", 2), said
    assert "dice" in said["reason"]
    reached = [epoch for epoch, *_ in told]
    assert told[0][0] == 0 and told[-1][1] == 6 and reached == sorted(reached), told
    assert mean_dice() > max(0.7, before)
    assert store.info(0)["model"] == "segmentation 2"
    desk.learning.training.versions.connect(versions.append)
    desk.do(desk.learning.training.fetch_versions)
    assert versions[-1]["segmentation"]["current"] == 2
    metrics = {one["number"]: one["metric"] for one in versions[-1]["segmentation"]["versions"]}
    assert metrics[1] is None and 0.5 < metrics[2] <= 1
    desk.do(lambda: desk.learning.training.rollback("segmentation"))
    assert versions[-1]["segmentation"]["current"] == 1
    desk.do(lambda: desk.learning.training.promote("segmentation", 2))
    assert versions[-1]["segmentation"]["current"] == 2


def test_a_training_is_stopped_and_what_cannot_be_set_is_refused_here(client: Client, jobs: Jobs, scene: Any) -> None:
    desk, ended = Desk(client, jobs, scene), []
    training = desk.learning.training
    training.failed.connect(desk.failed.append)
    with pytest.raises(BackendError, match="network"):
        training.start("segmentation", network="x")
    training.ended.connect(ended.append)
    desk.do(lambda: training.start("segmentation", max_epochs=1000))
    assert training.running == "segmentation"
    desk.do(training.stop, lambda: bool(ended))
    assert ended[0]["state"] in ("cancelled", "interrupted") and training.running == ""


@pytest.mark.slow
def test_a_trained_click_model_carries_a_mask_along_the_server(client: Client, jobs: Jobs, scene: Any) -> None:
    desk = Trained(client, jobs, scene)
    accept_all(desk, range(4))
    said, _ = desk.train("interactive", max_epochs=40, batch_size=8, learning_rate=3e-3)
    assert said["state"] == "done"
    desk.do(lambda: desk.learning.open(item(client, "cine4")))
    cine, store, _ = desk.opened[-1]
    store.write(0, truth(cine.frame(0).image), Status.EDITED, annotator="anna")
    desk.do(lambda: desk.learning.submit(store, 0))
    session = desk.session()
    desk.do(lambda: session.propagate(0, FRAMES, 1, "interactive"))
    reached = [index for index in range(FRAMES) if store.status(index) is Status.PROPAGATED]
    assert reached == list(range(1, 1 + len(reached))) and reached
    for index in reached:
        assert dice(store.mask(index), cine.frame(index).image) > 0.7
        kept = items.label_of(client, f"{cine.attribute('item')}.f{index:05d}", SHAPE, Cancel())
        assert kept.status == "propagated" and np.array_equal(kept.mask, store.mask(index))
