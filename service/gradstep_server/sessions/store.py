"""The protocol of a store: what a session needs of whatever keeps its log.

The contract, which `tests/stores/test_contract.py` holds every store to:

* A log is a dense sequence of entries, 1, 2, 3, …. `append` adds entry
  ``head + 1`` or raises `SequenceTaken`; that check is the only point where
  writers meet, in one process or in many.
* When `append`, `create`, `put_snapshot` or `delete` returns, what it wrote
  survives the end of the process and, in a durable store, of the machine. When
  it raises anything but `SequenceTaken` or `IdTaken`, the caller does not know
  and must read the log again.
* An entry is there whole or not at all.
* Bodies and records are opaque bytes. A store returns them as they were given
  or raises `SessionCorrupt`; the digests that prove it are the session's.
* Every method may be called from many tasks at once. A call that is cancelled
  ends only when it no longer reads the body.
* A log that was deleted, or never created, reads as empty and takes no append;
  `load` tells which it is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

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
    """What happened: ``init``, ``step``, ``epoch``, ``config``."""

    n: int
    """The number within the kind: the step's n, the epoch's e; 0 for others."""

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
    """The whole state right after entry `seq`, without its body."""

    seq: int
    record: bytes
    """What the body holds and all that is not tensors, as JSON."""

    seal: bytes
    """The digest of record and body."""

    body_size: int


@dataclass(frozen=True, slots=True)
class Head:
    """Where a log stands. An empty log stands at 0, updated when created."""

    seq: int
    step: int
    updated_at: float


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

    async def idle_since(self, moment: float, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return sessions, of any tenant, not updated since `moment`, damaged ones left out."""
        ...

    async def delete(self, header: Header, seq: int) -> None:
        """Delete the session if its log stands at `seq`, else raise `SequenceTaken`.

        Deleting what is deleted already does nothing. An append that comes
        after a delete raises `SequenceTaken`.
        """
        ...

    async def head(self, key: str) -> Head:
        """Return where the log stands."""
        ...

    async def append(self, key: str, entry: Entry, body: Body) -> None:
        """Add `entry` if the log stands at ``entry.seq - 1``, else raise `SequenceTaken`."""
        ...

    async def find(self, key: str, kind: str, n: int) -> Entry | None:
        """Return the newest entry of this kind and number, trimmed or not."""
        ...

    async def at(self, key: str, seq: int) -> Entry | None:
        """Return the entry at this place of the log, trimmed or not."""
        ...

    async def history(self, key: str, kind: str, after: int, limit: int) -> Sequence[Entry]:
        """Return entries of this kind with ``n > after``, by n, at most `limit`."""
        ...

    def replay(self, key: str, after: int) -> AsyncIterator[tuple[Entry, memoryview]]:
        """Yield the entries behind `after` with their bodies, in order, one at a time.

        Raises:
            SessionCorrupt: an entry or a body is missing or unreadable.
        """
        ...

    async def put_snapshot(self, key: str, snapshot: Snapshot, body: Body) -> None:
        """Keep a snapshot. One of the same `seq` that is kept already stays."""
        ...

    async def snapshot(self, key: str) -> tuple[Snapshot, memoryview] | None:
        """Return the newest snapshot with its body."""
        ...

    async def trim(self, key: str) -> None:
        """Drop what is older than the second-newest snapshot: bodies and snapshots.

        Entries stay: their receipts and digests answer retries for ever.
        """
        ...
