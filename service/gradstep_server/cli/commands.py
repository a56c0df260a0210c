"""Serving, the settings, the OpenAPI document; and where all commands come together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, NoReturn

import orjson
import typer

from gradstep_server import __version__
from gradstep_server.cli import maintain
from gradstep_server.cli.flags import given, load, text, with_flags
from gradstep_server.cli.keys import keys
from gradstep_server.ending import in_one_sentence
from gradstep_server.settings import Settings, variable
from gradstep_server.stores.urls import shown

app = typer.Typer(
    name="gradstep-server",
    help="Learning-rate schedules and optimizer steps as a service. Without a command: serve.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config = typer.Typer(help="Look at the settings.", no_args_is_help=True)


def main() -> None:
    """Run the command that the arguments name."""
    app()


@app.callback(invoke_without_command=True)
@with_flags()
def _main(
    ctx: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    **flags: str | bool | None,
) -> None:
    if version:
        typer.echo(f"gradstep-server {__version__}")
        raise typer.Exit
    ctx.obj = flags
    if ctx.invoked_subcommand is None:
        _serve(given(ctx, flags))


@app.command()
@with_flags()
def serve(ctx: typer.Context, **flags: str | bool | None) -> None:
    """Serve until interrupted."""
    _serve(given(ctx, flags))


app.add_typer(config, name="config")
app.add_typer(keys, name="keys")


@config.command()
@with_flags()
def show(ctx: typer.Context, **flags: str | bool | None) -> None:
    """Print every setting as an environment file, with where its value comes from, no password."""
    said = given(ctx, flags)
    settings = load(said)
    for name, field in Settings.model_fields.items():
        typer.echo(f"# {' '.join((field.description or '').split())} [{_source(name, said)}]")
        value = text(getattr(settings, name))
        typer.echo(f"{variable(name)}={shown(value) if name == 'store' else value}")


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from gradstep_server.app import create_app  # noqa: PLC0415 - the kernels behind it load slowly

    document = create_app(Settings(store="memory://")).openapi()
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


@app.command()
def reference(
    folder: Annotated[Path, typer.Argument(help="Where the pages are.")],
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if a page is not as it should be.")
    ] = False,
) -> None:
    """Write the reference pages of all schedulers and optimizers."""
    from gradstep_server.reference import pages  # noqa: PLC0415 - the kernels behind it load slowly

    files = {folder / name: page for name, page in pages().items()}
    if not check:
        for path, page in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(page)
        return
    stale = sorted(path for path, page in files.items() if _read(path) != page)
    left = sorted({path for path in folder.rglob("*") if path.is_file()} - files.keys())
    for path in (*stale, *left):
        typer.echo(f"{path}: {'of no kind' if path in left else 'stale'}", err=True)
    if stale or left:
        raise typer.Exit(1)


maintain.add_to(app)


def _read(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _source(name: str, said: Mapping[str, str]) -> str:
    if name in said:
        return "flag"
    return "env" if os.environ.get(variable(name)) else "default"


def _serve(said: Mapping[str, str]) -> NoReturn:
    from gradstep_server.serving import run  # noqa: PLC0415 - the kernels behind it load slowly

    settings = load(said)
    # Workers are processes of their own and read the settings again.
    os.environ.update({variable(name): value for name, value in said.items()})
    with in_one_sentence():
        run(settings)
    raise typer.Exit
