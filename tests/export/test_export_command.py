"""`sonodistill export`: one table for what was written, one list for what was not, and the exit code says which."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from sonodistill.errors import SonoDistillError, WeightsError
from sonodistill.inference.runtimes import open_runtime
from sonodistill_training.export.frames import CalibrationError
from sonodistill_training.export_commands import export


def run(*arguments: object) -> Result:
    app = typer.Typer()
    app.command()(export)
    return CliRunner().invoke(app, [str(argument) for argument in arguments], terminal_width=200)


def test_one_target_that_fails_does_not_stop_the_others(checkpoint: Path, tmp_path: Path) -> None:
    result = run(checkpoint, "--to", "openvino-int8", "--to", "torchscript", "--out", tmp_path, "--labels", "tissue")
    assert result.exit_code == 2
    assert "1 of 2 targets failed" in result.output
    assert "openvino-int8: openvino-int8 is calibrated on real frames" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["model.ts"]
    assert "torchscript" in result.output
    assert "pydicom examples" in result.output
    info = open_runtime(tmp_path / "model.ts", "torch").info
    assert info is not None
    assert info.weights.labels == ("tissue",)


def test_a_file_is_written_under_its_own_name_for_another_size(checkpoint: Path, cine: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "lesion.ts"
    result = run(checkpoint, "--to", "torchscript", "--out", out, "--frames", cine, "--input-size", 96)
    assert result.exit_code == 0, result.output
    assert open_runtime(out, "torch").input_size == (96, 96)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--to", "onxx"], SonoDistillError),
        (["--to", "onnx", "--labels", "a,b"], WeightsError),
        (["--to", "onnx", "--input-size", "70"], WeightsError),
    ],
)
def test_bad_settings_end_before_anything_is_written(
    checkpoint: Path, tmp_path: Path, arguments: list[str], error: type
) -> None:
    result = run(checkpoint, *arguments, "--out", tmp_path)
    assert isinstance(result.exception, error)
    assert not list(tmp_path.iterdir())


def test_one_blank_frame_is_no_calibration(checkpoint: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (200, 100)).save(tmp_path / "blank.png")
    result = run(checkpoint, "--to", "openvino-int8", "--frames", tmp_path / "blank.png", "--out", tmp_path)
    assert isinstance(result.exception, CalibrationError)
    assert "0 usable frames in 1 file (1 blank)" in str(result.exception)


def test_help_has_an_example() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert "sonodistill export model.safetensors --to onnx" in result.output
