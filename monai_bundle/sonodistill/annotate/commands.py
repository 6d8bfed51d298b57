"""Command line of annotation: the server, and what is done with its labels without it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

label = typer.Typer(rich_markup_mode=None)

Studies = Annotated[str | None, typer.Option(metavar="DIR|URL", help="Folder of any ultrasound files; or DICOMweb.")]
Work = Annotated[
    Path | None, typer.Option(resolve_path=True, help="Of labels, models, logs. Default: .sonodistill in the studies.")
]


TokenFile = Annotated[
    Path | None, typer.Option(resolve_path=True, help="DICOMweb: file with a token, or the password of --user.")
]
User = Annotated[str, typer.Option(help="DICOMweb: for HTTP Basic authentication.")]


class Kept(str, Enum):
    """Status of a label, as ``annotate.model.Status``."""

    ACCEPTED = "accepted"
    EDITED = "edited"
    PROPAGATED = "propagated"
    PREDICTED = "predicted"
    SKIPPED = "skipped"


class Form(str, Enum):
    """How labels are written."""

    PNG = "png"
    NIFTI = "nifti"
    COCO = "coco"
    SEG = "seg"


@label.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    studies: Studies = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    work: Work = None,
    segmentation: Annotated[
        str | None, typer.Option(help="Weights to begin with: a file, a shipped model's name, or none [breast-lesion].")
    ] = None,
    interactive: Annotated[str | None, typer.Option(help="The same, for clicks [clicks].")] = None,
    embedding: Annotated[str | None, typer.Option(help="The same, to choose what is next [resnet18-us].")] = None,
    classification: Annotated[str | None, typer.Option(help="The same, of frames [breast-class].")] = None,
    labels: Annotated[str, typer.Option(help="Names of the label numbers 1, 2, ...: a,b")] = "",
    classes: Annotated[str, typer.Option(help="Of frames: a,b,c")] = "",
    threads: Annotated[int, typer.Option(min=0, help="Of the inference; 0: the runtime chooses.")] = 0,
    train_after: Annotated[int, typer.Option(min=0, help="Train after so many accepted frames; 0: when asked.")] = 0,
    tokens: Annotated[
        Path | None, typer.Option(resolve_path=True, help="File of lines annotator:token, readable by you alone.")
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(resolve_path=True, help="Certificate, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(resolve_path=True, help="Its key, PEM.")] = None,
    name: Annotated[list[str] | None, typer.Option(help="Of this server in URLs, beside its address.")] = None,
    query: Annotated[str, typer.Option(help="DICOMweb: search, such as ModalitiesInStudy=US&StudyDate=20260101-")] = "",
    token_file: TokenFile = None,
    user: User = "",
    app: Annotated[Path | None, typer.Option(resolve_path=True, help="Folder of the app for MONAI Label.")] = None,
) -> None:
    """Serve a folder or a PACS for annotation in OHIF, 3D Slicer or any client, until Ctrl-C.

    Models that are not given are the shipped ones, where their labels are those that are asked for.
    Only this machine is served unless --host, --tokens, --tls-cert and --tls-key are given.

    Example: sonodistill label --studies clips --segmentation model.safetensors --labels lesion
    """
    if context.invoked_subcommand is not None:
        return
    from sonodistill.annotate.server.serve import serve as run
    from sonodistill.annotate.server.settings import Serving, models_of
    from sonodistill.annotate.workbench import MODELS

    given = (segmentation, classification, interactive, embedding)
    where = _studies(studies)
    work = work or _work(where)
    raise typer.Exit(
        run(
            Serving(
                studies=where,
                work=work,
                host=host,
                port=port,
                models=models_of(dict(zip(MODELS, given, strict=True)), work, _names(labels), _names(classes)),
                labels=_names(labels),
                classes=_names(classes),
                threads=threads,
                train_after=train_after,
                query=query,
                token_file=token_file,
                user=user,
                tokens=tokens,
                certificate=tls_cert,
                key=tls_key,
                names=tuple(name or ()),
                app=app,
            ),
            _tell,
        )
    )


@label.command()
def export(
    studies: Studies = None,
    out: Annotated[Path | None, typer.Option(help="New folder.")] = None,
    form: Annotated[Form, typer.Option(help="How.")] = Form.PNG,
    annotator: Annotated[str | None, typer.Option(help="Only this one's labels.")] = None,
    status: Annotated[list[Kept] | None, typer.Option(help="Which labels; may be repeated.")] = None,
    images: Annotated[bool, typer.Option(help="png and coco: write the frames, too.")] = False,
    store: Annotated[bool, typer.Option(help="seg of a PACS: send the files there, too.")] = False,
    work: Work = None,
    token_file: TokenFile = None,
    user: User = "",
) -> None:
    """Write the accepted labels as PNG, NIfTI, COCO or DICOM Segmentation.

    Example: sonodistill label export --studies clips --form seg --out labels
    """
    from sonodistill.annotate.exchange import export as write_labels
    from sonodistill.annotate.exchange import of_pacs, send
    from sonodistill.annotate.model import FINAL, Status
    from sonodistill.annotate.server.offline import opened
    from sonodistill.errors import BundleConfigError

    if out is None:
        raise BundleConfigError("where to is not said", remedy="give --out FOLDER")
    if store and form is not Form.SEG:
        raise BundleConfigError("a PACS takes DICOM files alone", remedy="give --form seg")
    where = _studies(studies)
    with opened(where, work or _work(where), token_file=token_file, user=user) as bench:
        if store:
            of_pacs(bench.catalogue)
        statuses = tuple(Status(one.value) for one in status) if status else FINAL
        report = write_labels(
            bench.catalogue, bench.labels, out, form.value, statuses=statuses, annotator=annotator, images=images
        )
        said = f"{len(report.written)} labels written to {out}"
        if store:
            said += f", {send(bench.catalogue, out)} files stored in the PACS"
    _finish(said, report.skipped)


@label.command("import")
def take_over(
    source: Annotated[Path, typer.Argument(help="Folder, file or zip of exported labels.")],
    studies: Studies = None,
    annotator: Annotated[str | None, typer.Option(help="Whose they become; as the file says without it.")] = None,
    status: Annotated[Kept | None, typer.Option(help="That they get; as the file says without it.")] = None,
    replace: Annotated[bool, typer.Option(help="Replace newer labels of the same annotator, too.")] = False,
    work: Work = None,
    token_file: TokenFile = None,
    user: User = "",
) -> None:
    """Take over labels that were exported, by this program or another.

    Example: sonodistill label import labels.zip --studies clips --annotator anna
    """
    from sonodistill.annotate.exchange import import_labels
    from sonodistill.annotate.model import Status
    from sonodistill.annotate.server.offline import opened

    where = _studies(studies)
    given = Status(status.value) if status else None
    with opened(where, work or _work(where), token_file=token_file, user=user) as bench:
        report = import_labels(
            bench.catalogue, bench.labels, source, annotator=annotator, status=given, replace=replace
        )
    _finish(f"{len(report.written)} labels taken over, {len(report.unchanged)} were there", report.skipped)


@label.command()
def agreement(studies: Studies = None, work: Work = None) -> None:
    """Compare annotators on the frames that they both accepted.

    Example: sonodistill label agreement --studies clips
    """
    from sonodistill.annotate.labels.agreement import agreement as measured
    from sonodistill.annotate.server.offline import opened, table

    where = _studies(studies)
    with opened(where, work or _work(where)) as bench:
        typer.echo(table(measured(bench.labels)))


def _studies(given: str | None) -> str:
    from sonodistill.errors import BundleConfigError

    if given is None:
        raise BundleConfigError("what to annotate is not said", remedy="give --studies FOLDER or a DICOMweb URL")
    return given if given.startswith(("http://", "https://")) else str(Path(given).resolve())


def _work(studies: str) -> Path:
    from sonodistill.annotate.server.offline import default_work

    return default_work(studies)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _tell(url: str) -> None:
    typer.echo(f"Annotation server: {url}")
    typer.echo(f"Viewer (with a PACS): {url}ohif/    Ctrl-C ends it.")


def _finish(said: str, skipped: list) -> None:
    """What was done, and exit code 2 when something was left out, which is listed."""
    typer.echo(said)
    for what, reason in skipped:
        typer.echo(f"skipped {what}: {reason}", err=True)
    if skipped:
        raise typer.Exit(2)
