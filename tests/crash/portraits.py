"""Sessions of every kind in one directory, and everything that each of them answers."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

import apsw
import httpx
from crash.plans import ADAMW, KB, Plan, one_tensor, put_step, step_call
from session_app import SAFETENSORS, Call, Service, running

Answer = tuple[int, bytes]
"""A status, and the content or, of a problem, its code."""

Portrait = dict[str, Answer]
"""What a session answers, by request."""

SNAPSHOT_STEPS = 8
"""Often enough that logs are trimmed and snapshots superseded."""

STEPPED = one_tensor("stepped", KB)
CHUNKS = one_tensor("chunks", 1200 * KB)
REWOUND = one_tensor("rewound", KB, {**ADAMW, "retain": "all"})
EPOCHS = one_tensor("epochs", KB, {**ADAMW, "schedule_on": "epoch"})
RELAXED = one_tensor("relaxed", KB, {**ADAMW, "durability": "relaxed"})

FORK = one_tensor("fork", KB, ADAMW)
PLANS = (STEPPED, CHUNKS, REWOUND, FORK, EPOCHS, RELAXED)

LENGTHS: Mapping[str, int] = {
    "stepped": 24,
    "chunks": 3,
    "rewound": 12,
    "fork": 10,
    "epochs": 9,
    "relaxed": 20,
}
"""The position of each session."""

_FIRST: Mapping[str, int] = {"rewound": 6, "fork": 5}
"""The first step that is taken last, where that is not step 1."""

_OLDEST = re.compile(rb'"oldest_step":\d+,')
_OTHER = 7
"""A writer that no session knows."""


@dataclass
class Home:
    """A directory that a stopped service has left, the same as a killed one left it, and truth."""

    folder: Path
    expected: dict[str, Mapping[str, Portrait]] = field(default_factory=dict)
    """For each way of ending, what each session answers."""

    earlier: dict[str, list[Answer]] = field(default_factory=dict)
    """The state of each session after each of its entries."""

    owners: dict[str, str] = field(default_factory=dict)
    """The session of each file, by the stem of its name."""

    @classmethod
    def build(cls, folder: Path) -> Home:
        """Let a service live, and copy what it has on disk while it lives and when it has ended."""
        home = cls(folder)
        with opened(folder / "stopped") as service:
            for plan in PLANS:
                home.earlier[plan.id] = [(404, b"session-not-found")]
                for call in _life(plan):
                    [answer] = service.together(call)
                    assert answer.is_success, answer.text
                    home.earlier[plan.id].append(_state(service, plan))
            shutil.copytree(folder / "stopped", folder / "killed")
        for ending in ("stopped", "killed"):
            shutil.copytree(folder / ending, folder / "asked")
            with opened(folder / "asked") as service:
                home.expected[ending] = {plan.id: portrait(service, plan) for plan in PLANS}
            shutil.rmtree(folder / "asked")
        with apsw.Connection(str(folder / "stopped" / "catalogue.sqlite")) as db:
            home.owners = dict(db.execute("SELECT key, id FROM sessions"))
        return home

    def files(self, ending: str) -> list[Path]:
        """Return every file that holds data, relative to the directory."""
        folder = self.folder / ending
        data = (path for path in folder.rglob("*.sqlite*") if path.suffix != ".sqlite-shm")
        return sorted(path.relative_to(folder) for path in data if path.stat().st_size)

    def owner(self, file: Path) -> str | None:
        """Return the session whose file it is, None for the catalogue."""
        return self.owners.get(file.stem)


def opened(folder: Path) -> AbstractContextManager[Service]:
    """Run the service on a directory, with snapshots as often as these sessions need them."""
    return running(f"sqlite:///{folder}", snapshot_steps=SNAPSHOT_STEPS)


def portrait(service: Service, plan: Plan) -> Portrait:
    """Ask a session everything, send it again what it knows, and step it.

    How far back it can go is left out: that is what is kept, not what it is.
    """
    n = LENGTHS[plan.id]
    pages = ["", "/params", "/state", "/history", "/schedule", "/steps/1", f"/steps/{n}"]
    pages += [f"/steps/{n - 1}", f"/params?step={n - 1}", "/epochs/1"]
    found = {page: _answer(service.get(plan.path + page)) for page in pages}
    found[""] = found[""][0], _OLDEST.sub(b"", found[""][1])
    for m in (1, n - 1, n):
        found[f"again {m}"] = _answer(put_step(service, plan, m, _writer(plan, m)))
    found["other"] = _answer(put_step(service, plan, n, _OTHER))
    found["next"] = _answer(put_step(service, plan, n + 1))
    found["after"] = _state(service, plan)
    return found


def _state(service: Service, plan: Plan) -> Answer:
    return _answer(service.get(f"{plan.path}/state"))


def _life(plan: Plan) -> Iterator[Call]:
    """Yield the requests of which a session is made."""
    if plan is FORK:
        yield "POST", f"{REWOUND.path}/fork", {"json": {"id": plan.id, "step": 4, "lr": 0.5}}
    else:
        yield "PUT", plan.path, {"json": dict(plan.config)}
        yield "PUT", f"{plan.path}/params", {"content": plan.start(), "headers": SAFETENSORS}
    if plan is REWOUND:
        yield from (step_call(plan, n) for n in range(1, 10))
        yield "POST", f"{plan.path}/rewind", {"json": {"step": 5}}
    for n in range(_FIRST.get(plan.id, 1), LENGTHS[plan.id] + 1):
        yield step_call(plan, n, _writer(plan, n))
        if plan is EPOCHS and n % 3 == 0:
            yield "PUT", f"{plan.path}/epochs/{n // 3}", {"json": {"metric": 1 / n}}
            yield "PATCH", plan.path, {"json": {"lr": 0.1 / n}}


def _writer(plan: Plan, n: int) -> int:
    return 1 if plan is REWOUND and n > 5 else 0


def _answer(response: httpx.Response) -> Answer:
    if response.is_success:
        return response.status_code, response.content
    return response.status_code, response.json()["code"].encode()
