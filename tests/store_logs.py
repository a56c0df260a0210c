"""Headers, entries and bodies for the tests of the stores."""

from __future__ import annotations

import random
import uuid

from gradstep_server.sessions.store import Body, Entry, Header, Snapshot, Store

NOON = 1_700_000_000.0
"""When the test sessions are created; entry n follows n seconds later."""


def header(session_id: str = "a", *, tenant: str = "alice", created_at: float = NOON) -> Header:
    return Header(
        tenant=tenant,
        id=session_id,
        key=uuid.uuid4().hex,
        config=b'{"optimizer": {"type": "SGD"}}',
        digest=bytes(range(32)),
        created_at=created_at,
    )


def entry(seq: int, body: Body = (), *, kind: str = "step", n: int | None = None) -> Entry:
    return Entry(
        seq=seq,
        kind=kind,
        n=seq if n is None else n,
        step=seq,
        digest=seq.to_bytes(32, "big"),
        record=b'{"lr": [0.1]}\x00',
        seal=(seq + 1).to_bytes(32, "little"),
        body_size=sum(piece.nbytes for piece in body),
        created_at=NOON + seq + 0.1,
    )


def snapshot(seq: int, body: Body = (), *, record: bytes = b"{}") -> Snapshot:
    size = sum(piece.nbytes for piece in body)
    return Snapshot(seq=seq, record=record, seal=bytes(32), body_size=size)


def random_body(seed: int, *sizes: int) -> list[memoryview]:
    """Return random bytes in pieces of the given sizes."""
    source = random.Random(seed)
    return [memoryview(source.randbytes(size)) for size in sizes]


def joined(body: Body) -> bytes:
    return b"".join(body)


def step_body(seq: int) -> list[memoryview]:
    """Return the body that `grow` gives to this entry, in two pieces."""
    return [memoryview(b"gradients of step "), memoryview(str(seq).encode())]


async def grow(store: Store, key: str, first: int, last: int) -> None:
    """Append the entries `first` to `last`."""
    for seq in range(first, last + 1):
        await store.append(key, entry(seq, step_body(seq)), step_body(seq))


async def started(store: Store, session_id: str = "a", *, steps: int = 0) -> Header:
    """Create a session of so many steps."""
    created = header(session_id)
    await store.create(created, None, ())
    await grow(store, created.key, 1, steps)
    return created


async def replayed(store: Store, key: str, after: int = 0) -> list[tuple[Entry, bytes]]:
    return [(found, bytes(body)) async for found, body in store.replay(key, after)]


def expected_log(first: int, last: int) -> list[tuple[Entry, bytes]]:
    """Return what `replayed` returns for entries that `grow` appended."""
    return [(entry(seq, step_body(seq)), joined(step_body(seq))) for seq in range(first, last + 1)]
