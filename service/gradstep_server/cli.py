"""The command ``gradstep-server``: serve, show the settings, print the OpenAPI document.

Every field of `Settings` is a flag of every command, generated from the field,
so that flags, environment variables and their descriptions cannot drift apart.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NoReturn

import orjson
import typer
from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo

from gradstep_server import __version__
from gradstep_server.settings import Settings, variable
from gradstep_server.stores.urls import shown

Flags = Mapping[str, str | None]

app = typer.Typer(
    name="gradstep-server",
    help="Learning-rate schedules and optimizer steps as a service. Without a command: serve.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
config = typer.Typer(help="Look at the settings.", no_args_is_help=True)
app.add_typer(config, name="config")


def main() -> None:
    """Run the command that the arguments name."""
    app()


def _with_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each setting, in place of its ``**flags``."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    flags = [_flag(name, field) for name, field in Settings.model_fields.items()]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined] # as inspect documents
    return command


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    default = _text(None if field.default_factory else field.default)
    if isinstance(field.default, ByteSize):
        default = field.default.human_readable()
    shown = f" [default: {default}]" if default else ""
    option = typer.Option(
        f"--{name.replace('_', '-')}",
        help=f"{field.description}{shown} [{variable(name)}]",
        metavar="VALUE",
        show_default=False,
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )


def _text(value: object) -> str:
    """Write a setting as an environment variable would hold it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


@app.callback(invoke_without_command=True)
@_with_flags
def _main(
    ctx: typer.Context,
    *,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    **flags: str | None,
) -> None:
    if version:
        typer.echo(f"gradstep-server {__version__}")
        raise typer.Exit
    ctx.obj = flags
    if ctx.invoked_subcommand is None:
        _serve(flags)


@app.command()
@_with_flags
def serve(ctx: typer.Context, **flags: str | None) -> None:
    """Serve until interrupted."""
    _serve(_merged(ctx, flags))


@config.command()
@_with_flags
def show(ctx: typer.Context, **flags: str | None) -> None:
    """Print every setting as an environment file, with where its value comes from, no password."""
    given = _given(_merged(ctx, flags))
    settings = _load(given)
    for name, field in Settings.model_fields.items():
        typer.echo(f"# {' '.join((field.description or '').split())} [{_source(name, given)}]")
        value = _text(getattr(settings, name))
        typer.echo(f"{variable(name)}={shown(value) if name == 'store' else value}")


@app.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from gradstep_server.app import create_app  # noqa: PLC0415 - the kernels behind it load slowly

    document = create_app(Settings(store="memory://")).openapi()
    typer.echo(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())


def _merged(ctx: typer.Context, flags: Flags) -> Flags:
    """Join the flags before a command with those behind it, which win."""
    before: Flags = ctx.find_root().obj
    return {name: before[name] if value is None else value for name, value in flags.items()}


def _given(flags: Flags) -> dict[str, str]:
    return {name: value for name, value in flags.items() if value is not None}


def _source(name: str, given: Mapping[str, str]) -> str:
    if name in given:
        return "flag"
    return "env" if os.environ.get(variable(name)) else "default"


def _load(given: Mapping[str, Any]) -> Settings:
    """Read the settings, or end with one line for each that is wrong."""
    try:
        return Settings(**given)
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            message = wrong["msg"].removeprefix("Value error, ")
            if not wrong["loc"]:
                _complain(message)
                continue
            name = str(wrong["loc"][0])
            place = f"--{name.replace('_', '-')}" if name in given else variable(name)
            _complain(f"{place}: {message}, got {str(wrong['input'])[:64]!r}")
        raise typer.Exit(2) from None


def _complain(message: str) -> None:
    typer.echo(f"gradstep-server: {message}", err=True)


def _serve(flags: Flags) -> NoReturn:
    from gradstep_server.serving import CannotServe, run  # noqa: PLC0415 - the kernels behind it load slowly

    given = _given(flags)
    settings = _load(given)
    # Workers are processes of their own and read the settings again.
    os.environ.update({variable(name): value for name, value in given.items()})
    try:
        run(settings)
    except CannotServe as error:
        _complain(str(error))
        raise typer.Exit(error.exit_code) from None
    raise typer.Exit
