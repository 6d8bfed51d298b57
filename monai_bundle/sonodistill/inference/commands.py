"""Command line of inference with an exported model or a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_BUDGET_MS = 100.0
_LIVE_ONLY = ("drop", "smooth", "seconds", "frames", "timeout", "reply")
_FILES_ONLY = ("batch_size",)


def predict(
    context: typer.Context,
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="[MODEL] SOURCES...",
            help="Model: exported (.onnx .xml .ts .pt2 .pte), a checkpoint (.safetensors) or a name of `sonodistill "
            "weights list`; by default breast-lesion. Sources: ultrasound files or folders; or one "
            "igtl://HOST:PORT[/DEVICE] or device:[FORMAT:]NAME.",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks or embeddings, and index.csv.")],
    runtime: Annotated[
        str, typer.Option(help="auto, onnxruntime, openvino, torch, torch-compile or executorch.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16, or auto: bf16 where the hardware computes it.")] = "fp32",
    threads: Annotated[int, typer.Option(min=0, help="Of the inference; 0: the runtime chooses.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Frames inferred together.")] = 1,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Foreground is a probability above it.")] = 0.5,
    size: Annotated[int | None, typer.Option(min=1, help="Input size where the model leaves it open.")] = None,
    device: Annotated[str, typer.Option(help="cpu, or cuda with torch.")] = "cpu",
    budget_ms: Annotated[
        float | None, typer.Option(help="Predict live, a file at its own pace: milliseconds that a mask may take.")
    ] = None,
    drop: Annotated[str, typer.Option(help="Live: latest skips frames that a newer one replaced; none.")] = "latest",
    smooth: Annotated[float, typer.Option(help="Live: weight of the past in the probabilities, 0 to 1.")] = 0.0,
    seconds: Annotated[float | None, typer.Option(help="Live: stop after so many.")] = None,
    frames: Annotated[int | None, typer.Option(help="Live: stop after so many results.")] = None,
    timeout: Annotated[float, typer.Option(help="Live: seconds to wait for a frame.")] = 10.0,
    reply: Annotated[bool, typer.Option(help="Live: send the masks back over OpenIGTLink.")] = False,
) -> None:
    """Predict every frame of any ultrasound files: masks, classes or embeddings. Exported models need no torch.

    Example: sonodistill predict model.onnx clip.dcm --out masks
    """
    from sonodistill.errors import BundleConfigError
    from sonodistill.inference.live.source import is_live
    from sonodistill.inference.predictor import Predictor

    model, sources = _model_and_sources(given)
    live = budget_ms is not None or any(map(is_live, sources))
    if live and len(sources) != 1:
        raise BundleConfigError("a live source is predicted by itself", remedy="give one source")
    if live:
        _refuse(context, _FILES_ONLY, "is for files; live, each frame is predicted when it comes", "leave it out")
    else:
        _refuse(context, _LIVE_ONLY, "is for a live session", "give --budget-ms or a live source, or leave it out")
    predictor = Predictor(
        model,
        runtime=runtime,
        precision=precision,
        threads=threads,
        size=None if size is None else (size, size),
        batch_size=1 if live else batch_size,
        threshold=threshold,
        device=device,
    )
    if size is not None and predictor.input_size != (size, size):
        taken = " x ".join(map(str, predictor.input_size))
        raise BundleConfigError(f"{model} takes {taken} pixels, not {size}", remedy="leave --size out")
    if not live:
        from sonodistill.inference.files import predict_files

        code = predict_files(predictor, [Path(source) for source in sources], out)
    else:
        from sonodistill.inference.live.commands import predict_live

        if predictor.kind != "segmenter":
            raise BundleConfigError(f"a live source needs a segmenter, not a {predictor.kind}", remedy="give its files")
        code = predict_live(
            predictor,
            sources[0],
            out,
            budget_ms=_BUDGET_MS if budget_ms is None else budget_ms,
            drop=drop,
            smooth=smooth,
            seconds=seconds,
            frames=frames,
            timeout=timeout,
            reply=reply,
        )
    if code:
        raise typer.Exit(code)


def _model_and_sources(given: list[str]) -> tuple[Path, list[str]]:
    """The first word names the model, unless it is a source: then the model is the one that is shipped for masks."""
    from sonodistill import models
    from sonodistill.errors import BundleConfigError
    from sonodistill.inference.live.source import is_live
    from sonodistill.inference.runtimes import RUNTIMES

    first, *rest = given
    readable = {suffix for entry in RUNTIMES.values() for suffix in entry.suffixes}
    a_source = is_live(first) or (Path(first).exists() and Path(first).suffix.lower() not in readable)
    shipped = models.default(models.SEGMENTATION) if a_source else None
    if shipped is not None:
        typer.echo(f"model: {models.DEFAULTS[models.SEGMENTATION]}", err=True)
        return shipped, given
    if not rest:
        what = "model" if a_source else "source"
        raise BundleConfigError(f"there is no {what} beside {first}", remedy="give a model, then what it is to predict")
    return models.path_of(first), rest


def _refuse(context: typer.Context, names: tuple[str, ...], why: str, remedy: str) -> None:
    from sonodistill.errors import BundleConfigError

    for name in names:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise BundleConfigError(f"--{name.replace('_', '-')} {why}", remedy=remedy)
