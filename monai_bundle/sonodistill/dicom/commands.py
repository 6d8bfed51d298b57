"""Command line of the PACS side: files once, or as a service; what failed for good; the audit log."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sonodistill.dicom.service.dead_commands import app as dead
from sonodistill.dicom.service.dead_commands import audit_app as audit

app = typer.Typer(
    help="DICOM in, segmentations and structured reports back: once, or as a PACS service.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(dead, name="dead")
app.add_typer(audit, name="audit")


class Segmentation(str, Enum):
    """See Outputs.segmentation."""

    BINARY = "binary"
    FRACTIONAL = "fractional"
    LABELMAP = "labelmap"
    NONE = "none"


class Preview(str, Enum):
    """See Outputs.preview."""

    NONE = "none"
    GSPS = "gsps"
    SC = "sc"


@app.command()
def predict(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders.")],
    out: Annotated[Path, typer.Option(help="Folder for the results and results.csv.")],
    model: Annotated[
        Path | None,
        typer.Option(help="Exported (.onnx .xml), checkpoint (.safetensors) or a shipped one's name [breast-lesion]."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration of the service: its routes choose the model.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the algorithm, in the results.")] = "SonoDistill",
    runtime: Annotated[str, typer.Option(help="auto, onnxruntime, openvino, torch or torch-compile.")] = "auto",
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Foreground is a probability above it.")] = 0.5,
    segmentation: Annotated[Segmentation, typer.Option(help="Kind of DICOM SEG.")] = Segmentation.BINARY,
    report: Annotated[bool, typer.Option(help="Structured report (TID 1500) with the measurements.")] = True,
    preview: Annotated[Preview, typer.Option(help="gsps: outlines; sc: a picture.")] = Preview.NONE,
    threads: Annotated[int, typer.Option(min=0, help="Of the inference; 0: the runtime chooses.")] = 0,
) -> None:
    """Segment ultrasound DICOM files and write SEG and SR for each. A file that is refused is listed; exit code 2 then.

    Example: sonodistill dicom predict study --model model.onnx --out results
    """
    from sonodistill import models
    from sonodistill.dicom.batch import predict_folder
    from sonodistill.dicom.config import read_settings
    from sonodistill.dicom.quiet import quiet
    from sonodistill.dicom.settings import Outputs, RouteSettings
    from sonodistill.errors import BundleConfigError

    if model is None and config is None:
        model = models.default(models.SEGMENTATION)
    if (model is None) == (config is None):
        raise BundleConfigError("the model is not clear", remedy="give --model FILE, or --config FILE with routes")
    if config is not None:
        rules = read_settings(config).route
    else:
        assert model is not None  # noqa: S101 (one of both is given)
        outputs = Outputs(segmentation.value, report, preview.value)  # type: ignore[arg-type]
        model = models.path_of(model)
        rules = (RouteSettings(name, model, everything=True, runtime=runtime, threshold=threshold, outputs=outputs),)
    quiet()
    raise typer.Exit(predict_folder(rules, paths, out, threads=threads))


@app.command()
def serve(
    config: Annotated[Path, typer.Option(help="Configuration (TOML); the documentation has one to start from.")],
    check: Annotated[
        bool, typer.Option("--check", help="Read it and all that it names, models and certificates too.")
    ] = False,
) -> None:
    """Run the PACS service until SIGTERM or Ctrl-C, which let it finish what is in hand.

    Example: sonodistill dicom serve --config sonodistill.toml
    """
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s serve %(levelname)s %(message)s")
    if check:
        from sonodistill.dicom.service.run import check as checked

        checked(config)
        typer.echo(f"{config}: sound; every model is loaded")
        return
    from sonodistill.dicom.service.run import serve as run

    raise typer.Exit(run(config))
