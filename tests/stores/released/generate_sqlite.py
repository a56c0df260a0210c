"""Write ``sqlite-v<N>/``: a directory of sessions as the gradstep that is run leaves it.

Run with a released gradstep, from the top of its repository:

    PYTHONPATH=service:tests python THIS_FILE FOLDER

It speaks HTTP only, so that it runs with any version. ``data`` is what a server
leaves that is killed, except for what it had closed before; ``expected.json`` is
what can be read from it, taken from the files themselves and from the service.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

import apsw
import numpy as np
from session_app import ADAMW, AS_JSON, SGD, Service, running

IDS = ("adamw", "epochs", "killed", "empty")


def step(service: Service, session: str, n: int) -> None:
    """Take step n, with gradients of its own."""
    grads = np.random.default_rng(n).normal(size=8).astype(np.float32)
    sent = {"grads": {"w": grads.tolist()}, "loss": 1 / n}
    answer = service.put(f"/v1/sessions/{session}/steps/{n}?return=receipt", json=sent)
    assert answer.status_code == 201, answer.text


def live(service: Service) -> None:
    """Make sessions of every kind of entry, one of them with snapshots and trimmed."""
    params = {"params": {"w": [1.0, -2.0, 3.0, -4.0, 5.0, -6.0, 7.0, -8.0]}}
    scheduler = {"type": "StepLR", "step_size": 2, "gamma": 0.5}
    clip = {"type": "value", "value": 0.5}
    service.session("adamw", optimizer=ADAMW, scheduler=scheduler, clip=clip, **params)
    service.session("epochs", optimizer=SGD, scheduler=scheduler, schedule_on="epoch")
    service.session("empty")
    service.session("deleted", **params)
    for n in range(1, 13):
        step(service, "adamw", n)
    assert service.patch("/v1/sessions/adamw", json={"lr": 0.05}).status_code == 200
    step(service, "adamw", 13)
    service.put("/v1/sessions/epochs/params", json=params)
    for n in (1, 2):
        step(service, "epochs", n)
        ended = service.put(f"/v1/sessions/epochs/epochs/{n}", json={"metric": 0.5 / n})
        assert ended.status_code == 201, ended.text
    assert service.delete("/v1/sessions/deleted").status_code == 204


def main(folder: Path) -> None:
    """Make the sessions and write what they are."""
    journal: Any = import_module("gradstep_server.sessions.journal")
    journal.SNAPSHOT_FLOOR, journal.SNAPSHOT_FACTOR = 0, 1  # a trimmed log of few steps
    with tempfile.TemporaryDirectory() as made:
        data = Path(made) / "data"
        with running(f"sqlite:///{data}") as service:
            live(service)
        with running(f"sqlite:///{data}") as service:
            service.session("killed", params={"w": [0.5] * 8})
            for n in (1, 2):
                step(service, "killed", n)
            kept = Path(made) / "kept"
            shutil.copytree(data, kept, ignore=shutil.ignore_patterns("*-shm", "lock"))
            seen = {name: look(service, name) for name in IDS}
        looked = Path(made) / "looked"
        shutil.copytree(kept, looked)
        version, sessions = read(looked)
        for name, facts in seen.items():
            sessions[name].update(facts)
        target = folder / f"sqlite-v{version}"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(kept, target / "data")
        lines = [f"{json.dumps(name)}: {json.dumps(facts)}" for name, facts in sessions.items()]
        (target / "expected.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")


def look(service: Service, name: str) -> dict[str, Any]:
    """Return what the service says of a session."""
    path = f"/v1/sessions/{name}"
    params = service.get(f"{path}/params", headers=AS_JSON)
    return {
        "view": service.get(path).json(),
        "params": params.json() if params.is_success else None,
    }


def read(data: Path) -> tuple[int, dict[str, Any]]:
    """Return the version of the session files, and what each session's tables hold."""
    catalogue = apsw.Connection(str(data / "catalogue.sqlite"))
    rows = rows_of(catalogue, "SELECT id, key, digest, created_at, deleted_at FROM sessions")
    sessions: dict[str, Any] = {}
    version = 0
    for name, key, digest, created_at, deleted_at in rows:
        facts = {"key": key, "digest": digest.hex(), "created_at": created_at}
        sessions[name] = {**facts, "deleted": deleted_at is not None}
        path = data / "sessions" / key[:2] / f"{key}.sqlite"
        if path.exists():
            db = apsw.Connection(str(path))
            version = db.pragma("user_version")
            sessions[name].update(log(db))
            db.close()
    catalogue.close()
    return version, sessions


def log(db: apsw.Connection) -> dict[str, Any]:
    """Return what the tables of one session hold, bytes as their digests."""
    fields = "seq, kind, n, step, digest, record, seal, body_size, created_at, body"
    entries = rows_of(db, f"SELECT {fields} FROM entries")  # noqa: S608 - of constants
    snapshots = rows_of(db, "SELECT seq, record, seal, body_size, body FROM snapshots")
    return {
        "trimmed": db.execute("SELECT trimmed FROM log").get,
        "entries": [[*map(plain, row[:-1]), body(db, row[-1])] for row in entries],
        "snapshots": [[*map(plain, row[:-1]), body(db, row[-1])] for row in snapshots],
    }


def rows_of(db: apsw.Connection, query: str, *bindings: int) -> list[tuple[Any, ...]]:
    """Return all that a question finds."""
    return db.execute(query, bindings).fetchall()


def plain(value: Any) -> Any:
    """Return bytes as text: short ones in hexadecimal, records as their digest."""
    if not isinstance(value, bytes):
        return value
    return value.hex() if len(value) <= 32 else hashlib.sha256(value).hexdigest()


def body(db: apsw.Connection, base: int) -> str | None:
    """Return the digest of a body, None where it has no bytes or was trimmed."""
    query = "SELECT data FROM chunks WHERE id >= ? AND id < ? ORDER BY id"
    data = b"".join(row[0] for row in rows_of(db, query, base, base + 2**20))
    return hashlib.sha256(data).hexdigest() if data else None


if __name__ == "__main__":
    main(Path(sys.argv[1]))
