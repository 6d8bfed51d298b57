"""Command line of what did not work out, and of the audit log."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from sonodistill.dicom.service.records import Delivery, Job
    from sonodistill.dicom.service.spool import Spool

app = typer.Typer(
    help="Jobs that were refused or are dead, and deliveries that are dead: list, show, retry, purge.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
audit_app = typer.Typer(help="The service's audit log.", no_args_is_help=True, rich_markup_mode=None)

_Spool = Annotated[Path, typer.Option("--spool", help="Folder of the queue, service.spool of the configuration.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Items = Annotated[list[str] | None, typer.Argument(help="As listed: j12 is job 12, d7 is delivery 7.")]
_All = Annotated[bool, typer.Option("--all", help="All that are listed.")]


@audit_app.callback()
def _audit() -> None:
    """A group, though it has one command."""


@app.command("list")
def list_dead(spool: _Spool, as_json: _Json = False) -> None:
    """List jobs that were refused or are dead, and dead deliveries, with the reason; the service may be running.

    Example: sonodistill dicom dead list --spool /var/lib/sonodistill
    """
    rows = [_row(each) for each in _open(spool).jobs.dead_list()]
    if as_json:
        _print_json(rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("id", "state", "attempts", "since", "where")
    table.add_column("reason", overflow="fold")
    for row in rows:
        texts = (row["id"], row["state"], str(row["attempts"]), row["since"], row["where"], row["reason"])
        table.add_row(*(Text(_printable(text)) for text in texts))
    Console().print(table)


@app.command()
def show(item: Annotated[str, typer.Argument(help="j12 is job 12, d7 is delivery 7.")], spool: _Spool) -> None:
    """Show all that is known of a job or delivery as JSON: identifiers, file, results, deliveries.

    Example: sonodistill dicom dead show j12 --spool /var/lib/sonodistill
    """
    from dataclasses import asdict

    opened = _open(spool)
    kind, number = _parsed(item)
    delivery = opened.jobs.delivery(number) if kind == "d" else None
    job = opened.jobs.job(number if delivery is None else delivery.job)
    file = opened.store.find(job.file_sha256)
    facts = {
        "job": asdict(job),
        "file": None if file is None else str(file),
        "results": [asdict(each) for each in opened.jobs.results(job.id)],
        "deliveries": [asdict(each) for each in opened.jobs.deliveries(job.id) if delivery in (None, each)],
    }
    _print_json(facts)


@app.command()
def retry(spool: _Spool, items: _Items = None, everything: _All = False) -> None:
    """Let jobs and deliveries be tried again, by the service that runs or when it starts.

    Example: sonodistill dicom dead retry j12 d7 --spool /var/lib/sonodistill
    """
    opened = _open(spool)
    _each(opened, items, everything, {"j": opened.retry, "d": opened.retry_delivery}, "will be tried again")


@app.command()
def purge(
    spool: _Spool,
    items: _Items = None,
    everything: _All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove jobs with their files, and deliveries, for good.

    Example: sonodistill dicom dead purge j12 --spool /var/lib/sonodistill --yes
    """
    opened = _open(spool)
    if not yes:
        typer.confirm("Remove them, with the files that were kept?", abort=True)
    _each(opened, items, everything, {"j": opened.purge, "d": opened.purge_delivery}, "is removed")


@audit_app.command()
def verify(spool: _Spool, as_json: _Json = False) -> None:
    """Check the chain of the audit log; exits with 1 and names the first line that was changed, cut out or damaged.

    Example: sonodistill dicom audit verify --spool /var/lib/sonodistill
    """
    from dataclasses import asdict

    from sonodistill.dicom.service.audit import verify as verified

    verdict = verified(spool / "audit.jsonl")
    if as_json:
        _print_json(asdict(verdict))
    else:
        start = "from the first" if verdict.complete else "older files are not here"
        typer.echo(f"{verdict.lines} lines hold in {verdict.files} files ({start}), {verdict.torn} torn by power cuts")
        typer.echo(f"last hash {verdict.last}")
        if verdict.broken:
            typer.echo(f"broken: {verdict.broken}", err=True)
    if verdict.broken:
        raise typer.Exit(1)


def _open(folder: Path) -> Spool:
    from sonodistill.dicom.service.spool import open_spool
    from sonodistill.dicom.settings import Service

    return open_spool(Service(spool=folder), create=False)


def _parsed(item: str) -> tuple[str, int]:
    """("j" or "d", number) of an id."""
    import re

    from sonodistill.dicom.errors import QueueError

    found = re.fullmatch(r"([jd])([1-9][0-9]{0,17})", item)
    if found is None:
        raise QueueError(f"{item!r:.40} is no id", remedy="take one of `dead list`, such as j12 or d7")
    return found[1], int(found[2])


def _each(
    spool: Spool, items: list[str] | None, everything: bool, verbs: dict[str, Callable[[int], Any]], said: str
) -> None:
    """Do it to each; what cannot be done is named, and makes the exit code 2."""
    from sonodistill.dicom.errors import QueueError

    if bool(items) == everything:
        raise QueueError("it is not said which", remedy="give ids of `dead list`, or --all")
    chosen = [_parsed(item) for item in items or [_row(each)["id"] for each in spool.jobs.dead_list()]]
    failed = 0
    for kind, number in chosen:
        try:
            verbs[kind](number)
            typer.echo(f"{kind}{number} {said}")
        except QueueError as error:
            failed += 1
            typer.echo(f"{kind}{number}: {error}", err=True)
    if failed:
        raise typer.Exit(2)


def _row(item: Job | Delivery) -> dict[str, Any]:
    from datetime import datetime, timezone

    from sonodistill.dicom.service.records import Delivery

    delivery = isinstance(item, Delivery)
    since = datetime.fromtimestamp(item.finished_at or item.received_at, timezone.utc)
    return {
        "id": f"{'d' if delivery else 'j'}{item.id}",
        "state": item.state.value,
        "attempts": item.attempts,
        "since": since.isoformat(timespec="seconds"),
        "where": item.destination if isinstance(item, Delivery) else f"{item.via} {item.peer}",
        "reason": item.reason,
    }


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2))


def _printable(text: str) -> str:
    """Without control characters; some of it came over the network."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
