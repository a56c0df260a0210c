"""The command ``gradstep-server``."""

from gradstep_server.cli.commands import app, main

__all__ = ["app", "main"]
