"""What can be done to sessions: the commands, each exactly once, and the questions.

Every command that writes has one shape. Under the session's lock: has it been
done already (then it is *replayed*), may it be done, what would it do, append,
apply. The append is a compare-and-set in the store, so when another process
was first, the session catches up and the command looks again.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace

from gradstep_server.optimizers import Compute
from gradstep_server.sessions import lookups, receipts, stepping
from gradstep_server.sessions.background import DEFAULT_POLICY, Background, SnapshotPolicy
from gradstep_server.sessions.buffers import NOTHING_KEPT, Buffers
from gradstep_server.sessions.commands import Commands
from gradstep_server.sessions.config import ConfigPatch, ForkConfig, SessionConfig
from gradstep_server.sessions.creation import Creation
from gradstep_server.sessions.entries import EPOCH, STEP
from gradstep_server.sessions.errors import (
    SequenceTaken,
    SessionCorrupt,
    SessionNotFound,
    StepNotFound,
)
from gradstep_server.sessions.guards import Version, fence, stale, version_of
from gradstep_server.sessions.headers import Origin, config_of, origin_of
from gradstep_server.sessions.hot import Hot, HotSessions
from gradstep_server.sessions.journal import Command, Journal
from gradstep_server.sessions.laps import Laps
from gradstep_server.sessions.observer import UNOBSERVED, Memory, Observer
from gradstep_server.sessions.offload import COPYING, offload
from gradstep_server.sessions.quotas import NO_QUOTA, Quota, Quotas
from gradstep_server.sessions.receipts import (
    EpochReceipt,
    HistoryPage,
    Parameters,
    Receipt,
    Stepped,
    View,
)
from gradstep_server.sessions.room import patiently
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Head, Header, Ref, Store
from gradstep_server.sessions.tensors import DType, Tensors
from gradstep_server.sessions.timeline import Timeline
from gradstep_server.sessions.transfer import StateFile, exported, exported_size


class Sessions:
    """All sessions of a store."""

    def __init__(
        self,
        store: Store,
        compute: Compute,
        memory_budget: int,
        policy: SnapshotPolicy = DEFAULT_POLICY,
        quota: Quota = NO_QUOTA,
        clock: Callable[[], float] = time.time,
        buffers: Buffers = NOTHING_KEPT,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._store = store
        self._buffers = buffers
        self._compute = compute
        self._clock = clock
        self._timeline = Timeline(store, compute, observer)
        self._hot = HotSessions(store, self._timeline, compute, memory_budget, clock, observer)
        self._background = Background(store, self._hot, self._timeline, policy, clock, observer)
        quotas = Quotas(store, quota)
        self._journal = Journal(store, self._hot, quotas, compute, self._background, clock)
        self._creation = Creation(store, self._hot, quotas, compute, clock)
        self._commands = Commands(store, self._timeline, compute)

    async def close(self) -> None:
        """Finish what goes on in the background."""
        await self._background.close()

    def memory(self) -> Memory:
        """Return what the sessions in memory take."""
        return self._hot.memory()

    async def create(self, ref: Ref, config: SessionConfig, params: Tensors | None) -> View:
        """Create a session, with its initial parameters if they are given.

        Raises:
            SessionConflict, SessionDeleted: the id is taken.
            InvalidConfig, InvalidTensors: the content is wrong.
        """
        file = None if params is None else StateFile.of_params(params)
        replayed = await self._creation.create(ref, config, file)
        return await self.view(ref, replayed=replayed)

    async def fork(
        self,
        ref: Ref,
        new_id: str,
        step: int | None,
        changes: ForkConfig,
        *,
        generation: int | None,
    ) -> View:
        """Create a session that goes on from another's state after a step, or from the present.

        Raises:
            StepNotFound, StepGone: there is no such step, or no more.
            SessionConflict, SessionDeleted: the new id is taken.
            GenerationMismatch: the session was rewound since.
            InvalidConfig: the changes are wrong.
        """
        new = (ref[0], new_id)
        sent = changes.model_dump(mode="json", exclude_unset=True)
        asked = {"id": ref[1], "step": step, "changes": sent}
        replayed = await self._creation.is_forked(new, asked)
        if not replayed:
            async with self._at(ref, step, generation=generation) as (past, now):
                origin = Origin(ref[1], past.step, now, asked)
                replayed = await self._creation.fork(new, past, changes, origin)
        return await self.view(new, replayed=replayed)

    async def view(self, ref: Ref, *, replayed: bool = False) -> View:
        """Return what there is to see of a session."""
        async with self._hot.use(ref) as hot:
            return await self._view(hot, replayed=replayed)

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
        command = await self._commands.initial(file, generation=generation)
        return await self._viewed(ref, command)

    async def dtype(self, ref: Ref) -> DType:
        """Return the dtype of a session's parameters, without waiting for its lock.

        It never changes. Whether the session is still there is for the command
        that follows to find out.
        """
        if (dtype := self._hot.dtype(ref)) is not None:
            return dtype
        header = await self._store.load(*ref)
        if header is None or header.deleted_at is not None:
            raise SessionNotFound(f"there is no session {ref[1]!r}")
        return config_of(header).dtype

    async def elements(self, ref: Ref) -> int:
        """Return the number of elements of all parameters."""
        async with self._hot.use(ref) as hot:
            return hot.loaded()[1].elements

    async def params(
        self, ref: Ref, step: int | None = None, dtype: DType | None = None
    ) -> Parameters:
        """Return the parameters, of now or after a step, rounded to `dtype` or the session's.

        Raises:
            StepNotFound, StepGone: there is no such step, or no more.
        """
        async with self._at(ref, step) as (state, generation):
            return await self._params(state, generation, dtype, await self._room(state, dtype))

    async def state(self, ref: Ref, step: int | None = None) -> tuple[Tensors, dict[str, str]]:
        """Return the whole state, of now or after a step, copied: tensors and metadata.

        Raises:
            StepNotFound, StepGone: there is no such step, or no more.
        """
        async with self._at(ref, step) as (state, _):
            room = await patiently(self._buffers.room, self._buffers.take, exported_size(state))
            return await offload(state.elements, exported, state, room)

    async def step(
        self,
        ref: Ref,
        n: int | None,
        gradients: Tensors,
        asked: stepping.Asked,
        *,
        generation: int | None,
        want_params: bool,
        dtype: DType | None = None,
        laps: Laps | None = None,
    ) -> Stepped:
        """Take step n, or the next one if n is None; answer with parameters as `params` does.

        Its phases are counted in `laps`.

        Raises:
            PositionMismatch, StepConflict, GenerationMismatch, ParamsMissing,
            InvalidTensors, NonFiniteGradient: the step was not taken.
        """
        laps = laps or Laps()
        command = await self._commands.step(n, gradients, asked, generation=generation)
        laps.end("digest")
        async with self._hot.use(ref) as hot:
            laps.end("wait")
            # Before anything is changed: an answer that does not fit refuses the step.
            room = await self._room(hot.loaded()[1], dtype) if want_params else None
            entry, replayed = await self._journal.once(hot, command, laps)
            state = hot.loaded()[1]
            params = None
            if room is not None:
                params = await self._params(state, state.generation, dtype, room)
            receipt = receipts.receipt(state, entry, hot.durable_step, replayed=replayed)
            laps.end("copy")
            return Stepped(receipt, params, state.seq)

    async def receipt(self, ref: Ref, n: int) -> Receipt:
        """Return the receipt of step n again."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            known = n <= state.step
            entry = await lookups.find(self._store, header.key, STEP, n) if known else None
            if entry is None:
                raise StepNotFound(f"step {n} is not in the log; the session is at {state.step}")
            return receipts.receipt(state, entry, hot.durable_step, replayed=True)

    async def history(self, ref: Ref, after: int, limit: int) -> HistoryPage:
        """Return the receipts of the steps behind `after`, at most `limit`."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            now, durable = replace(state), hot.durable_step
            entries = await lookups.steps(self._store, header.key, after, state.step, limit + 1)
        size = sum(len(entry.record) for entry in entries)
        return await offload(size, receipts.history_page, now, entries, durable, limit)

    async def end_epoch(
        self, ref: Ref, e: int, metric: float | None, *, generation: int | None
    ) -> EpochReceipt:
        """End epoch e, which moves a schedule that counts epochs."""
        command = await self._commands.epoch(e, metric, generation=generation)
        async with self._hot.use(ref) as hot:
            entry, replayed = await self._journal.once(hot, command)
            return receipts.epoch_receipt(hot.loaded()[1], entry, replayed=replayed)

    async def epoch_receipt(self, ref: Ref, e: int) -> EpochReceipt:
        """Return the receipt of epoch e again."""
        async with self._hot.use(ref) as hot:
            header, state = hot.loaded()
            known = e <= state.epoch
            entry = await lookups.find(self._store, header.key, EPOCH, e) if known else None
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
        command = await self._commands.patch(patch, generation=generation, version=version)
        return await self._viewed(ref, command)

    async def rewind(
        self, ref: Ref, step: int, *, generation: int | None, version: Version | None
    ) -> View:
        """Go back to what the session was right after a step, in a generation of its own.

        With `version`, a retry whose rewind stands right behind it is replayed.

        Raises:
            StepNotFound, StepGone: there is no such step, or no more.
        """
        command = await self._commands.rewind(step, generation=generation, version=version)
        return await self._viewed(ref, command)

    async def delete(
        self, ref: Ref, *, version: Version | None, generation: int | None = None
    ) -> bool:
        """Delete a session, a damaged one too; return whether it was deleted already."""
        try:
            async with self._hot.use(ref) as hot:
                await self._delete(hot, version, generation)
        except SessionNotFound:
            header = await self._store.load(*ref)
            if header is None or header.deleted_at is None:
                raise
            return True
        except SessionCorrupt:  # nothing can change it, so there is nothing to compare
            header = await self._store.load(*ref)
            if header is None:
                raise
            await self._store.delete(header, None)
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

    async def _viewed(self, ref: Ref, command: Command) -> View:
        """Do a command and return what there is to see then."""
        async with self._hot.use(ref) as hot:
            _, replayed = await self._journal.once(hot, command)
            return await self._view(hot, replayed=replayed)

    async def _view(self, hot: Hot, *, replayed: bool) -> View:
        header, state = hot.loaded()
        return receipts.view(
            header,
            state,
            fork=origin_of(header),
            durable_step=hot.durable_step,
            oldest_step=await self._timeline.oldest_step(header),
            replayed=replayed,
        )

    @asynccontextmanager
    async def _at(
        self, ref: Ref, step: int | None, *, generation: int | None = None
    ) -> AsyncIterator[tuple[State, int]]:
        """Yield a session's state, of now or after a step, and its present generation.

        The present state is locked; a past one is rebuilt beside it.
        """
        async with AsyncExitStack() as stack:
            async with self._hot.use(ref) as hot:
                header, state = hot.loaded()
                now = state.generation
                fence(state, generation)
                if step is None:
                    yield state, now
                    return
                entry = await self._timeline.entry_of(header, state, step)
            try:
                past = await stack.enter_async_context(self._hot.past(header, entry.seq))
            except SessionCorrupt:  # unless what led to it was trimmed just now
                async with self._hot.use(ref) as hot:
                    await self._timeline.entry_of(*hot.loaded(), step)
                raise
            yield past, now

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

    async def _room(self, state: State, dtype: DType | None) -> memoryview:
        """Return where parameters are copied to."""
        storage = (dtype or state.config.dtype).storage
        size = state.elements * storage.itemsize
        return await patiently(self._buffers.room, self._buffers.take, size)

    async def _params(
        self, state: State, generation: int, dtype: DType | None, room: memoryview
    ) -> Parameters:
        dtype = dtype or state.config.dtype
        size = state.elements // (COPYING if dtype is state.master else 1)
        tensors = await offload(size, state.params, dtype, room, self._compute)
        return Parameters(state.step, generation, tensors)
