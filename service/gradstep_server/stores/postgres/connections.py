"""Connections to the database: a few, made when needed, each with the settings that D1 needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any, Protocol

import asyncpg

from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.stores.postgres.failures import Damaged, translated

Row = Sequence[Any]
"""What a query returns: its columns in order."""


class Transaction(AbstractAsyncContextManager[object], Protocol):
    """What is used of the driver's transactions.

    As a context, it commits what the block does when that ends, and undoes it when it raises.
    """

    async def start(self) -> None:
        """Begin."""
        ...

    async def commit(self) -> None:
        """Keep what was done since the start."""
        ...

    async def rollback(self) -> None:
        """Undo what was done since the start."""
        ...


class Connection(Protocol):
    """What is used of the driver's connections, which carry no types."""

    async def execute(
        self,
        query: str,
        *args: object,
        timeout: float | None = None,  # noqa: ASYNC109 - the driver's
    ) -> str:
        """Return what was done, such as ``UPDATE 1``. Without `timeout`, it is `STATEMENT`."""
        ...

    async def executemany(
        self,
        query: str,
        args: Iterable[Sequence[object]],
        *,
        timeout: float,  # noqa: ASYNC109 - the driver's
    ) -> None:
        """Execute for each of `args`, which is read as it is sent."""
        ...

    async def fetch(self, query: str, *args: object) -> Sequence[Row]:
        """Return all rows."""
        ...

    async def fetchrow(self, query: str, *args: object) -> Row | None:
        """Return the first row."""
        ...

    async def fetchval(self, query: str, *args: object) -> Any:  # noqa: ANN401 - what the query says
        """Return the first column of the first row, None if there is no row."""
        ...

    def add_termination_listener(self, callback: Callable[[object], None]) -> None:
        """Have `callback` called when the connection is gone."""
        ...

    def remove_termination_listener(self, callback: Callable[[object], None]) -> None:
        """Undo that."""
        ...

    def transaction(self, *, isolation: str | None = None, readonly: bool = False) -> Transaction:
        """Return a transaction that has not started."""
        ...


_MOST = 16
_CONNECT = 10.0
_CLOSE = 10.0
_ACQUIRE = 20.0
"""Seconds to wait for a connection: to be made, or for others to return one."""

STATEMENT = 30.0
"""Seconds that a statement may take, waiting for others included."""

_SETTINGS = {
    "application_name": "gradstep",
    # Not the server's or the role's default, which may be off.
    "synchronous_commit": "on",
    # The appends rely on a waiting UPDATE looking at the row again.
    "default_transaction_isolation": "read committed",
    # A replica that is frozen in the middle of an append holds up no other for long.
    "idle_in_transaction_session_timeout": "10s",
}


class Connections:
    """Lends connections. One that fails is given up, and the next use makes another."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._pool: Any = None

    async def open(self) -> None:
        """Get ready to connect; nothing is connected yet."""
        self._pool = await asyncpg.create_pool(
            self._address,
            min_size=0,  # connections that are lost come back when they are needed
            max_size=_MOST,
            timeout=_CONNECT,
            command_timeout=STATEMENT,
            server_settings=_SETTINGS,
            reset=_keep_settings,
        )

    async def close(self) -> None:
        """Close all connections, those that do not answer too."""
        pool, self._pool = self._pool, None
        if pool is not None:
            try:
                async with asyncio.timeout(_CLOSE):
                    await pool.close()
            except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                pool.terminate()

    @asynccontextmanager
    async def use(
        self, *, damaged: Damaged = SessionCorrupt, wait: float = _ACQUIRE
    ) -> AsyncIterator[Connection]:
        """Lend a connection for the block.

        Raises:
            Unavailable: one of its subclasses, instead of any error of the driver's.
        """
        with translated(damaged):
            async with self._pool.acquire(timeout=wait) as db:
                yield db


@asynccontextmanager
async def while_connected(db: Connection) -> AsyncIterator[None]:
    """End the block with `ConnectionError` when the connection is gone.

    Where the driver waits until it can send more of a long body, it does not
    notice, and would wait for as long as the statement may take.
    """
    loop = asyncio.get_running_loop()
    limit = asyncio.timeout(None)

    def gone(_: object) -> None:
        limit.reschedule(loop.time())

    db.add_termination_listener(gone)
    try:
        async with limit:
            yield
    except TimeoutError:
        if limit.expired():
            raise ConnectionError("the connection is gone") from None
        raise
    finally:
        with suppress(asyncpg.InterfaceError):  # where it is gone, it has left the pool
            db.remove_termination_listener(gone)


def changed(status: str) -> bool:
    """Whether a statement has changed a row, as its ``INSERT 0 1`` or ``UPDATE 1`` says."""
    return not status.endswith(" 0")


async def _keep_settings(_: Connection) -> None:
    """Replace the driver's reset, a round trip per use: no setting outlives its transaction."""
