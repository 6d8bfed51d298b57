"""Read labels of any of the forms into the store."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sonodistill.annotate.errors import AnnotationError, InvalidLabelError, TooLargeError
from sonodistill.annotate.exchange.archive import unpack
from sonodistill.annotate.exchange.records import FORMAT, MAX_ENTRIES, read_json
from sonodistill.annotate.exchange.report import Report, Skipped
from sonodistill.annotate.exchange.taken import Entry, Taker
from sonodistill.annotate.ids import check_name
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import MODEL, Catalogue, Status

if TYPE_CHECKING:
    from sonodistill.annotate.exchange.seg_read import Instances

_PNG_INDEX = "labels.json"
_PREAMBLE = 128


def import_labels(
    catalogue: Catalogue,
    store: LabelStore,
    source: str | Path,
    *,
    annotator: str | None,
    status: Status | None = None,
    replace: bool = False,
) -> Report:
    """Take over what ``export`` wrote, or other programs: a folder, or one file of it, or a ZIP file of it.

    Read are the PNG form by its ``labels.json``, NIfTI volumes, COCO files and DICOM Segmentations; a folder may hold
    several. Each label is checked against its frame: id, size, label names, class. What cannot be used is in the report
    with the reason, and the rest goes on. Files that an index names are opened only inside its folder.

    Args:
        catalogue: the frames are of.
        store: the labels go into.
        source: what to read.
        annotator: whose the labels become, who answers for them; None: whose the file says they are. What a model made
            and nobody touched stays the model's.
        status: that they get; None: the one that the file says, and EDITED where it says nothing. Frames that were
            skipped stay so.
        replace: replace this annotator's labels also where they are newer than the export, or the file does not say
            when its labels were saved. What is replaced stays in the history.

    Errors: AnnotationError when nothing in it is a form that is read.
    """
    source = Path(source)
    if annotator is not None and check_name(annotator) == MODEL:
        raise AnnotationError("a model cannot import labels", remedy="name the person who does")
    if not source.exists():
        raise InvalidLabelError("there is no such file or folder", path=source)
    report = Report()

    def take(path: Path) -> None:
        files = list(_files(path, report))
        if not files:
            raise InvalidLabelError("it holds no labels of a form that is read", path=source)
        readers = _Readers(catalogue)
        for file, form in files:
            taker = Taker(catalogue, store, report, annotator=annotator, status=status, replace=replace, source=form)
            try:
                for entry in readers.read(file, form):
                    if isinstance(entry, Skipped):
                        report.skip(*entry)
                    else:
                        taker.take(entry)
                    if len(report.skipped) > MAX_ENTRIES:
                        raise TooLargeError("more is refused than can be listed", path=file)
            except AnnotationError as error:
                report.skip(file.name, error.message)

    if source.is_file() and source.suffix.lower() == ".zip":
        with tempfile.TemporaryDirectory() as folder:
            unpack(source, Path(folder))
            take(Path(folder))
    else:
        take(source)
    return report


class _Readers:
    """Reads one form or another; a library is imported when its form comes."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._instances: Instances | None = None

    def read(self, file: Path, form: str) -> Iterator[Entry | Skipped]:
        if form != "seg":
            entries: Iterator[Entry | Skipped] = import_module(f"sonodistill.annotate.exchange.{form}").read(file)
            return entries
        from sonodistill.annotate.exchange import seg_read

        if self._instances is None:
            self._instances = seg_read.Instances(self._catalogue)
        return seg_read.read(file, self._instances)


def _files(path: Path, report: Report) -> Iterator[tuple[Path, str]]:
    """(file, form) of what can be read; a file of a folder that is nearly one is noted as skipped."""
    if path.is_file():
        if form := _form(path):
            yield path, form
        return
    count = 0
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in (Path(folder, name) for name in sorted(names) if not name.startswith(".")):
            count += 1
            if count > MAX_ENTRIES:
                raise TooLargeError(f"it has more than {MAX_ENTRIES} files", path=path)
            if file.is_symlink() or not file.is_file():
                continue
            try:
                if form := _form(file):
                    yield file, form
            except AnnotationError as error:
                report.skip(file.name, error.message)


def _form(file: Path) -> str:
    """ "" for what is no label file, or comes with another."""
    name = file.name.lower()
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    if name.endswith(".json"):
        return _form_of_json(file)
    try:
        with file.open("rb") as opened:
            return "seg" if opened.read(_PREAMBLE + 4)[_PREAMBLE:] == b"DICM" else ""
    except OSError:
        return ""


def _form_of_json(file: Path) -> str:
    if file.name == _PNG_INDEX:
        return "png"
    said = read_json(file)
    if said.get("format") == FORMAT and said.get("form") == "nifti":
        volumes = [file.with_name(f"{file.stem}{suffix}") for suffix in (".nii.gz", ".nii")]
        return "" if any(volume.is_file() for volume in volumes) else "nifti"
    if "annotations" in said and "images" in said:
        return "coco"
    raise InvalidLabelError("it is JSON, but no labels of a form that is read", path=file)
