"""Clients that step sessions of a server that dies, and send again what was not answered."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import httpx
from crash.plans import Plan, create, patch, put_params, put_step
from server_process import Server

_PAUSE = 0.02
"""Seconds until what was not answered is sent again."""

Sending = Callable[[httpx.Client], httpx.Response]


class Line:
    """A connection to a server, wherever that is by now."""

    def __init__(self, target: Server) -> None:
        self.resent = 0
        """How many requests had to be sent again."""

        self.replayed = 0
        """How many of them turned out to be carried out already."""

        self._server = target
        self._http = httpx.Client(timeout=60)

    def until_answered(self, send: Sending) -> httpx.Response:
        """Send until there is an answer."""
        answer = self._try(send)
        if answer is not None:
            return answer
        self.resent += 1
        while answer is None:
            time.sleep(_PAUSE)
            answer = self._try(send)
        self.replayed += answer.status_code == 200
        return answer

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def _try(self, send: Sending) -> httpx.Response | None:
        if not self._server.url:  # it does not listen yet
            return None
        self._http.base_url = self._server.url
        try:
            answer = send(self._http)
        except httpx.TransportError:
            return None
        return None if _is_cut_off(answer) else answer


def _is_cut_off(answer: httpx.Response) -> bool:
    """Whether a server only says that it ended before it could answer."""
    return answer.status_code == 503 and answer.json()["code"] == "draining"


class Role(Protocol):
    """What a client does to one session."""

    def act(self, line: Line) -> None:
        """Do the next thing, and see it answered."""
        ...


class Owner:
    """Steps a session that no one else writes to, and changes a hyperparameter now and then."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.acknowledged = 0
        self._etag = ""

    def act(self, line: Line) -> None:
        """Take the next step."""
        if not self._etag:
            line.until_answered(lambda http: create(http, self.plan))
            self._answered(line.until_answered(lambda http: put_params(http, self.plan)))
        n = self.acknowledged + 1
        if self.plan.is_changed_before(n):
            version = self._etag
            self._answered(line.until_answered(lambda http: patch(http, self.plan, n, version)))
        answer = line.until_answered(lambda http: put_step(http, self.plan, n))
        self._answered(answer)
        assert answer.json()["position"] == n, f"{self.plan.id}: step {n} gave {answer.text}"
        self.acknowledged = n

    def _answered(self, answer: httpx.Response) -> None:
        assert answer.is_success, f"{self.plan.id}: {answer.status_code} {answer.text}"
        self._etag = answer.headers["ETag"]


class Heavy(Owner):
    """Takes a step only when it is allowed to."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.allowed = 0

    @property
    def busy(self) -> bool:
        """Whether a step is under way."""
        return self.acknowledged < self.allowed

    def act(self, line: Line) -> None:
        """Take the next step, or wait a moment."""
        if self.busy:
            super().act(line)
        else:
            time.sleep(_PAUSE)


class Winners:
    """Who took which step of a session that several write to."""

    def __init__(self) -> None:
        self.of: dict[int, int] = {}
        self._lock = threading.Lock()

    def note(self, n: int, writer: int) -> None:
        """Note that a writer was told that it took step n."""
        with self._lock:
            other = self.of.setdefault(n, writer)
        assert other == writer, f"step {n} was acknowledged to writers {other} and {writer}"


class Racer:
    """Steps a session that others write to, with gradients of its own."""

    def __init__(self, plan: Plan, writer: int, winners: Winners) -> None:
        self.plan = plan
        self.writer = writer
        self.lost = 0
        self._winners = winners
        self._next = 1

    def act(self, line: Line) -> None:
        """Try to take the next step."""
        n = self._next
        if n == 1:
            line.until_answered(lambda http: create(http, self.plan))
            line.until_answered(lambda http: put_params(http, self.plan))
        answer = line.until_answered(lambda http: put_step(http, self.plan, n, self.writer))
        if answer.is_success:
            self._winners.note(n, self.writer)
            self._next = n + 1
        else:
            said = answer.json()
            assert said["code"] == "step-conflict", f"{self.plan.id}: step {n} gave {answer.text}"
            self.lost += 1
            self._next = said["expected"]


class Client(threading.Thread):
    """Plays its roles in turn until it is told to stop."""

    def __init__(self, target: Server, roles: Sequence[Role]) -> None:
        super().__init__(daemon=True)
        self.line = Line(target)
        self._roles = itertools.cycle(roles)
        self._enough = threading.Event()
        self._failure: BaseException | None = None

    def run(self) -> None:
        """Act until told to stop, or until a promise is broken."""
        try:
            while not self._enough.is_set():
                next(self._roles).act(self.line)
        except BaseException as failure:  # noqa: BLE001 - raised again by `check`
            self._failure = failure

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self._failure is not None:
            raise self._failure

    def end(self) -> None:
        """Wait for the answer to what was sent last."""
        self._enough.set()
        self.join(60)
        self.line.close()
        self.check()
        assert not self.is_alive(), "a client waits for ever"
