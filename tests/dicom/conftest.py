"""What several files of these tests stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from scp_server import Running

    from sonodistill.dicom.service.spool import Spool


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


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An open spool in the test's folder, with no watermark."""
    from spool_case import settings

    from sonodistill.dicom.service.spool import open_spool

    opened = open_spool(settings(tmp_path), "config")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small ultrasound instance whose SOP Instance UID is UID."""
    import numpy as np
    from dicom_factory import save, ultrasound
    from spool_case import UID

    path = tmp_path_factory.mktemp("instance") / "us.dcm"
    ds = ultrasound(
        np.zeros((1, 16, 16), np.uint8), SOPInstanceUID=UID, StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4"
    )
    return save(ds, path).read_bytes()
