"""Several servers on one PostgreSQL of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from anyio.from_thread import start_blocking_portal
from cutting_proxy import CuttingProxy
from postgres_server import PostgresServer
from server_process import Server, server


@dataclass(frozen=True)
class Replicas:
    """Servers that share a database, and what lies between."""

    servers: Sequence[Server]
    postgres: PostgresServer
    proxy: CuttingProxy
    """The way of some of the servers to the database."""

    @property
    def urls(self) -> list[str]:
        """Where the servers are now."""
        return [server.url for server in self.servers]


@contextmanager
def replicas(folder: Path, count: int, *, behind_proxy: int = 0) -> Iterator[Replicas]:
    """Run so many servers as long as the block lasts.

    Args:
        folder: where their logs go, and the database's files if a promise is broken.
        count: how many servers.
        behind_proxy: how many of them, the last ones, reach the database through the proxy,
            which takes its time.
    """
    with ExitStack() as closing:
        postgres = PostgresServer()
        closing.callback(postgres.close)
        postgres.start()
        database = postgres.database()
        portal = closing.enter_context(start_blocking_portal())
        proxy = CuttingProxy(postgres.folder)
        closing.enter_context(portal.wrap_async_context_manager(proxy))
        name = database.partition("?")[0].rpartition("/")[2]
        detour = postgres.url(name, folder=proxy.folder)
        servers = []
        for number in range(1, count + 1):
            (folder / str(number)).mkdir()
            way = detour if number > count - behind_proxy else database
            started = server(folder / str(number) / "data", store=way)
            servers.append(closing.enter_context(started))
        try:
            yield Replicas(servers, postgres, proxy)
        except AssertionError:
            postgres.keep(folder / "postgres")
            raise
