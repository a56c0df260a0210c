"""A way to a PostgreSQL server that loses answers when it is told to."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

_PORT = 5432
_PIECE = 65_536


class CuttingProxy:
    """Listens as the server does, and passes everything on until it cuts the connection."""

    def __init__(self, server: Path) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gradstep-"))
        self.answers_left: int | None = None
        """After how many more pieces of answers connections are cut; None for never."""

        self._socket = str(server / f".s.PGSQL.{_PORT}")
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_unix_server(
            self._pass_on, self.folder / f".s.PGSQL.{_PORT}"
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._listener.close()
        for writer in self._writers:
            writer.close()
        shutil.rmtree(self.folder)

    async def _pass_on(self, client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        self._writers.add(answer)
        try:
            server, question = await asyncio.open_unix_connection(self._socket)
        except OSError:  # the server is away
            answer.close()
            return
        self._writers.add(question)
        await asyncio.gather(self._ask(client, question), self._answer(server, answer))

    async def _ask(self, client: asyncio.StreamReader, question: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # one of the two was killed
            while piece := await client.read(_PIECE):
                question.write(piece)
                await question.drain()
        question.close()

    async def _answer(self, server: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # likewise
            while piece := await server.read(_PIECE):
                if self.answers_left is not None:
                    self.answers_left -= 1
                    if self.answers_left < 0:
                        break
                answer.write(piece)
                await answer.drain()
        answer.close()
