"""The commands that look after a store, whether a server uses it or not."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import ByteSize
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from gradstep_server.cli.flags import given, load, with_flags
from gradstep_server.cli.keys import named
from gradstep_server.ending import complain, in_one_sentence
from gradstep_server.keys import TENANT

if TYPE_CHECKING:
    from gradstep_server.maintenance import Copied, Moved, Told
    from gradstep_server.sessions.verification import Report
    from gradstep_server.settings import Settings

Id = Annotated[str, typer.Argument(metavar="ID", help="The session's id.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A safetensors file.")]
Step = Annotated[
    int | None,
    typer.Option(min=0, metavar="K", help="As right after step K; by default as it is now."),
]


Tenant = Annotated[
    str | None,
    typer.Option(callback=named, metavar="TENANT", help=f"Whose session; by default {TENANT}'s."),
]


def add_to(app: typer.Typer) -> None:
    """Give an application these commands."""
    for command in (verify, backup, restore, export):
        app.command()(command)
    app.command("import")(import_)


@with_flags("store", "threads")
def verify(
    ctx: typer.Context,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Sessions; by default all.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Whose sessions; by default everyone's.")
    ] = None,
    **flags: str | None,
) -> None:
    """Prove that sessions are whole; end with code 1 if not.

    Every digest is computed again, every log is replayed, and what replay arrives at is compared
    with every snapshot. Nothing is changed. On PostgreSQL, replicas may go on meanwhile; a store
    in a directory must not be in use: stop its server, or verify a backup.
    """
    settings = load(given(ctx, flags))
    with in_one_sentence():
        _verify(settings, tenant, ids or [])


@with_flags("store")
def backup(
    ctx: typer.Context,
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="A directory, new or empty.")],
    **flags: str | None,
) -> None:
    """Copy a store in a directory, also while it is in use.

    Each session is copied as of one moment while its steps go on. TARGET is checked and on disk
    before it bears its name, and is a store itself: verify can prove it.
    """
    from gradstep_server.maintenance import back_up  # noqa: PLC0415 - the kernels behind it load slowly

    settings = load(given(ctx, flags))
    with in_one_sentence(), _bar() as told:
        copied = back_up(settings, target, told)
    typer.echo(_copied(copied))


@with_flags("store", "threads")
def restore(
    ctx: typer.Context,
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="What backup has made.")],
    **flags: str | None,
) -> None:
    """Make a store in a directory from a backup, and verify it.

    The directory that --store names must be new or empty. More steps may have been acknowledged
    than the backup holds. So each session begins a generation when it is used next, and a client
    that says the one it knew is told to look where the session stands.
    """
    from gradstep_server.maintenance import restore as restored  # noqa: PLC0415 - the kernels behind it load slowly

    settings = load(given(ctx, flags))
    with in_one_sentence():
        with _bar() as told:
            copied = restored(settings, backup, told)
        typer.echo(_copied(copied))
        _verify(settings, None, [])


@with_flags("store", "threads")
def export(
    ctx: typer.Context,
    session_id: Id,
    file: File,
    step: Step = None,
    tenant: Tenant = None,
    **flags: str | None,
) -> None:
    """Write a session's state to a file, as GET …/state gives it.

    The configuration is in its metadata. FILE appears, or replaces another, when it is whole and
    on disk. On PostgreSQL, replicas may go on meanwhile; a store in a directory must not be in use.
    """
    from gradstep_server.maintenance import export_session  # noqa: PLC0415 - the kernels behind it load slowly

    settings, ref = load(given(ctx, flags)), (tenant or TENANT, session_id)
    with in_one_sentence():
        moved = asyncio.run(export_session(settings, ref, file, step))
    typer.echo(f"{file}: {session_id} at {_described(moved)}")


@with_flags("store", "threads", "max_tensors", "max_header_size")
def import_(
    ctx: typer.Context,
    file: File,
    session_id: Id,
    tenant: Tenant = None,
    **flags: str | None,
) -> None:
    """Create a session from a file that export has written.

    The session has the configuration, the state and the position that FILE carries, and a history
    of its own. FILE may come from GET …/state too. The same import again changes nothing. On
    PostgreSQL, replicas may go on meanwhile; a store in a directory must not be in use.
    """
    from gradstep_server.maintenance import import_session  # noqa: PLC0415 - the kernels behind it load slowly

    settings, ref = load(given(ctx, flags)), (tenant or TENANT, session_id)
    with in_one_sentence():
        moved = asyncio.run(import_session(settings, file, ref))
    before = " before" if moved.replayed else ""
    typer.echo(f"{session_id}: imported{before} at {_described(moved)}")


def _verify(settings: Settings, tenant: str | None, ids: list[str]) -> None:
    """Print a line for each session, or for each of its problems."""
    from gradstep_server import maintenance  # noqa: PLC0415 - the kernels behind it load slowly

    damaged: list[bool] = []

    def found(session_id: str, report: Report) -> None:
        damaged.append(bool(report.problems))
        for line in report.problems or [_whole(report)]:
            typer.echo(f"{session_id}: {line}")

    with _bar() as told:
        asyncio.run(maintenance.verify(settings, tenant, ids, found, told))
    if any(damaged):
        of_all = f"{sum(damaged)} of {_counted(len(damaged), 'session')}"
        complain(f"damaged: {of_all}; restore a backup, or delete what cannot be used")
        raise typer.Exit(1)


def _whole(report: Report) -> str:
    """Describe a session in which nothing is wrong."""
    log = f"step {report.step}, {_counted(report.entries, 'entry', 'entries')}"
    return f"ok, {log}, {_counted(report.snapshots, 'snapshot')}, {_size(report.nbytes)}"


def _copied(copied: Copied) -> str:
    return f"{copied.path}: {_counted(copied.sessions, 'session')}, {_size(copied.nbytes)}"


def _described(moved: Moved) -> str:
    tensors = _counted(moved.tensors, "tensor")
    return f"step {moved.step}, {tensors}, {_size(moved.nbytes)}"


def _counted(count: int, one: str, more: str | None = None) -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


def _size(nbytes: int) -> str:
    return ByteSize(nbytes).human_readable(separator=" ")


@contextmanager
def _bar() -> Iterator[Told]:
    """Show a bar on a terminal as long as the block lasts, and nothing elsewhere."""
    console = Console()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=1.0)

        def told(what: str, share: float) -> None:
            progress.update(task, description=what, completed=share)

        yield told
