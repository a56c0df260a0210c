"""Clients that want ten times the memory that there is, of a service in half a gigabyte.

Where control groups can be made, the kernel holds the service to its 512 MB and
kills it if it takes more; elsewhere the service is told how much there is, and what it
has had at most is looked at.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from math import inf
from pathlib import Path

import numpy as np
from control_groups import limited_memory
from crash.connections import FAILURES, JSON, Answer, Connection
from crash.findings import Finding, evidence
from server_process import Server
from session_app import SAFETENSORS, file

MEMORY = 512 * 2**20
SECONDS = 300
"""How long the clients go on, at full size."""

_ELEMENTS = 2_500_000
"""Parameters of a session: 10 MB, and as much for a body and for an answer."""

_MB = 4 * _ELEMENTS / 1e6
_PATIENCE = 60.0
_REFUSALS = frozenset({413, 429, 503, 507})
_SGD = {"optimizer": {"type": "SGD", "lr": 0.01}, "durability": "relaxed"}


@dataclass(frozen=True)
class Crowd:
    """How many clients there are."""

    steppers: int
    readers: int
    creators: int

    @classmethod
    def at(cls, scale: float) -> Crowd:
        """Return all of them, or at scales that are to take seconds a quarter."""
        return cls(60, 140, 30) if scale >= 1 else cls(15, 35, 8)

    @property
    def wanted(self) -> float:
        """The megabytes that they want at once: states, bodies, answers, and JSON in memory."""
        return 3 * _MB * self.steppers + 2 * _MB * self.readers + 24 * self.creators


@dataclass
class Load:
    """What all clients share."""

    url: str
    until: float = inf
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, connection: Connection, request: Request) -> Answer | None:
        """Ask once; None where it was refused, or not answered, and a while has passed."""
        try:
            answer = connection.ask(*request)
        except FAILURES as error:
            connection.close()
            self.count("no answer")
            self.wrong.append(f"{request[:2]}: {error!r}")
            return None
        refused = answer.status in _REFUSALS
        self.count(str(answer.status))
        if answer.status >= 400 and not (refused and _is_clear(answer)):
            self.wrong.append(f"{request[:2]}: {answer.status} {answer.content[:300]!r}")
        if not refused:
            return answer
        connection.close()  # an idle one is closed by the server, perhaps as the next is sent
        time.sleep(random.uniform(0.5, 1.5) * float(answer.headers["Retry-After"] or 1))
        return None

    def count(self, outcome: str) -> None:
        with self.lock:
            self.answers[outcome] += 1

    @property
    def over(self) -> bool:
        return time.monotonic() > self.until or len(self.wrong) > 20


Request = tuple[str, str, bytes, Mapping[str, str]]


def _is_clear(answer: Answer) -> bool:
    """Say whether a refusal is a problem that says when to come again."""
    problem = answer.headers["Content-Type"] == "application/problem+json"
    waits = "Retry-After" in answer.headers or answer.status in {413, 507}
    return problem and waits and bool(answer.json()["detail"])


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Step, read and create with two hundred clients at once, then look whether all is well."""
    seconds = max(10, round(SECONDS * scale))
    with evidence("overload") as folder, _small(folder) as (server, enforced):
        load = Load(server.url)
        crowd = Crowd.at(scale)
        steppers = [Stepper(load, number) for number in range(crowd.steppers)]
        for stepper in steppers:
            stepper.begin()
        load.until = time.monotonic() + seconds
        others = [*([_read] * crowd.readers), *([_create] * crowd.creators)]
        threads = [threading.Thread(target=stepper.run) for stepper in steppers]
        threads += [
            threading.Thread(target=other, args=(load, i)) for i, other in enumerate(others)
        ]
        for thread in threads:
            thread.start()
        peak = 0
        while not load.over:
            peak = max(peak, _own_memory(server))
            progress(round(seconds - (load.until - time.monotonic())), seconds)
            time.sleep(1)
        for thread in threads:
            thread.join()
        assert load.wrong == [], f"{len(load.wrong)} answers were wrong: {load.wrong[:3]}"
        for stepper in steppers:
            stepper.prove(server.url)
        assert peak <= MEMORY, f"it took {peak / 1e6:.0f} MB"
        return [_finding(crowd, load.answers, steppers, seconds, peak, enforced)]


class Stepper:
    """A client with a session of its own."""

    def __init__(self, load: Load, number: int) -> None:
        self.load = load
        self.path = f"/v1/sessions/stepped-{number}"
        self.created = self.filled = False
        self.taken = 0
        self.body = _body(number % 4)

    def begin(self) -> None:
        """Create the session, with its parameters."""
        until = time.monotonic() + _PATIENCE
        with Connection(self.load.url) as connection:
            while not self.filled:
                self.go_on(connection)
                assert time.monotonic() < until, f"{self.path} is not begun: {self.load.wrong}"

    def run(self) -> None:
        """Step it until the time is over."""
        with Connection(self.load.url) as connection:
            while not self.load.over:
                self.go_on(connection)

    def go_on(self, connection: Connection) -> bool:
        """Send what comes next; return whether it was done."""
        if not self.created:
            request: Request = ("PUT", self.path, json.dumps(_SGD).encode(), JSON)
        elif not self.filled:
            request = ("PUT", f"{self.path}/params", self.body, SAFETENSORS)
        else:
            request = ("PUT", f"{self.path}/steps/{self.taken + 1}", self.body, SAFETENSORS)
        answer = self.load.ask(connection, request)
        if answer is None or answer.status not in {200, 201}:
            return False
        self.taken += self.filled
        self.filled, self.created = self.created, True
        return True

    def prove(self, url: str) -> None:
        """Raise unless the session has all acknowledged steps, and is stepped again."""
        until = time.monotonic() + _PATIENCE
        with Connection(url) as connection:
            while not self.go_on(connection):
                assert time.monotonic() < until, f"{self.path} is not stepped: {self.load.wrong}"
            session = connection.ask("GET", self.path).json()
        assert session["step"] in {self.taken, self.taken + 1}, f"{session} after {self.taken}"


@cache
def _body(seed: int) -> bytes:
    values = np.random.default_rng(seed).standard_normal(_ELEMENTS, np.float32)
    return file({"w": values})


def _read(load: Load, number: int) -> None:
    """Download parameters and whole states, again and again."""
    what = "state" if number % 2 else "params"
    path = f"/v1/sessions/stepped-{number % 15}/{what}"
    with Connection(load.url) as connection:
        while not load.over:
            load.ask(connection, ("GET", path, b"", {}))


def _create(load: Load, number: int) -> None:
    """Create sessions from large JSON and delete them, and draw long curves."""
    params = {"w": [0.25] * 100_000}
    body = json.dumps({**_SGD, "params": params}).encode()
    curve = "/v1/schedules/StepLR?base_lr=0.1&step_size=30&steps=200000&format=csv"
    with Connection(load.url) as connection:
        turn = 0
        while not load.over:
            turn += 1
            path = f"/v1/sessions/made-{number}-{turn}"
            if load.ask(connection, ("PUT", path, body, JSON)) is not None:
                load.ask(connection, ("DELETE", path, b"", {}))
            load.ask(connection, ("GET", curve, b"", {}))


@contextmanager
def _small(folder: Path) -> Iterator[tuple[Server, bool]]:
    """Start a server that has `MEMORY`; say whether the kernel sees to it."""
    with ExitStack() as stack:
        group = stack.enter_context(limited_memory("gradstep-overload", MEMORY))
        flags = (
            ()
            if group
            else (
                "--memory-budget",
                "128MiB",
                "--request-memory",
                "64MiB",
                "--buffer-memory",
                "32MiB",
            )
        )
        server = Server(folder / "data", *flags, group=group)
        stack.callback(server.close)
        server.start()
        yield server, group is not None


def _own_memory(server: Server) -> int:
    """Return the bytes that the process has for itself; what it has of files can be read again."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def _finding(
    crowd: Crowd,
    answers: Counter[str],
    steppers: list[Stepper],
    seconds: int,
    peak: int,
    enforced: bool,
) -> Finding:
    refused = sum(count for status, count in answers.items() if int(status) in _REFUSALS)
    kept = "a control group of 512 MB" if enforced else "512 MB of its own"
    return Finding(
        "D7",
        "overload",
        f"{crowd.steppers} clients that step, {crowd.readers} that read and {crowd.creators} that "
        f"create from JSON, for {seconds} s; together they wanted {crowd.wanted / 1000:.1f} GB at "
        f"once, in {kept}",
        f"{answers.total() - refused} requests answered and {refused} refused, each with a clear "
        f"problem; at most {peak / 1e6:.0f} MB; {sum(s.taken for s in steppers)} steps, 0 lost, "
        "and every session stepped again afterwards",
    )
