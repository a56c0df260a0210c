"""Headers, entries and bodies for the tests of the stores."""

from __future__ import annotations

import uuid

import numpy as np

from gradstep_server.sessions.store import Body, Entry, Head, Header, Snapshot, Store

NOON = 1_700_000_000.0
"""When the test sessions are created; entry n follows n seconds later."""

EMPTY = Head(seq=0, step=0, updated_at=NOON)
"""Where a log without entries stands."""


def header(session_id: str = "a", *, tenant: str = "alice", created_at: float = NOON) -> Header:
    return Header(
        tenant=tenant,
        id=session_id,
        key=uuid.uuid4().hex,
        config=b'{"optimizer": {"type": "SGD"}}',
        digest=bytes(range(32)),
        created_at=created_at,
    )


def seal_of(seq: int) -> bytes:
    """Return the seal that `entry` gives to this entry: what the next one goes behind."""
    return (seq + 1).to_bytes(32, "little") if seq > 0 else b""


def entry(
    seq: int,
    body: Body = (),
    *,
    kind: str = "step",
    n: int | None = None,
    seal: bytes | None = None,
) -> Entry:
    return Entry(
        seq=seq,
        kind=kind,
        n=seq if n is None else n,
        step=seq,
        digest=seq.to_bytes(32, "big"),
        record=b'{"lr": [0.1]}\x00',
        seal=seal_of(seq) if seal is None else seal,
        body_size=size_of(body),
        created_at=NOON + seq + 0.1,
    )


def head(seq: int, *, trimmed: int = 0, suspect: bool = False) -> Head:
    """Return where a log of so many of these entries stands."""
    return Head(seq, seq, NOON + seq + 0.1, seal_of(seq), trimmed, suspect)


def snapshot(
    seq: int, body: Body = (), *, base: int | None = None, record: bytes = b"{}"
) -> Snapshot:
    return Snapshot(
        seq=seq,
        base=seq if base is None else base,
        record=record,
        seal=bytes(32),
        body_size=size_of(body),
    )


def random_body(seed: int, *sizes: int) -> list[memoryview]:
    """Return random bytes in pieces of the given sizes, which may be above 256 MiB."""
    source = np.random.default_rng(seed)
    return [memoryview(source.bytes(size)) for size in sizes]


def size_of(body: Body) -> int:
    return sum(piece.nbytes for piece in body)


def joined(body: Body) -> bytes:
    return b"".join(body)


def step_body(seq: int) -> list[memoryview]:
    """Return the body that `grow` gives to this entry, in two pieces."""
    return [memoryview(b"gradients of step "), memoryview(str(seq).encode())]


async def append(
    store: Store, key: str, added: Entry, body: Body = (), *, synced: bool = True
) -> bool:
    """Append behind the entry that `entry` makes before this one."""
    after = seal_of(added.seq - 1)
    return await store.append(key, added, body, after=after, synced=synced)


async def grow(store: Store, key: str, first: int, last: int, *, synced: bool = True) -> list[bool]:
    """Append the entries `first` to `last`; return which were synced."""
    return [
        await append(store, key, entry(seq, step_body(seq)), step_body(seq), synced=synced)
        for seq in range(first, last + 1)
    ]


async def started(store: Store, session_id: str = "a", *, steps: int = 0) -> Header:
    """Create a session of so many steps."""
    created = header(session_id)
    await store.create(created, None, ())
    await grow(store, created.key, 1, steps)
    return created


async def replayed(
    store: Store, key: str, after: int = 0, upto: int | None = None
) -> list[tuple[Entry, bytes]]:
    return [(found, bytes(body)) async for found, body in store.replay(key, after, upto)]


def expected_log(first: int, last: int) -> list[tuple[Entry, bytes]]:
    """Return what `replayed` returns for entries that `grow` appended."""
    return [(entry(seq, step_body(seq)), joined(step_body(seq))) for seq in range(first, last + 1)]


async def put_snapshot(store: Store, key: str, kept: Snapshot, body: Body = ()) -> None:
    """Write a snapshot, its body in the pieces that are given."""
    async with store.snapshot_writer(key) as writer:
        for piece in body:
            await writer.write(piece)
        await writer.commit(kept)


async def newest_snapshot(store: Store, key: str) -> tuple[Snapshot, bytes] | None:
    """Return the newest snapshot that is kept, with its body."""
    kept = await store.snapshots(key)
    found = await store.snapshot(key, kept[-1][0]) if kept else None
    return None if found is None else (found[0], bytes(found[1]))
