"""A program that sends files over one association: ``python -m sonodistill_training.bench.dicom.sender PORT FILES``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from pydicom.uid import JPEGBaseline8Bit, UltrasoundMultiFrameImageStorage
from pynetdicom import AE

from sonodistill_training.bench.dicom.service import CALLED, CALLER


def store(port: int, paths: Sequence[str | Path]) -> bool:
    """Send Ultrasound Multi-frame Images of JPEG baseline, and release the association; whether all were taken."""
    entity = AE(CALLER)
    entity.add_requested_context(UltrasoundMultiFrameImageStorage, JPEGBaseline8Bit)
    association = entity.associate("127.0.0.1", port, ae_title=CALLED)
    if not association.is_established:
        return False
    taken = [association.send_c_store(str(path)).get("Status") == 0 for path in paths]
    association.release()
    return all(taken)


if __name__ == "__main__":
    sys.exit(0 if store(int(sys.argv[1]), sys.argv[2:]) else 1)
