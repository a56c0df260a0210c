"""The commands for keys. A service that is running takes note within a second."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated

import typer

from gradstep_server.cli.flags import given, load, with_flags
from gradstep_server.ending import CannotRun, in_one_sentence
from gradstep_server.keys import NAME, TENANT, KeyFile, KeysError, Role, changes

keys = typer.Typer(
    help="Make, list and end the keys that clients send. Only hashes of them are kept.",
    no_args_is_help=True,
)


def named(value: str | None) -> str | None:
    """Refuse what can be no name of a key or a tenant."""
    if value is not None and not re.fullmatch(NAME, value):
        raise typer.BadParameter("up to 64 letters, digits and _.- after the first")
    return value


Name = Annotated[str, typer.Argument(metavar="NAME", callback=named, help="The key's name.")]


@keys.command()
@with_flags("store", "keys_file")
def create(
    ctx: typer.Context,
    name: Name,
    *,
    role: Annotated[
        Role, typer.Option(help="read; write: steps and sessions too; admin: deletes too.")
    ] = "write",
    tenant: Annotated[
        str, typer.Option(callback=named, metavar="TENANT", help="Whose sessions it sees.")
    ] = TENANT,
    **flags: str | None,
) -> None:
    """Make a key and print it, this once.

    The first one closes a service that was open to everyone on its machine.
    """
    with _file(ctx, flags) as file:
        _tell(changes.create(file, name, role, tenant), file)


@keys.command("list")
@with_flags("store", "keys_file")
def list_(ctx: typer.Context, **flags: str | None) -> None:
    """List the keys: name, role, tenant, beginning of the hash, when it was made, when it ends."""
    with _file(ctx, flags) as file:
        try:
            found = file.read()
        except FileNotFoundError:
            return
        for key in sorted(found, key=lambda key: (key.name, key.created_at)):
            ends = "-" if key.expires_at is None else _time(key.expires_at)
            line = (key.name, key.role, key.tenant, key.id, _time(key.created_at), ends)
            typer.echo("\t".join(line))


@keys.command()
@with_flags("store", "keys_file")
def rotate(
    ctx: typer.Context,
    name: Name,
    *,
    overlap: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long the old one still works.")
    ] = 0,
    **flags: str | None,
) -> None:
    """Make a new key of the same name, role and tenant, print it this once, and end the old one."""
    with _file(ctx, flags) as file:
        _tell(changes.rotate(file, name, overlap), file)


@keys.command()
@with_flags("store", "keys_file")
def revoke(ctx: typer.Context, name: Name, **flags: str | None) -> None:
    """End a key. When none is left, nobody is let in."""
    with _file(ctx, flags) as file:
        changes.revoke(file, name)
    typer.echo(f"{name}: revoked", err=True)


@contextmanager
def _file(ctx: typer.Context, flags: Mapping[str, str | None]) -> Iterator[KeyFile]:
    """Lend the file of keys that the settings mean, and end with a sentence where it fails."""
    from gradstep_server.admission import key_file  # noqa: PLC0415 - the stores behind it load slowly

    settings = load(given(ctx, flags))
    with in_one_sentence():
        file = key_file(settings)
        if file is None:
            raise CannotRun("this store has no directory; name the file with --keys-file", 2)
        try:
            yield file
        except KeysError as error:
            raise CannotRun(str(error)) from error


def _tell(sent: str, file: KeyFile) -> None:
    """Print a key alone on the standard output, so that a program can take it."""
    typer.echo(sent)
    typer.echo(f"its hash is in {file.path}; the key is not shown again", err=True)


def _time(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
