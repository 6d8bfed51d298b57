"""An Orthanc with one ultrasound study, and the app on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from app_case import Server, make_models, serve
from orthanc import Orthanc, orthanc
from pydicom import Dataset
from pydicom.uid import generate_uid
from web_case import renewed, write


@dataclass(frozen=True)
class Pacs:
    """What runs, and what Orthanc holds.

    Attributes:
        server: our app, on ``orthanc``.
        orthanc: which asks for a password.
        study: Study Instance UID.
        cine: JPEG, 30 frames of 240 x 320.
        still: RGB, 240 x 320, alone in its series.
        stack: two stills of 480 x 640 and 240 x 320 in one series.
        files: SOP Instance UID -> DICOM file.
        folder: for what tests write.
    """

    server: Server
    orthanc: Orthanc
    study: str
    cine: Dataset
    still: Dataset
    stack: tuple[Dataset, Dataset]
    files: dict[str, Path]
    folder: Path


@contextmanager
def pacs(folder: Path) -> Iterator[Pacs]:
    """Start Orthanc, fill it, and start the app with a tiny model of each kind; end both with the block."""
    study, series, files = generate_uid(), generate_uid(), {}
    with orthanc(folder) as server:

        def put(name: str, number: int, **attributes: object) -> Dataset:
            ds = renewed(name, StudyInstanceUID=study, SeriesNumber=number, InstanceNumber=number, **attributes)
            ds.PatientID, ds.PatientName, ds.StudyDate = "P1", "Test^Ultrasound", "20240101"
            path = files[ds.SOPInstanceUID] = write(ds, folder / f"{number}-{name}.dcm")
            server.upload(path)
            return ds

        cine = put("ybr_color", 1, SeriesDescription="cine")
        still = put("rgb_color", 2, SeriesDescription="still")
        stack = tuple(
            put(name, number, SeriesInstanceUID=series, SeriesDescription="stack")
            for number, name in ((3, "US1_UNCR"), (4, "rgb_color"))
        )
        token = folder / "token"
        token.write_text(server.auth[1])
        conf = {"token_file": str(token), "user": server.auth[0]}
        with serve(server.web, make_models(folder / "models"), work=folder / "work", conf=conf) as app:
            yield Pacs(app, server, study, cine, still, (stack[0], stack[1]), files, folder)
