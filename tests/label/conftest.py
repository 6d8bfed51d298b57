"""One server for all tests that need none of their own, which go on from one another; a start costs many seconds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from app_case import Server
    from monailabel.client import MONAILabelClient

    from sonodistill.inference.predictor import Predictor

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("monailabel") is None:
        skip = pytest.mark.skip(reason="monailabel is not installed; `pip install sonodistill[label]`")
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The app on a few studies, with a tiny model of each kind."""
    from app_case import make_models, make_studies, serve

    folder = tmp_path_factory.mktemp("label")
    with serve(make_studies(folder), make_models(folder / "models"), work=folder / "work") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server, tmp_path_factory: pytest.TempPathFactory) -> MONAILabelClient:
    from monailabel.client import MONAILabelClient

    return MONAILabelClient(server.url, tmpdir=str(tmp_path_factory.mktemp("client")), client_id="ann")


@pytest.fixture(scope="module")
def predictor(server: Server) -> Callable[[str], Predictor]:
    from sonodistill.inference.predictor import Predictor

    held: dict[str, Predictor] = {}

    def of(name: str) -> Predictor:
        if name not in held:
            held[name] = Predictor(
                server.studies.parent / "models" / f"{name}.safetensors", precision="auto", threads=1
            )
        return held[name]

    return of
