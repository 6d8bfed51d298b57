"""Labels of a DICOM cine or still as a DICOM Segmentation, by the writer of the SonoDistill package."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from UltrasoundSegmentLib.exchange.errors import ExchangeError, MissingPackageError, OtherImageError
from UltrasoundSegmentLib.exchange.exports import file_in
from UltrasoundSegmentLib.exchange.records import frame_id, head, item_of, named, record_of, to_json
from UltrasoundSegmentLib.exchange.report import Report
from UltrasoundSegmentLib.masks.status import Status
from UltrasoundSegmentLib.masks.steps import Steps, beside
from UltrasoundSegmentLib.masks.store import MaskStore

FORM = "seg"
PRIVATE_GROUP, PRIVATE_CREATOR, PRIVATE_ELEMENT = 0x0099, "SONODISTILL LABELS", 0x01
"""Where a segmentation keeps the JSON of its labels, as ``sonodistill label export --form seg`` has it."""

_LESIONS = frozenset({"lesion", "mass", "nodule", "tumor", "tumour", "cyst"})
_INSTALL = "install it into Slicer's Python: pip install sonodistill[dicom]"


def write(cine: Any, store: MaskStore, indices: Sequence[int], out: Path, report: Report) -> Steps[None]:
    """One binary segmentation (PS3.3 A.51) with a frame for every labelled frame and segment, be it empty.

    It is MANUAL where people drew all of it, SEMIAUTOMATIC where a model proposed or carried on any of it, AUTOMATIC
    where nobody looked at it.

    Errors: OtherImageError where the cine is of no DICOM file, or of another; MissingPackageError; ExchangeError.
    """
    dicom = yield from beside(_package)
    masked = [index for index in indices if store.status(index) is not Status.SKIPPED]
    if not masked:
        raise ExchangeError("All of the frames were skipped, so that there is no mask to write.")
    path, temporary = file_in(cine, out, "dicom_seg"), None
    try:
        source = dicom.read_source(_file(cine))
        _check(cine, source)
        masks = dicom.Masks(len(store.labels), source.rows, source.columns)
        numbers = np.arange(1, len(store.labels) + 1, dtype=np.uint8)[:, np.newaxis, np.newaxis]
        digest = hashlib.sha256()
        for index in masked:
            mask, info = store.mask(index), store.info(index)
            if mask.shape != (source.rows, source.columns):
                raise OtherImageError(
                    f"A mask is {mask.shape}, the file's image {(source.rows, source.columns)} pixels."
                )
            masks.append(mask == numbers, np.zeros(0, np.float32))
            digest.update(f"{index} {info['status'].value} {info['annotator']}\n".encode())
            digest.update(mask.tobytes())
            yield
        algorithm = _algorithm([store.info(index) for index in masked], store.labels, digest.hexdigest())
        findings = dicom.Findings(source, algorithm, masks, frames=tuple(masked))
        said = to_json(_said(cine, store, indices)).decode()
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        yield from beside(partial(_written, dicom, findings, said, temporary))
        temporary.replace(path)
    except dicom.SonoDistillError as error:
        raise ExchangeError(f"{error}") from None
    except OSError as error:
        raise ExchangeError(f"“{path}” cannot be written ({error.strerror or error}): choose another place.") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
    report.written += [frame_id(cine, index) for index in indices]
    report.files.append(str(path))


def _package() -> Any:
    """What is used of the SonoDistill package."""
    try:
        from sonodistill.dicom.findings import Findings, Masks
        from sonodistill.dicom.source import read_source
        from sonodistill.dicom.write.check import check_references, check_segmentation
        from sonodistill.dicom.write.common import write_file
        from sonodistill.dicom.write.seg import segmentation
        from sonodistill.errors import SonoDistillError
    except ImportError as error:
        raise MissingPackageError(
            f"DICOM cannot be written without the SonoDistill package ({error}): {_INSTALL}."
        ) from None
    return SimpleNamespace(
        Findings=Findings,
        Masks=Masks,
        read_source=read_source,
        check_references=check_references,
        check_segmentation=check_segmentation,
        write_file=write_file,
        segmentation=segmentation,
        SonoDistillError=SonoDistillError,
    )


def _written(dicom: Any, findings: Any, said: str, path: Path) -> None:
    """Write a segmentation, read it back and check it, bit for bit."""
    ds = dicom.segmentation(findings)
    block = ds.private_block(PRIVATE_GROUP, PRIVATE_CREATOR, create=True)
    block.add_new(PRIVATE_ELEMENT, "UT", said)
    dicom.write_file(ds, path)
    dicom.check_segmentation(path, findings)
    dicom.check_references(path, findings)


def _file(cine: Any) -> Path:
    kept = cine.attribute("file") or cine.attribute("path")
    if not kept:
        raise OtherImageError(
            f"“{cine.name}” was not opened from a DICOM file: a segmentation has nothing to refer to."
        )
    if not Path(kept).is_file():
        raise OtherImageError(
            f"“{kept}”, which “{cine.name}” was opened from, is gone: put it back, or open the cine again."
        )
    return Path(kept)


def _check(cine: Any, source: Any) -> None:
    """The file is still the one that the cine shows."""
    uids = (cine.volume(0).GetAttribute("DICOM.instanceUIDs") or cine.key).split()
    if source.sop_uid not in uids:
        raise OtherImageError(f"“{source.path.name}” is another image now than the one that was opened: open it again.")
    if source.frames != cine.count:
        raise OtherImageError(f"“{source.path.name}” has {source.frames} frames, “{cine.name}” {cine.count}.")


def _said(cine: Any, store: MaskStore, indices: Sequence[int]) -> dict[str, Any]:
    records = []
    for index in indices:
        record = record_of(cine, store, index)
        del record["name"]  # of a file, which may be a patient's
        records.append({**record, "mask": store.status(index) is not Status.SKIPPED})
    return {**head(FORM, store.labels), "item": item_of(cine), "frames": records}


def _algorithm(infos: Sequence[dict[str, Any]], names: Sequence[str], digest: str) -> Any:
    from importlib.metadata import version

    from sonodistill import __version__
    from sonodistill.dicom.algorithm import ABNORMAL, LESION, TISSUE, Algorithm, Segment

    models = sorted({info["model"] for info in infos} - {""})
    people = sorted({named(info["annotator"]) for info in infos if info["status"].by_person} - {""})
    by_model = models or any(info["status"].by_model for info in infos)
    kind = "SEMIAUTOMATIC" if by_model else "MANUAL"
    lesion, tissue = (ABNORMAL, LESION), (TISSUE, TISSUE)
    return Algorithm(
        name=", ".join(models) or "annotation",
        version=__version__,
        weights_sha256="",
        segments=tuple(Segment(name, *(lesion if name.casefold() in _LESIONS else tissue)) for name in names),
        software=(f"SonoDistill {__version__}", f"pydicom {version('pydicom')}"),
        kind=kind if any(info["status"].by_person for info in infos) else "AUTOMATIC",
        people=tuple(people),
        content_sha256=digest,
    )
