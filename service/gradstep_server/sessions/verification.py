"""Proving that what is kept of a session is whole, and that all of it says the same.

A log and its snapshots tell a state twice. So besides every digest, replay is
held against the snapshots: from the oldest that is kept, or from nothing, it has
to arrive, bit for bit, at the state that each later snapshot leads to, and then
at the end of the log. Nothing is written, and the log may grow and be trimmed
meanwhile. At most one state is in memory, beside the body that is being read.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import orjson

from gradstep_server.errors import InvalidRequest
from gradstep_server.optimizers import Compute
from gradstep_server.sessions.digests import content_digest, seal
from gradstep_server.sessions.entries import EPOCH, INIT, REWIND, STEP
from gradstep_server.sessions.errors import SessionCorrupt, SessionNotFound, StoreUnavailable
from gradstep_server.sessions.headers import config_of
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.snapshots import proven
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry, Head, Header, Store
from gradstep_server.sessions.timeline import Timeline
from gradstep_server.sessions.transitions import proven_tensors, replay

Progress = Callable[[int, int], None]
"""Called with the number of entries that are verified, and of all."""

_ATTEMPTS = 10
_BYTES = 4
"""Bytes of most elements, to estimate the work on a body."""

_PAGE = 1000

_UNUSABLE = (InvalidRequest, LookupError, TypeError, ValueError)
"""What replay may meet in an entry that is sealed but not of this log."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found of one session."""

    step: int
    """How many optimizer steps it has taken."""

    entries: int
    """Entries of the log, trimmed ones included."""

    snapshots: int
    nbytes: int
    """Bytes of the bodies that were read."""

    problems: tuple[str, ...]
    """A sentence for each thing that is wrong."""


async def verify(
    store: Store, header: Header, compute: Compute, progress: Progress = lambda _, __: None
) -> Report:
    """Return what is wrong with a session, as its log stands now.

    Raises:
        SessionNotFound: it is deleted.
        StoreUnavailable: the store fails, or drops what is to be read next, again and again.
    """
    for _ in range(_ATTEMPTS):
        report = None
        with suppress(_Overtaken):
            report = await _Verification(store, header, compute, progress).run()
        found = await store.load(header.tenant, header.id)
        if found is None or found.deleted_at is not None:
            raise SessionNotFound(f"there is no session {header.id!r}")
        if report is not None:
            return report
    raise StoreUnavailable(
        f"the log of session {header.id!r} is trimmed faster than it can be verified; verify it "
        "when fewer steps are taken"
    )


class _Overtaken(Exception):
    """Raised when something that was to be read next has been trimmed."""


class _Branch:
    """The entries on the way to the end of a log."""

    def __init__(self, stretches: Sequence[tuple[int, int]]) -> None:
        """Take the first and the last entry of each stretch, in order."""
        self._stretches = stretches

    def __contains__(self, seq: int) -> bool:
        at = bisect(self._stretches, seq, key=lambda stretch: stretch[0])
        return at > 0 and seq <= self._stretches[at - 1][1]


class _Verification:
    """One way through a session."""

    def __init__(self, store: Store, header: Header, compute: Compute, progress: Progress) -> None:
        self._store = store
        self._header = header
        self._key = header.key
        self._compute = compute
        self._progress = progress
        self._timeline = Timeline(store, compute)
        self._problems: dict[str, None] = {}  # in order, each once
        self._head = Head(0, 0, 0.0)
        self._branch = _Branch([])
        self._kept: dict[int, int] = {}
        """The base of each snapshot."""

        self._unmet: set[int] = set()
        """Snapshots that are not proven yet."""

        self._created_with: str | None = None
        """The digest of the first entry, where the session was created with one."""

        self._nbytes = 0
        self._state: State | None = None
        """What replay has arrived at; None where it cannot go on."""

    async def run(self) -> Report:
        """Read everything once.

        Raises:
            _Overtaken: something was trimmed before it was read.
        """
        try:
            await self._read_all()
        except SessionCorrupt as damage:  # which goes so deep that nothing more can be read
            self._problem(damage)
        head = self._head
        return Report(head.step, head.seq, len(self._kept), self._nbytes, tuple(self._problems))

    async def _read_all(self) -> None:
        self._kept = dict(await self._store.snapshots(self._key))
        self._unmet = set(self._kept)
        self._head = await self._store.head(self._key)
        way = await self._way()
        self._branch = _Branch(way)
        try:
            config = config_of(self._header)
        except SessionCorrupt as damage:
            self._problem(damage)
        else:
            self._created_with = orjson.loads(self._header.config)["params"]
            if way and not self._head.trimmed:
                self._state = State.new(config, self._header.created_at)
        await self._read_trimmed()
        await self._read_log()
        for seq in sorted(self._unmet):
            await self._is_proven(seq)
        if way:
            await self._read_end()

    async def _way(self) -> list[tuple[int, int]]:
        """Return the stretches of the branch; none where a rewind cannot be believed."""
        way: list[tuple[int, int]] = []
        last = self._head.seq
        while (rewind := await self._store.newest(self._key, REWIND, last)) is not None:
            if seal(rewind) != rewind.seal or rewind.n >= rewind.seq:
                self._problem(f"entry {rewind.seq}, a rewind, is damaged: nothing can be replayed")
                return []
            way.insert(0, (rewind.seq, last))
            last = rewind.n
        return [(1, last), *way]

    async def _read_trimmed(self) -> None:
        """Prove the entries whose bodies are gone."""
        for seq in range(1, self._head.trimmed + 1):
            try:
                entry = await self._store.at(self._key, seq)
            except SessionCorrupt as damage:
                self._problem(damage)
                continue
            if entry is None:
                self._problem(f"entry {seq} of the log is missing")
            elif entry.seq != seq or seal(entry) != entry.seal:
                self._problem(f"entry {seq} of the log does not match its seal")
            self._progress(seq, self._head.seq)

    async def _read_log(self) -> None:
        """Prove and replay the entries that have their bodies."""
        done, end = self._head.trimmed, self._head.seq
        await self._meet(done)
        while done < end:
            try:
                async for entry, body in self._store.replay(self._key, done, end):
                    done += 1
                    await self._take(done, entry, body)
                    self._progress(done, end)
                if done < end:
                    raise SessionCorrupt(f"entry {done + 1} of the log is missing")
            except SessionCorrupt as damage:
                done += 1
                if (await self._store.head(self._key)).trimmed >= done:
                    raise _Overtaken from None
                self._lose(done, damage)
                await self._meet(done)

    async def _take(self, seq: int, entry: Entry, body: memoryview) -> None:
        """Prove an entry, and replay it if it is on the way."""
        self._nbytes += len(body)
        work = len(body) // _BYTES
        try:
            if entry.seq != seq:
                raise SessionCorrupt(f"entry {entry.seq} stands in the place of entry {seq}")
            if self._state is None or seq not in self._branch:
                await offload(work, proven_tensors, entry, body)
            else:
                await offload(work, replay, self._state, entry, body, self._compute)
        except SessionCorrupt as damage:
            self._lose(seq, damage)
        except _UNUSABLE as error:
            self._lose(seq, f"entry {seq} of the log cannot be replayed: {error!r}")
        await self._meet(seq)

    async def _meet(self, seq: int) -> None:
        """Hold replay against the snapshot at entry `seq`, if there is one; go on from that."""
        if seq not in self._unmet or seq not in self._branch or not await self._is_proven(seq):
            return
        self._unmet.discard(seq)
        if self._kept[seq] < (await self._store.head(self._key)).trimmed:
            await self._not_overtaken(seq)
            self._problem(f"the entries that follow the snapshot at entry {seq} are trimmed")
            return
        arrived, self._state = await _digest(self._state), None
        try:
            rebuilt = await self._timeline.rebuild(self._header, seq, None, lambda _: None)
        except (SessionCorrupt, *_UNUSABLE) as error:
            await self._not_overtaken(seq)
            self._problem(f"the snapshot at entry {seq} does not lead to a state: {error}")
            return
        if rebuilt.basis.snapshot != seq:
            await self._not_overtaken(seq)
            self._problem(f"the snapshot at entry {seq} does not lead to a state")
        self._state = rebuilt.state
        if arrived not in {None, await _digest(rebuilt.state)}:
            self._problem(f"the snapshot at entry {seq} is not what replay arrives at")

    async def _is_proven(self, seq: int) -> bool:
        """Return whether a snapshot is what was written."""
        try:
            found = await self._store.snapshot(self._key, seq)
            if found is None:
                raise SessionCorrupt(f"the snapshot at entry {seq} is missing")
            snapshot, body = found
            self._nbytes += len(body)
            await offload(len(body) // _BYTES, proven, snapshot, body)
        except SessionCorrupt as damage:
            await self._not_overtaken(seq)
            self._unmet.discard(seq)
            self._problem(damage)
            return False
        return True

    async def _not_overtaken(self, seq: int) -> None:
        """Raise if the snapshot at entry `seq` is not kept any more."""
        if seq not in {kept for kept, _ in await self._store.snapshots(self._key)}:
            raise _Overtaken

    async def _read_end(self) -> None:
        """Hold what replay has arrived at against the head, and the index against the branch."""
        head, state = self._head, self._state
        if state is None:
            self._problem("what is kept does not lead to the present state")
        elif (state.seq, state.step, state.seal) != (head.seq, head.step, head.seal):
            self._problem("the head of the log does not match its last entry")
        initial = await self._store.find(self._key, INIT, 0)
        begins_with = None if initial is None else initial.digest.hex()
        if self._created_with not in {None, begins_with}:
            self._problem("the log does not begin with what the session was created with")
        if initial is not None and state is not None and seal(initial) == initial.seal:
            begin = orjson.loads(initial.record)["asked"]
            await self._are_found(STEP, begin["step"], state.step)
            await self._are_found(EPOCH, begin["epoch"], state.epoch)

    async def _are_found(self, kind: str, first: int, last: int) -> None:
        """Prove that retries of all steps or epochs behind `first` find what was done."""
        cursor, expected = first, first + 1
        while cursor < last:
            page = await self._store.history(self._key, kind, cursor, last, _PAGE)
            for entry in page:
                later = entry.seq > self._head.seq  # another replica has taken it since
                if seal(entry) == entry.seal and (later or entry.seq in self._branch):
                    self._gap(kind, expected, entry.n - 1)
                    expected = entry.n + 1
            cursor = page[-1].n if page else last
        self._gap(kind, expected, last)

    def _gap(self, kind: str, first: int, last: int) -> None:
        if first <= last:
            which = f"{kind} {first}" if first == last else f"{kind}s {first} to {last}"
            self._problem(f"no retry of {which} would be recognised")

    def _lose(self, seq: int, problem: object) -> None:
        """List a problem of entry `seq`, which replay cannot go beyond."""
        self._problem(problem)
        if seq in self._branch:
            self._state = None

    def _problem(self, problem: object) -> None:
        self._problems[str(problem)] = None


async def _digest(state: State | None) -> bytes | None:
    """Return the digest of everything that a state is."""
    if state is None:
        return None
    facts, tensors = state.dump()
    fields = {**facts, "seq": state.seq, "seal": state.seal.hex()}
    return await offload(state.elements, content_digest, fields, tensors)
