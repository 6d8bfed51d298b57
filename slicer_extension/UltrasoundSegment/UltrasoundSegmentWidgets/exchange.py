"""Export and import of masks: seg.nrrd, PNG and JSON, COCO, DICOM SEG."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from slicer.i18n import tr as _
from UltrasoundSegmentLib.errors import SegmentError
from UltrasoundSegmentLib.exchange.report import Report
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.steps import Steps

import slicer

from .panel import Panel, browse, coloured
from .tasks import Tasks

DECIDED = (Status.ACCEPTED, Status.EDITED)
DRAFTS = (*DECIDED, Status.PROPAGATED, Status.PREDICTED)


class ExchangePanel(Panel):
    """Writes into a folder that the user chose; what was skipped is said, with the reason."""

    def setup(self) -> None:
        self.tasks = Tasks(self._broken)
        browse(self.ui.exportBrowse, self.ui.exportEdit, _("Export to"), folder=True)
        browse(self.ui.importBrowse, self.ui.importEdit, _("Import masks"))
        self.on(self.ui.exportButton, "clicked()", self.export)
        self.on(self.ui.importButton, "clicked()", self.load)

    def _require_idle(self) -> None:
        if self.tasks.busy:
            raise SegmentError(_("Files are written or read just now: wait for the end of it."))

    def export(self) -> None:
        self._require_idle()
        p, cine, store = self.parameters, self.desk.the_cine(), self.desk.store
        if store is None:
            raise SegmentError(_("There are no masks yet: segment a frame first."))
        folder = p.exportFolder.strip()
        if not folder:
            raise SegmentError(_("No folder is chosen: choose where the files go."))
        self.ui.exchangeLabel.text = _("Exporting...")
        statuses = DRAFTS if p.exportDrafts else DECIDED
        self.tasks.start(self._export(cine, store, Path(folder), p.exportForm.value, statuses), "Exporting")

    def _export(self, *of: object) -> Iterator[None]:
        from UltrasoundSegmentLib.exchange.exports import export_steps

        report = yield from export_steps(*of)
        text = _("{written} written, {skipped} left out.").format(
            written=len(report.written), skipped=len(report.skipped)
        )
        self.ui.exchangeLabel.text = coloured(text, not report.written)

    def load(self) -> None:
        """Read masks of a file or folder into the cine; of a DICOM SEG the cine is found by what it refers to."""
        self._require_idle()
        path = Path(self.parameters.importFile.strip())
        if path == Path() or not path.exists():
            raise SegmentError(
                _("No file is chosen: choose a DICOM SEG, seg.nrrd or COCO file, or a folder of PNG masks.")
            )
        self.ui.exchangeLabel.text = _("Importing...")
        self.tasks.start(self._import(path), "Importing")

    def _broken(self, error: Exception) -> None:
        self.ui.exchangeLabel.text = ""
        self.failed(error)

    def _import(self, path: Path) -> Iterator[None]:
        report = yield from self._load(path)
        self.desk.cine_changed.emit()
        count = len(report.written) + len(report.unchanged)
        text = _("{count} labels read, {skipped} left out.").format(count=count, skipped=len(report.skipped))
        if report.skipped:
            text += f" {report.skipped[0].what}: {report.skipped[0].reason}"
        self.ui.exchangeLabel.text = coloured(text, not count)

    def _load(self, path: Path) -> Steps[Report]:
        name = path.name.lower()
        if path.is_dir() or name.endswith((".json", ".nrrd")):
            from UltrasoundSegmentLib.exchange.coco import import_coco_steps
            from UltrasoundSegmentLib.exchange.png import import_png_steps
            from UltrasoundSegmentLib.exchange.seg_nrrd import import_seg_nrrd_steps

            cine = self.desk.the_cine()
            store = self.desk.store or self.desk.masks(names_in(path) or [_("structure")])
            if name.endswith(".nrrd"):
                return (yield from import_seg_nrrd_steps(path, cine, store))
            return (yield from (import_png_steps if is_png(path) else import_coco_steps)(path, cine, store))
        from UltrasoundSegmentLib.exchange.seg_load import load_dicom_seg_steps

        found = yield from load_dicom_seg_steps(path, self.desk.cine or slicer.mrmlScene, self.desk.store)
        cine, _store, report = found
        if self.desk.cine is None and self.parameters is not None:  # else the user is in another module
            self.parameters.browser = cine.browser
        elif self.desk.cine is not None and self.desk.store is None:
            self.desk.masks([])
        return report


def _json(path: Path) -> dict:
    """Of a file, or of the index of a folder; {} where it is none."""
    try:
        for name in ("labels.json", "annotations.json"):
            if (path / name).is_file():
                path = path / name
        said = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def is_png(path: Path) -> bool:
    """Whether a JSON file is the index of a folder of PNG masks, and not COCO's."""
    return "categories" not in _json(path)


def names_in(path: Path) -> list[str]:
    """Names of the structures in a JSON file or folder, in the order of their numbers; [] where it has none."""
    said = _json(path) if not path.name.lower().endswith(".nrrd") else {}
    listed = said.get("categories")
    categories = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
    found = said.get("labels") or [one.get("name") for one in categories]
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
