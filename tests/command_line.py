"""The command in this process, and stores for it to work on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from session_runs import opened
from session_states import config, packed_all
from typer.testing import CliRunner, Result

from gradstep_server.cli import app
from gradstep_server.keys import TENANT
from gradstep_server.sessions.background import SnapshotPolicy
from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.service import Sessions
from gradstep_server.sessions.stepping import Asked
from gradstep_server.settings import Settings, variable
from gradstep_server.stores.urls import open_store

ADAM = config({"type": "Adam", "lr": 0.1}, name="of a test", retain="all")
BUDGET = 1 << 30

WHOLE = "ok, step 6, 9 entries, 1 snapshot, 264 B"
"""What `verify` says of a session that `fill` has made."""

WHOLE_AT_7 = "ok, step 7, 10 entries, 1 snapshot, 288 B"
"""What it says when that has taken another step."""


def command(*args: str) -> Result:
    """Run ``gradstep-server`` with no settings but these."""
    return CliRunner().invoke(app, args, env={variable(name): "" for name in Settings.model_fields})


def lines(result: Result) -> list[str]:
    """Return what a command that succeeded has printed."""
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout.splitlines()


def complaint(result: Result, code: int = 1) -> str:
    """Return the one sentence with which a command has failed."""
    assert result.exit_code == code, result.output
    [line] = result.stderr.splitlines()
    assert line.startswith("gradstep-server: ")
    return line.removeprefix("gradstep-server: ")


def on(url: str, work: Callable[[Sessions], Awaitable[Any]]) -> Any:
    """Do some work with the sessions of a store, as a server that starts and ends."""

    async def run() -> Any:
        store = open_store(url)
        await store.open()
        sessions = opened(store, BUDGET, SnapshotPolicy(steps=4))
        try:
            return await work(sessions)
        finally:
            await sessions.close()
            await store.close()

    return asyncio.run(run())


def fill(url: str, *ids: str, steps: int = 6, settings: SessionConfig = ADAM) -> None:
    """Make sessions of so many steps, with a snapshot and a rewind."""

    async def work(sessions: Sessions) -> None:
        for session_id in ids:
            ref = (TENANT, session_id)
            await sessions.create(ref, settings, packed_all({"w": [1.0, 2.0], "b": 0.5}))
            await walk(sessions, session_id, 1, steps)
            await sessions.close()
            await sessions.rewind(ref, steps - 1, generation=None, version=None)
            await walk(sessions, session_id, steps, steps)

    on(url, work)


async def walk(sessions: Sessions, session_id: str, first: int, last: int) -> None:
    """Take steps, whose gradients depend on their numbers."""
    for n in range(first, last + 1):
        sent = packed_all({"w": np.full(2, 0.1 * n), "b": -1.0})
        ref = (TENANT, session_id)
        await sessions.step(ref, n, sent, Asked(), generation=None, want_params=False)


def generation(url: str, session_id: str) -> int:
    """Return a session's generation, which begins another one where some steps may be lost."""
    view = on(url, lambda sessions: sessions.view((TENANT, session_id)))
    return int(view.generation)


def state(url: str, session_id: str, step: int | None = None) -> Any:
    """Return a session's whole state, to be compared bit for bit."""

    async def work(sessions: Sessions) -> Any:
        tensors, metadata = await sessions.state((TENANT, session_id), step)
        return {name: (t.dtype, t.shape, bytes(t.data)) for name, t in tensors.items()}, metadata

    return on(url, work)


def damage(directory: Path) -> None:
    """Overwrite the gradients that each session in a directory has got last."""
    overwrite = """
        UPDATE chunks SET data = zeroblob(length(data)) WHERE id = (SELECT max(id) FROM chunks)
    """
    for path in (directory / "sessions").rglob("*.sqlite"):
        with apsw.Connection(os.fspath(path)) as db:
            db.execute(overwrite)
