"""Every setting as a flag: generated from its field, read, and refused in one line.

So flags, environment variables and their descriptions cannot drift apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated

import typer
from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo

from gradstep_server.ending import complain
from gradstep_server.settings import Settings, variable

Flags = Mapping[str, str | bool | None]
"""What was said for each flag, if anything."""

Command = Callable[..., None]


def with_flags(*names: str) -> Callable[[Command], Command]:
    """Give a command one option for each of these settings, in place of its ``**flags``.

    Without names, for every setting. All of them may stand before the command too.
    """

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = Settings.model_fields
        flags = [_flag(name, fields[name]) for name in names or fields]
        command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined] # as inspect documents
        return command

    return decorate


def given(ctx: typer.Context, flags: Flags) -> dict[str, str]:
    """Return the flags that were given before a command or behind it, where they win."""
    before: Flags = ctx.find_root().obj
    both = (*before.items(), *flags.items())
    return {name: text(value) for name, value in both if value is not None}


def load(said: Mapping[str, str]) -> Settings:
    """Read the settings, or end with one line for each that is wrong."""
    try:
        return Settings(**said)  # type: ignore[arg-type] # as text, like variables
    except ValidationError as error:
        for wrong in error.errors(include_url=False):
            if wrong["type"] == "default_factory_not_called":  # what it needs is wrong
                continue
            message = wrong["msg"].removeprefix("Value error, ")
            if not wrong["loc"]:
                complain(message)
                continue
            name = str(wrong["loc"][0])
            place = f"--{name.replace('_', '-')}" if name in said else variable(name)
            complain(f"{place}: {message}, got {str(wrong['input'])[:64]!r}")
        raise typer.Exit(2) from None


def text(value: object) -> str:
    """Write a setting as an environment variable would hold it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    default = text(None if field.default_factory else field.default)
    if isinstance(field.default, ByteSize):
        default = field.default.human_readable()
    shown = f" [default: {default}]" if default else ""
    switch = field.annotation is bool
    flag = f"--{name.replace('_', '-')}"
    option = typer.Option(
        f"{flag}/--no-{flag.removeprefix('--')}" if switch else flag,
        help=f"{field.description}{shown} [{variable(name)}]",
        metavar=None if switch else "VALUE",
        show_default=False,
    )
    kind: object = bool | None if switch else str | None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option]
    )
