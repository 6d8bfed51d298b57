"""Write labels in one of the forms that other programs read."""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sonodistill.annotate.errors import AnnotationError, ConflictError
from sonodistill.annotate.exchange.choose import Export, choose
from sonodistill.annotate.exchange.report import Report
from sonodistill.annotate.ids import check_name
from sonodistill.annotate.labels.store import LabelStore
from sonodistill.annotate.model import FINAL, Catalogue, Status

if TYPE_CHECKING:
    from sonodistill.annotate.remote.catalogue import WebCatalogue

FORMS = ("png", "nifti", "coco", "seg")


def export(
    catalogue: Catalogue,
    store: LabelStore,
    out: str | Path,
    form: str,
    *,
    statuses: Collection[Status] = FINAL,
    annotator: str | None = None,
    images: bool = False,
) -> Report:
    """Write the labels of the store into a new folder; see the module of each form for its files.

    Args:
        catalogue: the frames are of.
        store: the labels are in.
        out: folder that is new or empty.
        form: "png", "nifti", "coco" or "seg".
        statuses: of the labels that are written; of several labels of a frame it is the best.
        annotator: write only this one's.
        images: write the frames as well, as gray PNG files; of "png" and "coco", the others refer to the items.

    Errors: AnnotationError for a form there is not, or a folder that is not empty; OSError of the disk. A frame that
        cannot be written is in the report.
    """
    out = Path(out)
    if form not in FORMS:
        raise AnnotationError(f"there is no form {form[:40]!r}", remedy=f"choose of {', '.join(FORMS)}")
    if annotator is not None:
        check_name(annotator)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConflictError("the output folder is not empty", path=out, remedy="name a new folder")
    out.mkdir(parents=True, exist_ok=True)
    report = Report()
    chosen = choose(catalogue, store, statuses, annotator, report)
    # Each brings a library that takes a while to import.
    import_module(f"sonodistill.annotate.exchange.{form}").write(Export(catalogue, store, out, chosen, images, report))
    return report


def send(catalogue: Catalogue, folder: str | Path) -> int:
    """Send the DICOM files that ``export`` wrote in the form "seg" to the PACS that the frames are of (STOW-RS).

    Returns: how many, each confirmed by the PACS. The same labels have the same UIDs: sent again they are one object.

    Errors: AnnotationError when the frames are those of a folder; UnreachableError, also when the PACS refuses one.
    """
    remote = of_pacs(catalogue)
    paths = sorted(Path(folder).rglob("*.dcm"))
    if paths:
        remote.store(paths)
    return len(paths)


def of_pacs(catalogue: Catalogue) -> WebCatalogue:
    """The catalogue as one that takes files. Errors: AnnotationError when it is that of a folder."""
    from sonodistill.annotate.remote.catalogue import WebCatalogue  # wants what DICOMweb wants

    if not isinstance(catalogue, WebCatalogue):
        raise AnnotationError("the studies are no PACS that takes files", remedy="export without storing")
    return catalogue
