"""Models behind one call: which runtime reads which file, and opening a file with one of them."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sonodistill import models
from sonodistill.errors import BundleConfigError, SonoDistillError, WeightsError
from sonodistill.inference.runtimes.base import Runtime, RuntimeMissingError
from sonodistill.inference.runtimes.checks import check_output, require_answers, require_file
from sonodistill.transforms.geometry import Size

AUTO = "auto"
PRECISIONS = ("fp32", "bf16", "auto")


@dataclass(frozen=True, slots=True)
class Entry:
    """A runtime that can be asked for.

    Attributes:
        suffixes: of the files it reads.
        module: has ``open_model(path, *, name, precision, threads, size, batch, device) -> Runtime``, which may raise
            what it likes: :func:`open_runtime` names the file.
        package: what is imported.
        pip: what installs it.
        raced: whether "auto" measures it; one that compiles for a minute is used only by name.
    """

    suffixes: tuple[str, ...]
    module: str
    package: str
    pip: str
    raced: bool = True


_COMPILING = "see whether --runtime torch can: compiling needs a C++ compiler"
_HERE = "sonodistill.inference.runtimes."
RUNTIMES: dict[str, Entry] = {
    "onnxruntime": Entry((".onnx",), _HERE + "onnxruntime_runtime", "onnxruntime", "onnxruntime"),
    "openvino": Entry((".onnx", ".xml"), _HERE + "openvino_runtime", "openvino", "openvino"),
    "torch": Entry((".safetensors", ".ts", ".pt2"), _HERE + "torch_runtime", "torch", "'sonodistill[torch]'"),
    "torch-compile": Entry(
        (".safetensors", ".pt2"), _HERE + "torch_runtime", "torch", "'sonodistill[torch]'", raced=False
    ),
    "executorch": Entry((".pte",), _HERE + "executorch_runtime", "executorch", "executorch"),
}


def open_runtime(
    path: str | Path,
    runtime: str = AUTO,
    *,
    precision: str = "fp32",
    threads: int = 0,
    size: Size | None = None,
    batch: int | None = None,
    device: str = "cpu",
) -> Runtime:
    """Load a model and run it once on zeros, so that the first real call is as fast as the others.

    Args:
        path: an exported model or a checkpoint of ours, whose suffix says what it is; or a shipped model's name.
        runtime: name in :data:`RUNTIMES`, or "auto": the fastest that reads the file here, measured once (see
            :mod:`sonodistill.inference.runtimes.choice`).
        precision: "fp32"; "bf16"; or "auto", bf16 where the hardware computes it. Integer layers stay integer.
        threads: 0 lets the runtime choose. Torch knows one number for the whole process, which this sets.
        size: (height, width) of the input in pixels, where the file leaves it open.
        batch: images that a call will have; the model is warmed up with as many. By default the file's, else 1.
        device: "cpu", or "cuda" with torch.

    Raises:
        WeightsError: no such file, a damaged one, one that the runtime does not read, or one that is not what its
            metadata say.
        RuntimeMissingError: the runtime is not installed.
        BundleConfigError: a setting that is unknown, or that the runtime does not have.
    """
    path = models.path_of(path)
    able = readers(path)
    if precision not in PRECISIONS:
        raise BundleConfigError(f"unknown precision {precision}", remedy=f"choose one of {', '.join(PRECISIONS)}")
    if threads < 0 or (batch is not None and batch < 1):
        raise BundleConfigError(f"{threads} threads and batches of {batch} images", remedy="give 0 or more, 1 or more")
    options: dict[str, Any] = {
        "precision": precision,
        "threads": threads,
        "size": None if size is None else (int(size[0]), int(size[1])),
        "batch": batch,
        "device": device,
    }
    if runtime == AUTO:
        from sonodistill.inference.runtimes.choice import open_fastest

        return open_fastest(path, able, options)
    if runtime not in RUNTIMES:
        raise BundleConfigError(f"unknown runtime {runtime}", remedy=f"choose auto or one of {', '.join(RUNTIMES)}")
    if runtime not in able:
        raise WeightsError(
            f"{runtime} reads {', '.join(RUNTIMES[runtime].suffixes)} files, not this one",
            path=path,
            remedy=f"take {' or '.join(able)} for it",
        )
    return open_with(runtime, path, options)


def readers(path: Path) -> list[str]:
    """The runtimes that read such a file, installed or not.

    Raises:
        WeightsError: no such file, or no runtime reads it.
    """
    require_file(path)
    able = [name for name, entry in RUNTIMES.items() if path.suffix.lower() in entry.suffixes]
    if not able:
        known = sorted({suffix for entry in RUNTIMES.values() for suffix in entry.suffixes})
        raise WeightsError("no runtime reads this kind of file", path=path, remedy=f"give one of {', '.join(known)}")
    return able


def installed(name: str) -> bool:
    """Whether the runtime's package can be imported."""
    return importlib.util.find_spec(RUNTIMES[name].package) is not None


def open_with(name: str, path: Path, options: dict[str, Any]) -> Runtime:
    """Load a file with a runtime that reads it, and warm it up; see :func:`open_runtime`."""
    entry = RUNTIMES[name]
    if not installed(name):
        raise RuntimeMissingError(
            f"{name} needs the package {entry.package}, which is not installed",
            path=path,
            remedy=f"pip install {entry.pip}",
        )
    try:
        opened: Runtime = importlib.import_module(entry.module).open_model(path, name=name, **options)
        zeros = np.zeros((opened.batch or options["batch"] or 1, 1, *opened.input_size), np.float32)
        output, scores = opened.both(zeros)
    except (SonoDistillError, MemoryError):
        raise
    except ImportError as error:
        raise RuntimeMissingError(
            f"{name} is installed, but cannot be imported ({str(error)[:200]})",
            path=path,
            remedy=f"pip install --force-reinstall {entry.pip}",
        ) from error
    # As wide as this: five libraries raise what they like on a file that is damaged or not for them.
    except Exception as error:
        found = (str(error).strip().splitlines() or [""])[-1][:200]
        raise WeightsError(
            f"{name} cannot load or run it ({type(error).__name__}: {found})",
            path=path,
            remedy=_COMPILING if name == "torch-compile" else "export it anew, or copy it again",
        ) from error
    require_answers(path, zeros, output)
    check_output(path, opened, output.shape)
    if opened.scored:
        require_answers(path, zeros, scores)
    return opened
