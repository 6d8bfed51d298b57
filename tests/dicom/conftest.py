"""What several files of these tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scp_server import Running


@pytest.fixture
def own_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server changes settings of pynetdicom for its process, and clients of its tests do."""
    from pynetdicom import _config

    for name in ("LOG_HANDLER_LEVEL", "LOG_REQUEST_IDENTIFIERS", "LOG_RESPONSE_IDENTIFIERS", "ENFORCE_UID_CONFORMANCE"):
        monkeypatch.setattr(_config, name, getattr(_config, name))
    monkeypatch.setattr(_config, "STORE_SEND_CHUNKED_DATASET", True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Running]:
    """A receiver in a thread of this process."""
    from scp_server import scp_thread

    with scp_thread(tmp_path / "server") as running:
        yield running
