"""How a command ends that cannot do its work: with one sentence for the operator, and a code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer

from gradstep_server.errors import GradstepError


class CannotRun(Exception):
    """Raised when a command cannot do its work."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        """2 where the command was given something wrong, otherwise 1."""


@contextmanager
def in_one_sentence() -> Iterator[None]:
    """End the command when the block cannot do its work, saying why."""
    try:
        yield
    except CannotRun as error:
        complain(str(error))
        raise typer.Exit(error.exit_code) from None
    except GradstepError as error:
        complain(error.detail)
        raise typer.Exit(1) from None


def complain(message: str) -> None:
    """Say what is wrong."""
    typer.echo(f"gradstep-server: {message}", err=True)
