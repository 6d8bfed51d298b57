"""Results into a folder that another program watches."""

from __future__ import annotations

import errno
import filecmp
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydicom.errors import InvalidDicomError
from pydicom.filereader import read_file_meta_info

from sonodistill.dicom.errors import DeliveryError, RefusedDeliveryError, ServiceConfigError
from sonodistill.dicom.settings import DestinationSettings
from sonodistill.dicom.source import is_uid

_LOG = logging.getLogger(__name__)
_MODE = 0o640


class FolderDestination:
    """A folder, which has to be there already: a share that is not mounted is not written beneath.

    A file is named by its SOP Instance UID and appears whole, readable by owner and group.
    """

    def __init__(self, settings: DestinationSettings) -> None:
        if settings.folder is None:
            raise ServiceConfigError(f"destination {settings.name} needs folder")
        self.name = settings.name
        self._folder = settings.folder

    def send(self, paths: Sequence[Path]) -> None:
        """Copy DICOM files; one that is there already stays as it is, also where the new one differs.

        Errors: DeliveryError (no folder, no room, no permission) and RefusedDeliveryError (no DICOM file).
        """
        for path in paths:
            uid = _instance_uid(path)
            try:
                self._copy(path, self._folder / f"{uid}.dcm")
            except OSError as error:
                raise DeliveryError(f"{self.name}: cannot be written ({error.strerror})", path=self._folder) from error

    def close(self) -> None:
        """Nothing is kept open."""

    def _copy(self, path: Path, target: Path) -> None:
        if os.path.lexists(target):
            if target.is_symlink() or not filecmp.cmp(path, target, shallow=False):
                _LOG.warning("%s: %s is there already with other content, and stays", self.name, target.name)
            return
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=f".{target.stem}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as written, path.open("rb") as read:
                shutil.copyfileobj(read, written, 1 << 20)
                written.flush()
                os.fsync(written.fileno())
            temporary.chmod(_MODE)
            temporary.replace(target)
            _flush(self._folder)
        finally:
            temporary.unlink(missing_ok=True)


def _flush(folder: Path) -> None:
    """Have the names in a folder on disk: what is confirmed leaves the spool, and a power cut must not take it here."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a share that cannot
            raise
    finally:
        os.close(handle)


def _instance_uid(path: Path) -> str:
    try:
        uid = str(read_file_meta_info(path).get("MediaStorageSOPInstanceUID", ""))
    except (OSError, InvalidDicomError, ValueError) as error:
        raise RefusedDeliveryError(f"no DICOM file ({type(error).__name__})", path=path) from None
    if not is_uid(uid):
        raise RefusedDeliveryError("its SOP Instance UID is missing or malformed", path=path)
    return uid
