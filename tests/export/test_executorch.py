"""ExecuTorch for real: export, run by its own runtime on real frames, compare with the network."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sonodistill.errors import BundleConfigError, SonoDistillError, WeightsError
from sonodistill.inference.exported import to_text
from sonodistill.inference.runtimes import open_runtime
from sonodistill.inference.runtimes.base import InputError, Runtime
from sonodistill_training.export.export import Exported, Source, export
from sonodistill_training.export.targets import TARGETS, ToolchainMissingError

INSTALLED = importlib.util.find_spec("executorch") is not None
needs_executorch = pytest.mark.skipif(not INSTALLED, reason="executorch is not installed: pip install executorch")
TEXT = ".sonodistill.json"


@pytest.fixture(scope="module")
def exported(source: Source, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return export(source, TARGETS["executorch"], tmp_path_factory.mktemp("executorch") / "model.pte")


@pytest.fixture(scope="module")
def runtime(exported: Exported) -> Runtime:
    return open_runtime(exported.path, threads=1)


@pytest.fixture
def copied(exported: Exported, tmp_path: Path) -> Path:
    """A program without the text beside it."""
    path = tmp_path / "model.pte"
    path.write_bytes(exported.path.read_bytes())
    return path


@needs_executorch
def test_program_says_what_the_network_says_for_any_number_of_frames(runtime: Runtime, source: Source) -> None:
    frames = np.stack(source.frames.check[:9])
    with torch.inference_mode():
        wanted = source.network(torch.from_numpy(frames)).numpy()
    for count in (9, 1, 4, 5):
        found = runtime(frames[:count])
        assert found.shape == wanted[:count].shape
        np.testing.assert_allclose(found, wanted[:count], rtol=0, atol=1e-4 * np.abs(wanted).max())


@needs_executorch
def test_outputs_of_a_call_outlive_the_next(runtime: Runtime, source: Source) -> None:
    first = runtime(source.frames.check[0][None])
    kept = first.copy()
    runtime(source.frames.check[1][None])
    np.testing.assert_array_equal(first, kept)


@needs_executorch
def test_text_beside_tells_of_the_check_and_the_text_inside_survives_without_it(
    runtime: Runtime, exported: Exported, copied: Path
) -> None:
    assert runtime.info == exported.info
    assert 0 <= exported.info.check["max_abs_difference"] < 1e-3
    alone = open_runtime(copied)
    assert alone.info == replace(exported.info, check={})
    assert (alone.name, alone.precision, alone.input_size, alone.batch) == ("executorch", "fp32", (64, 64), None)


@needs_executorch
def test_wrong_shapes_and_types_are_refused(runtime: Runtime) -> None:
    for shape, dtype in (((1, 1, 64, 32), "float32"), ((1, 3, 64, 64), "float32"), ((1, 1, 64, 64), "float64")):
        with pytest.raises(InputError, match=r"\(B, 1, 64, 64\)"):
            runtime(np.zeros(shape, dtype))


@needs_executorch
def test_text_of_another_model_is_refused(exported: Exported, copied: Path) -> None:
    other = replace(exported.info, weights_sha256="0" * 64)
    copied.with_name(copied.name + TEXT).write_text(to_text(other))
    with pytest.raises(WeightsError, match="belongs to another model"):
        open_runtime(copied)


@needs_executorch
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_cut_program_is_named(copied: Path, kept: float) -> None:
    content = copied.read_bytes()
    copied.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(WeightsError) as error:
        open_runtime(copied)
    assert error.value.path == copied


@needs_executorch
def test_program_runs_on_the_cpu_alone(exported: Exported) -> None:
    with pytest.raises(BundleConfigError, match="CPU"):
        open_runtime(exported.path, device="cuda")


@needs_executorch
@pytest.mark.slow
def test_int8_program_is_a_quarter_of_the_size_and_close(source: Source, exported: Exported, tmp_path: Path) -> None:
    from sonodistill_training.export.targets.executorch import write

    info = replace(exported.info, precision="int8", check={}, calibration=source.frames.account())
    path = tmp_path / "model.int8.pte"
    write(source.folded, path, info, source.frames.calibration)
    assert path.stat().st_size < 0.3 * exported.path.stat().st_size
    runtime = open_runtime(path)
    assert runtime.precision == "int8"
    frames = np.stack(source.frames.check[:4])
    found = runtime(frames)
    with torch.inference_mode():
        wanted = source.network(torch.from_numpy(frames)).numpy()
    # Random weights quantise worse than trained ones.
    correlation = np.corrcoef(found.ravel(), wanted.ravel())[0, 1]
    assert correlation > 0.9


@pytest.mark.skipif(INSTALLED, reason="executorch is installed")
def test_without_executorch_the_error_says_what_to_install(source: Source, tmp_path: Path) -> None:
    with pytest.raises(ToolchainMissingError, match="executorch needs executorch") as error:
        export(source, TARGETS["executorch"], tmp_path / "model.pte")
    assert "pip install" in str(error.value)
    (tmp_path / "model.pte").write_bytes(b"\0" * 64)
    with pytest.raises(SonoDistillError, match="not installed"):
        open_runtime(tmp_path / "model.pte")
