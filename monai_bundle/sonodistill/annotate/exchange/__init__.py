"""Labels out of the store and back: PNG, NIfTI, COCO and DICOM Segmentation.

What is exported and imported again is the same: masks, frames and statuses.
"""

from sonodistill.annotate.exchange.archive import pack, unpack
from sonodistill.annotate.exchange.exports import FORMS, export, of_pacs, send
from sonodistill.annotate.exchange.imports import import_labels
from sonodistill.annotate.exchange.report import Report, Skipped

__all__ = ["FORMS", "Report", "Skipped", "export", "import_labels", "of_pacs", "pack", "send", "unpack"]
