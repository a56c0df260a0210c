"""What can be done to sessions: the commands, each exactly once.

Every command that writes has one shape. Under the session's lock: has it been
done already (then it is *replayed*), may it be done, what would it do, append,
apply. The append is a compare-and-set in the store, so when another process
was first, the session catches up and the command looks again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from gradstep_server.errors import Fault
from gradstep_server.optimizers import Compute
from gradstep_server.sessions import receipts, stepping
from gradstep_server.sessions.config import ConfigPatch, SessionConfig, patched, resolve
from gradstep_server.sessions.digests import body, canonical, content_digest, index
from gradstep_server.sessions.errors import (
    EpochsNotUsed,
    IdTaken,
    InvalidTensors,
    ParamsConflict,
    ParamsMissing,
    SequenceTaken,
    SessionConflict,
    SessionDeleted,
    SessionNotFound,
    StepNotFound,
)
from gradstep_server.sessions.guards import Version, fence, stale, taken, version_of
from gradstep_server.sessions.headers import config_of, header_of
from gradstep_server.sessions.hot import Hot, HotSessions, Ref
from gradstep_server.sessions.journal import Command, Journal, Planned, sealed_entry
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.receipts import (
    EpochReceipt,
    HistoryPage,
    Parameters,
    Receipt,
    Stepped,
    View,
)
from gradstep_server.sessions.snapshots import param_sizes
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry, Head, Header, Store
from gradstep_server.sessions.tensors import DType, Tensors, total_size
from gradstep_server.sessions.transfer import StateFile, exported
from gradstep_server.sessions.transitions import CONFIG, EPOCH, INIT, STEP, advance


class Sessions:
    """All sessions of a store."""

    def __init__(
        self,
        store: Store,
        compute: Compute,
        memory_budget: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._compute = compute
        self._clock = clock
        self._hot = HotSessions(store, compute, memory_budget)
        self._journal = Journal(store, self._hot, compute, clock)

    async def close(self) -> None:
        """Finish what goes on in the background."""
        await self._journal.close()

    async def create(self, ref: Ref, config: SessionConfig, params: Tensors | None) -> View:
        """Create a session, with its initial parameters if they are given.

        Raises:
            SessionConflict, SessionDeleted: the id is taken.
            InvalidConfig, InvalidTensors: the content is wrong.
        """
        now = self._clock()
        state = State.new(config, now)
        entry, file, nbytes = None, StateFile({}), 0
        if params is not None:
            file = StateFile.of_params(params)
            content = await _digest(INIT, file.asked(), file.tensors)
            planned = await self._fitting(state, file)
            entry = sealed_entry(1, INIT, planned, content, file.tensors, now)
            nbytes = planned.nbytes or 0
        header = header_of(*ref, config, entry, now)
        async with self._hot.locked(ref) as hot:
            if hot.state is None:
                self._hot.reserve(hot, nbytes)
            try:
                await self._store.create(header, entry, body(file.tensors))
            except IdTaken as error:
                _recognise(header, error.header)
                await self._hot.catch_up(hot)
                return receipts.view(*hot.loaded(), replayed=True)
            if entry is not None:
                size = total_size(file.tensors)
                await offload(size, advance, state, entry, file.tensors, self._compute)
                hot.log_bytes = entry.body_size
            hot.header, hot.state = header, state
            return receipts.view(header, state, replayed=False)

    async def view(self, ref: Ref, *, replayed: bool = False) -> View:
        """Return what there is to see of a session."""
        async with self._hot.use(ref) as hot:
            return receipts.view(*hot.loaded(), replayed=replayed)

    async def list(self, tenant: str, after: str, limit: int) -> Sequence[tuple[Header, Head]]:
        """Return a tenant's sessions by id, from behind `after`."""
        return await self._store.list(tenant, after, limit)

    async def set_params(self, ref: Ref, params: Tensors, *, generation: int | None) -> View:
        """Set the initial parameters, once."""
        return await self.set_state(ref, StateFile.of_params(params), generation=generation)

    async def set_state(self, ref: Ref, file: StateFile, *, generation: int | None) -> View:
        """Set the whole state of a session that has none, its position included.

        Raises:
            ParamsConflict: the session has parameters, and not from this content.
            InvalidConfig, InvalidTensors: the content does not fit the session.
        """
        content = await _digest(INIT, file.asked(), file.tensors)

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            entry = await self._store.find(header.key, INIT, 0)
            if entry is not None and entry.digest != content:
                raise ParamsConflict("the parameters are set already, and differ from these")
            return entry

        async def plan(state: State) -> Planned:
            return await self._fitting(state, file)

        async with self._hot.use(ref) as hot:
            command = Command(INIT, content, file.tensors, find, plan)
            _, replayed = await self._journal.once(hot, command)
            return receipts.view(*hot.loaded(), replayed=replayed)

    async def master(self, ref: Ref) -> DType:
        """Return the dtype that a session computes in, without waiting for its lock.

        It never changes. Whether the session is still there is for the command
        that follows to find out.
        """
        header = self._hot.header(ref) or await self._store.load(*ref)
        if header is None or header.deleted_at is not None:
            raise SessionNotFound(f"there is no session {ref[1]!r}")
        return config_of(header).dtype.master

    async def elements(self, ref: Ref) -> int:
        """Return the number of elements of all parameters."""
        async with self._hot.use(ref) as hot:
            return hot.loaded()[1].elements

    async def params(self, ref: Ref) -> Parameters:
        """Return the parameters, rounded to the session's dtype."""
        async with self._hot.use(ref) as hot:
            return await self._params(hot.loaded()[1])

    async def state(self, ref: Ref) -> tuple[Tensors, dict[str, str]]:
        """Return the whole state, copied: masters and slots, and the rest as metadata."""
        async with self._hot.use(ref) as hot:
            state = hot.loaded()[1]
            return await offload(state.elements, exported, state)

    async def step(
        self,
        ref: Ref,
        n: int | None,
        gradients: Tensors,
        asked: stepping.Asked,
        *,
        generation: int | None,
        want_params: bool,
    ) -> Stepped:
        """Take step n, or the next one if n is None.

        Raises:
            PositionMismatch, StepConflict, GenerationMismatch, ParamsMissing,
            InvalidTensors, NonFiniteGradient: the step was not taken.
        """
        content = await _digest(STEP, asked.model_dump(), gradients)

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            position = state.step + 1 if n is None else n
            return await taken(self._store, header, STEP, position, state.step, content)

        async def plan(state: State) -> Planned:
            stepping.check(state, gradients)
            record = await offload(
                total_size(gradients), stepping.plan, state, gradients, asked, self._compute
            )
            n = state.step + 1
            return Planned(n, n, record.model_dump_json().encode())

        async with self._hot.use(ref) as hot:
            command = Command(STEP, content, gradients, find, plan)
            entry, replayed = await self._journal.once(hot, command)
            state = hot.loaded()[1]
            params = await self._params(state) if want_params else None
            return Stepped(receipts.receipt(state, entry, replayed=replayed), params, state.seq)

    async def receipt(self, ref: Ref, n: int) -> Receipt:
        """Return the receipt of step n again."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            entry = await self._store.find(header.key, STEP, n) if n <= state.step else None
            if entry is None:
                raise StepNotFound(f"step {n} is not in the log; the session is at {state.step}")
            return receipts.receipt(state, entry, replayed=True)

    async def history(self, ref: Ref, after: int, limit: int) -> HistoryPage:
        """Return the receipts of the steps behind `after`, at most `limit`."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            now = replace(state)
        entries = await self._store.history(header.key, STEP, after, limit + 1)
        size = sum(len(entry.record) for entry in entries)
        return await offload(size, receipts.history_page, now, entries, limit)

    async def end_epoch(
        self, ref: Ref, e: int, metric: float | None, *, generation: int | None
    ) -> EpochReceipt:
        """End epoch e, which moves a schedule that counts epochs."""
        content = await _digest(EPOCH, {"metric": metric}, {})

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            if state.config.schedule_on != "epoch":
                raise EpochsNotUsed(
                    'the schedule moves with every step; use "schedule_on": "epoch"'
                )
            return await taken(self._store, header, EPOCH, e, state.epoch, content)

        async def plan(state: State) -> Planned:
            if not state.tensors:
                raise ParamsMissing("set the initial parameters first, with PUT …/params")
            state.rates(e - state.origin)  # what cannot be answered is not logged
            return Planned(e, state.step, canonical({"asked": {"metric": metric}}))

        async with self._hot.use(ref) as hot:
            command = Command(EPOCH, content, {}, find, plan)
            entry, replayed = await self._journal.once(hot, command)
            return receipts.epoch_receipt(hot.loaded()[1], entry, replayed=replayed)

    async def epoch_receipt(self, ref: Ref, e: int) -> EpochReceipt:
        """Return the receipt of epoch e again."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            entry = await self._store.find(header.key, EPOCH, e) if e <= state.epoch else None
            if entry is None:
                detail = f"epoch {e} is not in the log; the session is at {state.epoch}"
                raise StepNotFound(detail)
            return receipts.epoch_receipt(state, entry, replayed=True)

    async def patch(
        self, ref: Ref, patch: ConfigPatch, *, generation: int | None, version: Version | None
    ) -> View:
        """Change hyperparameters from the next step on.

        With `version`, the change happens only if that is current, and a retry
        whose change stands right behind it is replayed.
        """
        sent = patch.model_dump(mode="json", exclude_unset=True)
        content = await _digest(CONFIG, {"patch": sent}, {})

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            if version in (None, version_of(state)):
                return None
            entry = await self._store.at(header.key, version[1] + 1) if version else None
            if entry and entry.kind == CONFIG and entry.digest == content:
                return entry
            raise stale(state)

        async def plan(state: State) -> Planned:
            config = patched(state.config, patch, stepped=state.stepped)
            began = state.origin + state.clock() if "scheduler" in sent else state.origin
            changed = replace(state, config=config, groups=resolve(config), origin=began)
            changed.rates(changed.clock())  # what cannot be answered is not logged
            facts = {
                "asked": {"patch": sent},
                "config": config.model_dump(mode="json"),
                "origin": began,
            }
            return Planned(0, state.step, canonical(facts), changed.nbytes)

        async with self._hot.use(ref) as hot:
            _, replayed = await self._journal.once(hot, Command(CONFIG, content, {}, find, plan))
            return receipts.view(*hot.loaded(), replayed=replayed)

    async def delete(
        self, ref: Ref, *, version: Version | None, generation: int | None = None
    ) -> bool:
        """Delete a session; return whether it was deleted already."""
        try:
            async with self._hot.use(ref) as hot:
                await self._delete(hot, version, generation)
        except SessionNotFound:
            header = await self._store.load(*ref)
            if header is None or header.deleted_at is None:
                raise
            return True
        return False

    async def expire(self, idle_seconds: float) -> int:
        """Delete sessions that nothing was written to for so long; return how many."""
        idle = await self._store.idle_since(self._clock() - idle_seconds, limit=100)
        expired = 0
        for header, head in idle:
            async with self._hot.locked((header.tenant, header.id)) as hot:
                with suppress(SequenceTaken):  # it was stepped just now, so it is not idle
                    await self._store.delete(header, head.seq)
                    self._hot.drop(hot)
                    expired += 1
        return expired

    async def _delete(self, hot: Hot, version: Version | None, generation: int | None) -> None:
        while True:
            header, state = hot.loaded()
            fence(state, generation)
            if version not in (None, version_of(state)):
                raise stale(state)
            self._hot.drop(hot)
            try:
                await self._store.delete(header, state.seq)
            except SequenceTaken:
                await self._hot.catch_up(hot)
            else:
                return

    async def _fitting(self, state: State, file: StateFile) -> Planned:
        """Return the first entry of a session that takes `file`, or raise."""
        if state.tensors or not file.tensors:
            raise InvalidTensors(Fault("/params", "must hold at least one tensor"))
        filled = replace(state, step=file.step, epoch=file.epoch, origin=file.origin)
        if filled.clock() < 0:
            detail = "the schedule would begin behind the position of the state"
            raise InvalidTensors(Fault("/__metadata__/origin", detail))
        filled.rates(filled.clock())  # what cannot be answered is not logged
        matches = len(file.tensors) * sum(len(g.match) for g in state.config.param_groups)
        work = total_size(file.tensors) + 10 * matches
        nbytes = await offload(work, _checked_footprint, state, file)
        return Planned(0, file.step, file.record(), nbytes)

    async def _params(self, state: State) -> Parameters:
        tensors = await offload(state.elements, state.params)
        return Parameters(state.step, state.generation, tensors)


def _checked_footprint(state: State, file: StateFile) -> int:
    """Return the memory that an empty session takes with `file`, or raise."""
    state.check(file.tensors, file.counters)
    return state.footprint(param_sizes(index(file.tensors)))


async def _digest(kind: str, asked: dict[str, Any], tensors: Tensors) -> bytes:
    """Return the content digest of a command."""
    return await offload(total_size(tensors), content_digest, {"kind": kind, **asked}, tensors)


def _recognise(wanted: Header, found: Header) -> None:
    """Raise unless an id was taken by the same request before."""
    if found.deleted_at is not None:
        raise SessionDeleted(f"the id {found.id!r} is never given again; choose another")
    if found.digest != wanted.digest:
        detail = f"the session {found.id!r} was created with other content; choose another id"
        raise SessionConflict(detail)
