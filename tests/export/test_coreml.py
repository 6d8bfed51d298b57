"""Core ML: what a conversion writes, read back; it runs on macOS alone."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from sonodistill.inference.exported import KEY, ExportInfo, from_text
from sonodistill_training.export.check import ExportCheckError
from sonodistill_training.export.export import Source, export
from sonodistill_training.export.targets import TARGETS, ToolchainMissingError

INSTALLED = importlib.util.find_spec("coremltools") is not None
needs_coremltools = pytest.mark.skipif(not INSTALLED, reason="coremltools is not installed: pip install coremltools")


@pytest.fixture(scope="module")
def info(source: Source) -> ExportInfo:
    return ExportInfo(source.info, "coreml", "fp16", source.size, weights_sha256=source.sha256)


@pytest.fixture(scope="module")
def package(source: Source, info: ExportInfo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "model.mlpackage"
    TARGETS["coreml"].write(source.folded, path, info)
    return path


@needs_coremltools
def test_package_takes_any_number_of_gray_images_up_to_its_bound(package: Path) -> None:
    import coremltools

    from sonodistill_training.export.targets.coreml import MAX_BATCH

    spec = coremltools.models.MLModel(str(package), skip_model_load=True).get_spec()
    (image,), (output,) = spec.description.input, spec.description.output
    assert (image.name, output.name) == ("image", "output")
    float32 = coremltools.proto.FeatureTypes_pb2.ArrayFeatureType.FLOAT32
    assert image.type.multiArrayType.dataType == output.type.multiArrayType.dataType == float32
    ranges = [(one.lowerBound, one.upperBound) for one in image.type.multiArrayType.shapeRange.sizeRanges]
    assert ranges == [(1, MAX_BATCH), (1, 1), (64, 64), (64, 64)]
    # The batch is open in the graph, not only in its description: the sizes of the output are (unknown, 1, 64, 64).
    block = spec.mlProgram.functions["main"].block_specializations["CoreML6"]
    (made,) = [one for op in block.operations for one in op.outputs if one.name == block.outputs[0]]
    sizes = [side.WhichOneof("dimension") for side in made.type.tensorType.dimensions]
    assert sizes == ["unknown", "constant", "constant", "constant"]


@needs_coremltools
def test_package_carries_its_text_and_a_stamp_replaces_it(package: Path, info: ExportInfo) -> None:
    import coremltools

    def read() -> ExportInfo:
        return from_text(coremltools.models.MLModel(str(package), skip_model_load=True).user_defined_metadata[KEY])

    assert read() == info
    stamped = replace(info, check={"dice": 0.99})
    TARGETS["coreml"].stamp(torch.nn.Identity(), package, stamped)
    assert read() == stamped


@needs_coremltools
def test_precision_is_that_of_the_stored_weights(
    source: Source, info: ExportInfo, package: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "model.mlpackage"
    TARGETS["coreml"].write(source.folded, whole, replace(info, precision="fp32"))
    half, full = (next(one.rglob("weight.bin")).stat().st_size for one in (package, whole))
    assert 0.49 < half / full < 0.51


@needs_coremltools
def test_macos_computes_what_the_network_says(source: Source, package: Path) -> None:
    if not TARGETS["coreml"].can_run:
        pytest.skip("Core ML models are computed by macOS alone")
    frames = np.stack(source.frames.check[:3])
    with torch.inference_mode():
        wanted = source.network(torch.from_numpy(frames)).numpy()
    assert np.mean((TARGETS["coreml"].open(package)(frames) > 0) == (wanted > 0)) > 0.99


@needs_coremltools
@pytest.mark.skipif(sys.platform == "darwin", reason="macOS checks the file")
def test_what_cannot_be_checked_is_written_only_when_asked_for(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "model.mlpackage"
    with pytest.raises(ExportCheckError, match="cannot be checked"):
        export(source, TARGETS["coreml"], out)
    assert not out.exists()
    made = export(source, TARGETS["coreml"], out, unchecked=True)
    assert out.is_dir() and made.info.check == {}


@pytest.mark.skipif(INSTALLED, reason="coremltools is installed")
def test_without_coremltools_the_error_says_what_to_install(source: Source, info: ExportInfo, tmp_path: Path) -> None:
    with pytest.raises(ToolchainMissingError, match="coreml needs coremltools") as error:
        TARGETS["coreml"].write(source.folded, tmp_path / "model.mlpackage", info)
    assert "pip install" in str(error.value)
    assert not (tmp_path / "model.mlpackage").exists()
