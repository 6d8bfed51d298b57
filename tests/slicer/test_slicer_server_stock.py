"""The extension's client and MONAI Label's own server, as it is installed, with an app that thresholds."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np
import pytest

if importlib.util.find_spec("slicer_core") is None:
    pytest.skip("slicer-core is not installed", allow_module_level=True)

from server_case import STOCK, Server, running
from UltrasoundSegmentLib.backends.client import Client
from UltrasoundSegmentLib.backends.model import Backend, BackendError, Cancel, Model, NotOfferedError, Prompts
from UltrasoundSegmentLib.backends.stock import StockServer, open_server
from UltrasoundSegmentLib.backends.volume_files import Volume
from UltrasoundSegmentLib.frames.frame import Frame

PLACE = np.array([[0.0, 0.0, 2.0, 5.0], [-0.5, 0.0, 0.0, 7.0], [0.0, -0.4, 0.0, 9.0], [0.0, 0.0, 0.0, 1.0]])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("stock"), STOCK) as found:
        yield found


@pytest.fixture
def stock(server: Server) -> Iterator[StockServer]:
    found = open_server(Client(server.url), Cancel())
    assert isinstance(found, StockServer) and isinstance(found, Backend)
    yield found
    found.close()


def frame() -> Frame:
    image = np.full((40, 56), 60, np.uint8)
    image[5:15, 6:20] = 200
    image[20:30, 30:50] = 220
    return Frame(image, 0, None, PLACE, "x#0")


def test_it_is_known_as_a_stock_server_by_its_models(stock: StockServer) -> None:
    assert sorted(stock.models(Cancel()), key=lambda model: model.id) == [
        Model("bright", "segmentation", ("bright",)),
        Model("click", "interactive", ("bright",)),
    ]


def test_a_still_is_segmented_on_its_own_pixels(stock: StockServer) -> None:
    result = stock.segment(frame(), "bright", Cancel())
    assert np.array_equal(result.mask, (frame().image > 140).astype(np.uint8)) and result.mask.dtype == np.uint8
    assert result.confidence is None and result.info["label_names"] == {"bright": 1}


def test_a_volume_is_segmented_on_its_own_grid(stock: StockServer) -> None:
    voxels = np.stack([np.roll(frame().image, step, axis=1) for step in range(5)])
    labels = stock.segment_volume(Volume(voxels, PLACE), "bright", Cancel())
    assert np.array_equal(labels, (voxels > 140).astype(np.uint8))


def test_a_click_changes_its_label_alone(stock: StockServer) -> None:
    previous = np.zeros((40, 56), np.uint8)
    previous[35:, :] = 1
    result = stock.refine(frame(), Prompts(positive=((40.0, 25.0),), label=2), previous, "click", Cancel())
    expected = previous.copy()
    expected[20:30, 30:50] = 2
    assert np.array_equal(result.mask, expected)


def test_a_session_that_ended_on_the_server_is_made_again(stock: StockServer) -> None:
    before = stock.segment(frame(), "bright", Cancel())
    session = next(iter(stock._uploads._sessions.values()))
    stock.client.request("DELETE", f"/session/{session}", Cancel())
    assert np.array_equal(stock.segment(frame(), "bright", Cancel()).mask, before.mask)
    assert next(iter(stock._uploads._sessions.values())) != session


def test_of_many_images_the_last_few_are_kept_on_the_server(stock: StockServer) -> None:
    for value in range(10):
        image = np.full((8, 8), value, np.uint8)
        stock.segment(Frame(image, 0, None, np.eye(4), "x#0"), "bright", Cancel())
    assert len(stock._uploads._sessions) == 8


def test_what_it_cannot_do_is_said(stock: StockServer) -> None:
    with pytest.raises(NotOfferedError, match="no propagation"):
        stock.propagate([frame()], frame().image, "click", Cancel(), lambda *_: None)
    with pytest.raises(NotOfferedError, match="no boxes"):
        stock.refine(frame(), Prompts(box=(0.0, 0.0, 5.0, 5.0)), None, "click", Cancel())
    with pytest.raises(BackendError):
        stock.segment(frame(), "nosuch", Cancel())
