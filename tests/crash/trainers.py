"""Clients that step through faults: whatever is not answered is sent again, elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from crash.connections import FAILURES, Answer, Connection
from crash.replicas import Replicas
from crash.workloads import Workload
from server_process import Server

WORKS = (
    Workload("small", 1, elements=240),
    Workload("medium", 2, elements=16_384),
    Workload("large", 3, elements=262_144, distinct=16),
    Workload("chunked", 4, elements=1_572_864, distinct=8),
)
"""The load: bodies of 1 KB, 64 KB, 1 MB, and of 6 MB, which PostgreSQL gets in two chunks."""

PATIENCE = 1.0
"""Seconds after which a step that has no answer is sent elsewhere."""

_PAUSE = 0.1
"""Seconds after which a step that was refused, or broken off, is sent elsewhere."""

_PACE = 10e6
"""Bytes per second that a client does not exceed, lest the disk be all that is tested."""

_STAY = 16
"""Steps after which a client goes on through the next server."""

_SEND = 5.0
"""Seconds after which a body that is not taken is given up."""

_SETTLED = 60.0
"""Seconds after which everything has an answer, or a connection that is broken."""


@dataclass
class Tally:
    """How the attempts of a client have ended, beside those that were answered at once."""

    broken: int = 0
    """The connection failed, or could not be made."""

    refused: int = 0
    """The server said that it could not do it now."""

    late_taken: int = 0
    """Answered long after the step was sent elsewhere: it had been taken here."""

    late_replayed: int = 0
    """Answered as late: it had been taken elsewhere, and was not taken again."""

    late_broken: int = 0
    """Never answered: the server, or its database, was gone by then."""

    @property
    def late(self) -> int:
        """How many steps were sent elsewhere while their first server still had them."""
        return self.late_taken + self.late_replayed + self.late_broken

    def add(self, other: Tally) -> None:
        """Count what another client has met."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)


class Trainer(threading.Thread):
    """A client with a session of its own, which any of the servers may step."""

    def __init__(self, work: Workload, servers: Sequence[Server], first: int) -> None:
        super().__init__(name=work.id, daemon=True)
        self.work = work
        self.acknowledged = 0
        """The last step that was answered."""

        self.failure: BaseException | None = None
        """What was not as promised, if anything."""

        self.tally = Tally()
        self._servers = servers
        self._at = first
        self._kept: dict[str, Connection] = {}
        self._late: list[tuple[int, Connection]] = []
        self._taken: set[int] = set()
        self._enough = threading.Event()

    def run(self) -> None:
        """Step until told to stop, then wait for what is not answered yet."""
        try:
            while not self._enough.is_set():
                n = self.acknowledged + 1
                self._step(n)
                self.acknowledged = n
                self._settle(0)
                if n % _STAY == 0:
                    self._at += 1
                self._enough.wait(self.work.size / _PACE)
            self._settle(_SETTLED)
        except BaseException as error:  # noqa: BLE001 - whoever waits for this thread raises it
            self.failure = error
        finally:
            for connection in (*self._kept.values(), *(late for _, late in self._late)):
                connection.close()

    def stop(self) -> None:
        """Begin no other step."""
        self._enough.set()

    def finish(self) -> None:
        """Stop, wait for what is not answered yet, and raise what was not as promised."""
        self.stop()
        self.join(2 * _SETTLED)
        assert not self.is_alive(), f"{self.work.id} hangs at step {self.acknowledged + 1}"
        self.check()

    def check(self) -> None:
        """Raise what was not as promised so far."""
        if self.failure is not None:
            raise self.failure

    def _step(self, n: int) -> None:
        """Send step n until it is answered."""
        until = time.monotonic() + _SETTLED
        first = True
        while True:
            answer = self._attempt(n)
            if answer is not None and answer.status != 503:
                break
            assert time.monotonic() < until, f"{self.work.id}, step {n} is answered by no one"
            self.tally.refused += answer is not None
            first = False
            self._at += 1
            time.sleep(_PAUSE)
        position = self._took(n, answer)
        assert position == n, f"{self.work.id} is at {position}, its only client at {n}"
        assert answer.status == 201 or not first, f"{self.work.id}: {n} was taken by no one"

    def _attempt(self, n: int) -> Answer | None:
        """Send step n once; return None where there is no answer, or not soon enough."""
        url = self._servers[self._at % len(self._servers)].url
        connection = self._kept.pop(url, None) or Connection(url, _SEND)
        try:
            self.work.send_step(connection, n)
            if not connection.answered(PATIENCE):
                self._late.append((n, connection))
                return None
            answer = connection.receive()
        except FAILURES:
            connection.close()
            self.tally.broken += 1
            return None
        self._kept[url] = connection
        return answer

    def _took(self, n: int, answer: Answer) -> int:
        """Note who took step n; return where the session stands."""
        who = f"{self.work.id}, step {n}"
        assert answer.status in {200, 201}, f"{who}: {answer.status} {answer.content!r}"
        receipt = answer.json()
        assert (receipt["step"], receipt["replayed"]) == (n, answer.status == 200), receipt
        if answer.status == 201:
            assert n not in self._taken, f"{who} was taken twice"
            self._taken.add(n)
        position: int = receipt["position"]
        return position

    def _settle(self, wait: float) -> None:
        """Look at the answers to what was sent elsewhere since."""
        for n, connection in list(self._late):
            if connection.answered(wait):
                self._late.remove((n, connection))
                self._arrived(n, connection)
            else:
                assert wait == 0, f"{self.work.id}, step {n} is not answered after {wait} s"

    def _arrived(self, n: int, connection: Connection) -> None:
        try:
            answer = connection.receive()
        except FAILURES:
            self.tally.late_broken += 1
        else:
            if answer.status == 503:
                self.tally.late_broken += 1
            else:
                self._took(n, answer)
                self.tally.late_taken += answer.status == 201
                self.tally.late_replayed += answer.status == 200
        connection.close()


@contextmanager
def training(cluster: Replicas) -> Iterator[list[Trainer]]:
    """Let clients step sessions of their own as long as the block lasts.

    Then every server must hold what their steps lead to.
    """
    trainers = [Trainer(work, cluster.servers, at) for at, work in enumerate(WORKS)]
    with Connection(cluster.urls[0]) as creator:
        for trainer in trainers:
            trainer.work.create(creator)
    try:
        for trainer in trainers:
            trainer.start()
        yield trainers
    finally:
        for trainer in trainers:
            trainer.stop()
    for trainer in trainers:
        trainer.finish()
        trainer.work.prove(trainer.acknowledged, cluster.urls)
