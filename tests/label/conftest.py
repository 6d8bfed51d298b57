"""One server for all tests that need no server of their own; a start costs many seconds."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from app_case import Server

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
