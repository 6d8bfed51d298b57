"""Masks that their authors pickled with NumPy, read without running what else a pickle may hold."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sonodistill.errors import DatasetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGEST = 1 << 28  # bytes of a file; those of FASS have some four million
_ALLOWED = {(f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")} | {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


@dataclass(frozen=True, slots=True)
class PickledMask:
    """A dictionary of masks in an .npy file, as FASS has it: ``{"structures": {"liver": (H, W), ...}}``.

    Attributes:
        paths: the file, alone.
        words: of each code from 1: a mask whose name contains one of them. The highest code wins where two overlap.
    """

    paths: tuple[Path, ...]
    words: tuple[tuple[str, ...], ...]
    frames: frozenset[int] | None = None

    def load(self, shape: tuple[int, int], frame: int = 0) -> NDArray[np.uint8]:
        """See :class:`~sonodistill_training.corpus.registry.labels.Mask`."""
        import numpy as np

        del frame
        path = self.paths[0]
        codes = np.zeros(shape, np.uint8)
        for name, mask in _masks(read_pickled(path), path).items():
            found = [code for code, words in enumerate(self.words, 1) if any(word in name.lower() for word in words)]
            if not found:
                raise DatasetError(f"holds a mask called {name}, which is none of the structures", path=path)
            array = np.squeeze(np.asarray(mask))
            if array.shape != tuple(shape) or array.dtype.kind not in "buif":
                raise DatasetError(f"its {name} is {array.shape} of {array.dtype}, the frame {tuple(shape)}", path=path)
            codes = np.maximum(codes, np.where(array > 0, found[0], 0).astype(np.uint8))
        return codes


def read_pickled(path: Path) -> Any:
    """The object in an .npy file of NumPy's arrays, dictionaries, lists and plain values.

    Raises:
        DatasetError: damaged, very large, or a pickle that wants anything else.
    """
    import numpy as np

    remedy = "copy it again from its source"
    try:
        if path.stat().st_size > _LARGEST:
            raise DatasetError(f"has more than {_LARGEST} bytes", path=path, remedy=remedy)
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            read(file)
            return _OnlyArrays(file).load().item()
    except (OSError, EOFError, ValueError, AttributeError, TypeError, KeyError, IndexError, MemoryError) as error:
        raise DatasetError(f"the array cannot be read ({error})", path=path, remedy=remedy) from error
    except pickle.UnpicklingError as error:
        raise DatasetError(str(error), path=path, remedy=remedy) from error


class _OnlyArrays(pickle.Unpickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"wants {module}.{name}, which no mask needs: it may run code and is not read")
        return super().find_class(module, name)


def _masks(content: Any, path: Path) -> Mapping[str, Sequence[Any]]:
    masks = content.get("structures") if isinstance(content, Mapping) else None
    if not isinstance(masks, Mapping) or not all(isinstance(name, str) for name in masks):
        raise DatasetError("holds no structures", path=path, remedy="copy it again from its source")
    return masks
