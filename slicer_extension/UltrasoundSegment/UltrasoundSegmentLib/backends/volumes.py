"""An image with its place sent to a server, and a label map on the same grid taken back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from UltrasoundSegmentLib.backends import infer, volume_files
from UltrasoundSegmentLib.backends.client import Client
from UltrasoundSegmentLib.backends.model import Cancel
from UltrasoundSegmentLib.backends.uploads import Uploads
from UltrasoundSegmentLib.backends.volume_files import Volume


def segment_volume(client: Client, uploads: Uploads, volume: Volume, model: str, cancel: Cancel) -> NDArray[np.uint8]:
    """(K, J, I) label numbers on the volume's own grid. Errors: BackendError where the answer lies elsewhere."""
    answer = volume_files.read(ask(client, uploads, volume, model, {}, cancel).image)
    return infer.numbers(volume_files.on_grid(answer, volume.voxels.shape, volume.ijk_to_ras))


def ask(
    client: Client, uploads: Uploads, volume: Volume, model: str, params: Mapping[str, Any], cancel: Cancel
) -> infer.Said:
    """Run a model on an image, which is sent as NRRD unless the server still has it."""
    key = hashlib.sha256(volume.voxels.tobytes() + repr(volume.ijk_to_ras.tolist()).encode()).hexdigest()
    wanted = {"result_extension": ".nrrd", **params}
    return uploads.use(
        key,
        lambda: ("image.nrrd", volume_files.write_nrrd(volume)),
        lambda session: infer.infer(client, model, wanted, cancel, session=session),
        cancel,
    )
