"""What the tests of DICOMweb share: real ultrasound under new UIDs, a spool, and HTTP servers that lie."""

from __future__ import annotations

import http.server
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import data_store
from pydicom import Dataset, config, dcmread, examples
from pydicom.uid import generate_uid

from sonodistill.dicom.service.spool import Spool, open_spool
from sonodistill.dicom.settings import Service


@cache
def real_file(name: str) -> Path:
    """A real ultrasound file, of pydicom's examples or of the package pydicom-data."""
    if name in ("ybr_color", "rgb_color", "palette_color", "jpeg2k"):
        return Path(examples.get_path(name))
    return next(path for root in data_store.__path__ for path in Path(root).rglob(f"{name}.dcm"))


def renewed(name: str, **attributes: object) -> Dataset:
    """The real file as a new instance of a new study; its pixel data are as they were."""
    with config.disable_value_validation():
        ds = dcmread(real_file(name))
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = generate_uid(), generate_uid(), generate_uid()
        ds.Modality = "US"
        for keyword, value in attributes.items():
            setattr(ds, keyword, value)
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    return ds


def as_bytes(ds: Dataset) -> bytes:
    with config.disable_value_validation():
        ds.save_as(buffer := io.BytesIO(), enforce_file_format=True)
    return buffer.getvalue()


def write(ds: Dataset, path: Path) -> Path:
    path.write_bytes(as_bytes(ds))
    return path


def small_spool(folder: Path, *, reserve_gb: float = 0.0) -> Spool:
    return open_spool(Service(spool=folder / "spool", reserve_gb=reserve_gb, max_used_percent=100.0))


def spooled(folder: Path) -> list[Path]:
    """The files that wait in the spool."""
    return sorted(path for path in (folder / "spool" / "instances").rglob("*") if path.is_file())


def left_over(folder: Path) -> list[Path]:
    return list((folder / "spool" / "incoming").iterdir())


class Handler(http.server.BaseHTTPRequestHandler):
    """Hands every request to ``server.answer``, which writes what it likes."""

    def do_GET(self) -> None:
        self.server.paths.append(self.path)  # type: ignore[attr-defined]
        self.server.answer(self)  # type: ignore[attr-defined]

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass

    def reply(self, status: int, body: bytes, content_type: str = "application/dicom+json", **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        stated = {name.replace("_", "-"): value for name, value in headers.items()}
        for name, value in {"Content-Length": str(len(body)), **stated}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))


@contextmanager
def lying(answer: Callable[[Handler], None], port: int = 0) -> Iterator[http.server.ThreadingHTTPServer]:
    """A server on loopback that answers as told; ``server.paths`` are those it was asked for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.answer, server.paths = answer, []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def url_of(server: http.server.ThreadingHTTPServer) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"
