"""What can be done to sessions: the commands, each exactly once.

Every command that writes has one shape. Under the session's lock: has it been
done already (then it is *replayed*), may it be done, what would it do, append,
apply. The append is a compare-and-set in the store, so when another process
was first, the session catches up and the command looks again.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from gradstep_server.optimizers import Compute
from gradstep_server.sessions import stepping
from gradstep_server.sessions.config import ConfigPatch, SessionConfig, patched, resolve
from gradstep_server.sessions.digests import body, canonical, sealed
from gradstep_server.sessions.errors import (
    EpochsNotUsed,
    Fault,
    GenerationMismatch,
    IdTaken,
    InvalidTensors,
    ParamsConflict,
    ParamsMissing,
    PositionMismatch,
    PreconditionFailed,
    SequenceTaken,
    SessionConflict,
    SessionDeleted,
    SessionNotFound,
    StepConflict,
    StepNotFound,
)
from gradstep_server.sessions.hot import Hot, HotSessions, Ref
from gradstep_server.sessions.journal import (
    Command,
    Journal,
    Planned,
    digest,
    sealed_entry,
    size,
)
from gradstep_server.sessions.offload import offload
from gradstep_server.sessions.receipts import (
    EpochReceipt,
    HistoryPage,
    Parameters,
    Receipt,
    Stepped,
    View,
    receipt,
    view,
)
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry, Head, Header, Store
from gradstep_server.sessions.tensors import DType, Tensors
from gradstep_server.sessions.transfer import StateFile, exported
from gradstep_server.sessions.transitions import CONFIG, EPOCH, INIT, STEP

Version = tuple[int, int]
"""A generation and a sequence: what a session's ETag says."""


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
        entry, file = None, StateFile({})
        if params is not None:
            file = StateFile.of_params(params)
            content = await digest(INIT, file.asked(), file.tensors)
            entry = sealed_entry(1, INIT, self._admit(state, file), content, file.tensors, now)
        facts = {
            "config": config.model_dump(mode="json"),
            "params": entry.digest.hex() if entry else None,
        }
        record = canonical(facts)
        header = Header(*ref, secrets.token_hex(16), record, sealed(record), now)
        try:
            await self._store.create(header, entry, body(file.tensors))
        except IdTaken as taken:
            if taken.header.deleted_at is not None:
                raise SessionDeleted(
                    f"the id {ref[1]!r} is never given again; choose another"
                ) from None
            if taken.header.digest != header.digest:
                detail = f"the session {ref[1]!r} was created with other content; choose another id"
                raise SessionConflict(detail) from None
            return await self.view(ref, replayed=True)
        return await self.view(ref)

    async def view(self, ref: Ref, *, replayed: bool = False) -> View:
        """Return what there is to see of a session."""
        async with self._hot.use(ref) as hot:
            return view(*hot.loaded(), replayed=replayed)

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
        content = await digest(INIT, file.asked(), file.tensors)

        async def find(header: Header, state: State) -> Entry | None:
            _fence(state, generation)
            entry = await self._store.find(header.key, INIT, 0)
            if entry is not None and entry.digest != content:
                raise ParamsConflict("the parameters are set already, and differ from these")
            return entry

        async def plan(state: State) -> Planned:
            return self._admit(state, file)

        async with self._hot.use(ref) as hot:
            command = Command(INIT, content, file.tensors, find, plan)
            _, replayed = await self._journal.once(hot, command)
            header, state = hot.loaded()
            self._hot.reserve(hot, state.nbytes)
            return view(header, state, replayed=replayed)

    async def master(self, ref: Ref) -> DType:
        """Return the dtype that a session computes in; it never changes."""
        async with self._hot.use(ref) as hot:
            return hot.loaded()[1].master

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
        content = await digest(STEP, asked.model_dump(), gradients)

        async def find(header: Header, state: State) -> Entry | None:
            _fence(state, generation)
            position = state.step + 1 if n is None else n
            return await self._taken(header, STEP, position, state.step, content)

        async def plan(state: State) -> Planned:
            stepping.check(state, gradients)
            record = await offload(
                size(gradients), stepping.plan, state, gradients, asked, self._compute
            )
            n = state.step + 1
            return Planned(n, n, record.model_dump_json().encode())

        async with self._hot.use(ref) as hot:
            command = Command(STEP, content, gradients, find, plan)
            entry, replayed = await self._journal.once(hot, command)
            state = hot.loaded()[1]
            params = await self._params(state) if want_params else None
            return Stepped(receipt(state, entry, replayed=replayed), params, state.seq)

    async def receipt(self, ref: Ref, n: int) -> Receipt:
        """Return the receipt of step n again."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            entry = await self._store.find(header.key, STEP, n) if n <= state.step else None
            if entry is None:
                raise StepNotFound(f"step {n} is not in the log; the session is at {state.step}")
            return receipt(state, entry, replayed=True)

    async def history(self, ref: Ref, after: int, limit: int) -> HistoryPage:
        """Return the receipts of the steps behind `after`, at most `limit`."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            entries = await self._store.history(header.key, STEP, after, limit + 1)
            receipts = [receipt(state, entry, replayed=True) for entry in entries[:limit]]
            more = receipts[-1].step if len(entries) > limit else None
            return HistoryPage(receipts, more, len(state.groups.optimizers))

    async def end_epoch(
        self, ref: Ref, e: int, metric: float | None, *, generation: int | None
    ) -> EpochReceipt:
        """End epoch e, which moves a schedule that counts epochs."""
        content = await digest(EPOCH, {"metric": metric}, {})

        async def find(header: Header, state: State) -> Entry | None:
            _fence(state, generation)
            if state.config.schedule_on != "epoch":
                raise EpochsNotUsed(
                    'the schedule moves with every step; use "schedule_on": "epoch"'
                )
            return await self._taken(header, EPOCH, e, state.epoch, content)

        async def plan(state: State) -> Planned:
            if not state.tensors:
                raise ParamsMissing("set the initial parameters first, with PUT …/params")
            state.rates(e - state.origin)  # what cannot be answered is not logged
            return Planned(e, state.step, canonical({"asked": {"metric": metric}}))

        async with self._hot.use(ref) as hot:
            command = Command(EPOCH, content, {}, find, plan)
            entry, replayed = await self._journal.once(hot, command)
            state = hot.loaded()[1]
            return EpochReceipt(
                epoch=entry.n,
                step=state.step,
                replayed=replayed,
                metric=metric,
                lr=state.rates(state.clock()),
                generation=state.generation,
            )

    async def patch(
        self, ref: Ref, patch: ConfigPatch, *, generation: int | None, version: Version | None
    ) -> View:
        """Change hyperparameters from the next step on.

        With `version`, the change happens only if that is current, and a retry
        whose change stands right behind it is replayed.
        """
        sent = patch.model_dump(mode="json", exclude_unset=True)
        content = await digest(CONFIG, {"patch": sent}, {})

        async def find(header: Header, state: State) -> Entry | None:
            _fence(state, generation)
            if version in (None, (state.generation, state.seq)):
                return None
            entry = await self._store.at(header.key, version[1] + 1) if version else None
            if entry and entry.kind == CONFIG and entry.digest == content:
                return entry
            raise _stale(state)

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
            return Planned(0, state.step, canonical(facts))

        async with self._hot.use(ref) as hot:
            _, replayed = await self._journal.once(hot, Command(CONFIG, content, {}, find, plan))
            header, state = hot.loaded()
            hot.nbytes = state.nbytes  # a momentum switched on takes a slot
            return view(header, state, replayed=replayed)

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
            _fence(state, generation)
            if version not in (None, (state.generation, state.seq)):
                raise _stale(state)
            self._hot.drop(hot)
            try:
                await self._store.delete(header, state.seq)
            except SequenceTaken:
                await self._hot.catch_up(hot)
            else:
                return

    def _admit(self, state: State, file: StateFile) -> Planned:
        """Return the first entry of a session that takes `file`, or raise."""
        if state.tensors or not file.tensors:
            raise InvalidTensors(Fault("/params", "must hold at least one tensor"))
        state.check(file.tensors, file.counters)
        filled = replace(state, step=file.step, epoch=file.epoch, origin=file.origin)
        filled.rates(filled.clock())  # what cannot be answered is not logged
        self._hot.admit(state.footprint(file.sizes()))
        return Planned(0, file.step, file.record())

    async def _params(self, state: State) -> Parameters:
        tensors = await offload(state.elements, state.params)
        return Parameters(state.step, state.generation, tensors)

    async def _taken(
        self, header: Header, kind: str, n: int, position: int, content: bytes
    ) -> Entry | None:
        """Return the entry of n if it was taken with this content, None if it is next."""
        if n == position + 1:
            return None
        entry = await self._store.find(header.key, kind, n) if n <= position else None
        if entry is None:
            detail = f"the session is at {kind} {position}; send {position + 1}, not {n}"
            raise PositionMismatch(detail, expected=position + 1)
        if entry.digest != content:
            detail = f"{kind} {n} was taken with other content; send {position + 1}"
            raise StepConflict(detail, expected=position + 1)
        return entry


def _fence(state: State, generation: int | None) -> None:
    if generation not in (None, state.generation):
        raise GenerationMismatch(
            f"the session is at generation {state.generation}, the request says {generation}; "
            "it was rewound since: read it again before writing",
            generation=state.generation,
        )


def _stale(state: State) -> PreconditionFailed:
    version = f"{state.generation}-{state.seq}"
    return PreconditionFailed(
        f'If-Match does not name the current version, "{version}"', etag=version
    )
