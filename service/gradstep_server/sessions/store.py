"""The protocol of a store: what a session needs of whatever keeps its log.

The contract, which `tests/stores/test_contract.py` holds every store to:

* A log is a dense sequence of entries, 1, 2, 3, …. `append` adds entry
  ``head + 1`` behind the entry that the writer knows as the last, or raises
  `SequenceTaken`; that check is the only point where writers meet, in one
  process or in many.
* When `append`, `create`, `delete` or a snapshot's `commit` returns, what it
  wrote survives the end of the process and, in a durable store, of the machine.
  When it raises anything but `SequenceTaken` or `IdTaken`, the caller does not
  know and must read the log again.
* Only an append that was allowed to be synced later may be lost, with all that
  follows it, when the medium ends: the machine of a SQLite file, the server of a
  database. The head then says that it is *suspect*, until an entry is appended
  synced. What is left is a log, shorter and dense.
* An entry is there whole or not at all.
* Bodies and records are opaque bytes. A store returns them as they were given
  or raises `SessionCorrupt`; the digests that prove it are the session's.
* Every method may be called from many tasks at once. A call that is cancelled
  ends only when it no longer reads the body.
* A log that was deleted, or never created, reads as empty and takes no append;
  `load` tells which it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

Ref = tuple[str, str]
"""A session's tenant and id."""

Body = Sequence[memoryview]
"""Bytes in order, in as many one-dimensional byte views as suits the caller."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a session was created as. It never changes, except to be deleted."""

    tenant: str
    """Whose session it is; ids are unique within a tenant."""

    id: str
    """The name on the wire, unique for ever: a deleted one is not given again."""

    key: str
    """A random name for the log, made by the creator, so that two racing
    creators of one id never share a log. Lowercase hexadecimal."""

    config: bytes
    """What `headers.header_of` wrote: the configuration, and what it was filled with."""

    digest: bytes
    """The digest of everything that was asked for, to recognise a retry."""

    created_at: float
    """Seconds since 1970, UTC."""

    deleted_at: float | None = None
    """When it was deleted, if it was."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a log, without its body."""

    seq: int
    """The place in the log, from 1."""

    kind: str
    """What happened: ``init``, ``step``, ``epoch``, ``config``, ``rewind``, ``recovery``."""

    n: int
    """The number within the kind: the step's n, the epoch's e, the entry that is
    rewound to; 0 for others."""

    step: int
    """How many optimizer steps the session has taken after this entry."""

    digest: bytes
    """The digest of what the client sent, by which a retry is recognised."""

    record: bytes
    """Everything else that replay needs, and the receipt, as JSON."""

    seal: bytes
    """The digest of all other fields, by which damage is recognised."""

    body_size: int
    """The number of bytes in the body."""

    created_at: float
    """Seconds since 1970, UTC."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The tensors of a state at entry `seq` or a little before, without their body."""

    seq: int
    """The entry at which the last tensor was copied: what the snapshot leads to
    is the state after this entry, or after a later one."""

    base: int
    """The entry at which the first tensor was copied: what follows is replayed."""

    record: bytes
    """What the body holds and all that is not tensors, as JSON."""

    seal: bytes
    """The digest of record and body."""

    body_size: int


@dataclass(frozen=True, slots=True)
class Basis:
    """What the state was rebuilt from that a rewind goes back to."""

    snapshot: int | None
    """The `seq` of the snapshot, None if it was rebuilt from the log alone."""

    after: int
    """The entry behind which the bodies were replayed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What sessions take in a store."""

    sessions: int
    nbytes: int
    """About how many bytes: what they hold, or the files that hold it."""

    def __add__(self, other: Usage) -> Usage:
        """Return both together."""
        return Usage(self.sessions + other.sessions, self.nbytes + other.nbytes)


NOTHING = Usage(0, 0)


def by_tenant(usages: Iterable[tuple[str, Usage]]) -> Mapping[str, Usage]:
    """Return what the sessions of each tenant take together, from what each of them takes."""
    kept: dict[str, Usage] = {}
    for tenant, usage in usages:
        kept[tenant] = kept.get(tenant, NOTHING) + usage
    return kept


class SnapshotWriter(Protocol):
    """Takes the body of a snapshot piece by piece."""

    async def write(self, part: memoryview) -> None:
        """Take the next bytes; they may change when this returns."""
        ...

    async def commit(self, snapshot: Snapshot) -> None:
        """Keep the snapshot, durably, unless what follows its `base` is trimmed already.

        One of the same `seq` that is kept already stays.
        """
        ...


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log stands. An empty log stands at 0, updated when created."""

    seq: int
    step: int
    updated_at: float
    seal: bytes = b""
    """The seal of the last entry, by which a writer proves that it knows the log."""

    trimmed: int = 0
    """The last entry whose body is gone."""

    suspect: bool = False
    """Whether entries behind this one may have been acknowledged, and lost before
    they were synced."""


class Store(Protocol):
    """Where logs are kept. See the module's docstring for the contract."""

    @property
    def url(self) -> str:
        """The address that selects this store, without secrets."""
        ...

    @property
    def durability(self) -> str:
        """One sentence for the banner: what an acknowledged write survives."""
        ...

    @property
    def shared(self) -> bool:
        """Whether other processes may append to the same logs."""
        ...

    async def open(self) -> None:
        """Make the store ready. Raise `StoreUnavailable` saying what to do."""
        ...

    async def close(self) -> None:
        """Release everything. No other call follows."""
        ...

    async def check(self) -> None:
        """Write and read something, or raise as a write would."""
        ...

    async def create(self, header: Header, entry: Entry | None, body: Body) -> None:
        """Register a session, with its first entry if there is one, atomically.

        Raises:
            IdTaken: the tenant has, or had, a session of this id.
        """
        ...

    async def load(self, tenant: str, session_id: str) -> Header | None:
        """Return the header, also that of a deleted session, or None."""
        ...

    async def list(self, tenant: str, after: str, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions that are not deleted, ordered by id, from behind `after`.

        One whose log is damaged is listed as empty, so that the others can be read.
        """
        ...

    async def usage(self, *, sizes: bool = True) -> Mapping[str, Usage]:
        """Return what the sessions that are not deleted take, by tenant, in order.

        Without `sizes` they are only counted, which is quick, and `nbytes` is 0.
        """
        ...

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`, damaged ones left out."""
        ...

    async def delete(self, header: Header, seq: int | None) -> None:
        """Delete the session if its log stands at `seq`, else raise `SequenceTaken`.

        Without `seq`, delete it whatever its log holds, also one that cannot be
        read. Deleting what is deleted already does nothing. An append that comes
        after a delete raises `SequenceTaken`.
        """
        ...

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        ...

    async def append(
        self,
        key: str,
        entry: Entry,
        body: Body,
        *,
        after: bytes,
        synced: bool = True,
        basis: Basis | None = None,
    ) -> bool:
        """Add `entry` if the log stands at ``entry.seq - 1`` and that has the seal `after`.

        Args:
            key: which log.
            entry: what to add.
            body: its bytes.
            after: the seal of the last entry, empty for an empty log. Numbers
                alone do not tell a log from one that lost its end and grew again.
            synced: whether to return only when everything up to this entry is synced.
            basis: for a rewind, what it relies on.

        Returns:
            Whether it is: where `synced` is false the store decides. It syncs the
            first entry of a burst, so that the log is on record as one that may
            lose its end, and may leave the others to `sync`.

        Raises:
            SequenceTaken: the log stands elsewhere, or the basis is not kept any more.
        """
        ...

    async def sync(self, key: str) -> None:
        """Make everything that was appended durable. A log that is suspect stays so."""
        ...

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number, trimmed or not."""
        ...

    async def newest(self, key: str, kind: str, upto: int) -> Entry | None:
        """Return the last entry of this kind with ``seq <= upto``, trimmed or not."""
        ...

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log, trimmed or not."""
        ...

    async def history(
        self, key: str, kind: str, after: int, upto: int, limit: int
    ) -> Sequence[Entry]:
        """Return the newest entry of each n with ``after < n <= upto``, by n, at most `limit`."""
        ...

    def replay(
        self, key: str, after: int, upto: int | None = None
    ) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after`, to `upto` or the end, with their bodies, in order.

        Raises:
            SessionCorrupt: an entry or a body is missing or unreadable.
        """
        ...

    def snapshot_writer(self, key: str) -> AbstractAsyncContextManager[SnapshotWriter]:
        """Write a snapshot within the block; without a `commit` nothing is kept."""
        ...

    async def snapshots(self, key: str) -> Sequence[tuple[int, int]]:
        """Return `seq` and `base` of the snapshots that are kept, oldest first."""
        ...

    async def snapshot(self, key: str, seq: int) -> tuple[Snapshot, memoryview] | None:
        """Return the snapshot of this `seq` with its body."""
        ...

    async def trim(self, key: str, oldest: int, *, rewound: int | None = None) -> None:
        """Drop what is older than the snapshot `oldest`, if that is kept.

        With `rewound`, only as long as that is the log's newest rewind, 0 for none:
        another one may have gone back behind the snapshot.

        Snapshots before it are dropped, and the bodies of the entries that neither
        it nor a newer snapshot is followed by: those up to the lowest `base`.
        Entries stay: their receipts and digests answer retries for ever.
        """
        ...
