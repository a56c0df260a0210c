"""Each command that writes, as `Journal.once` needs it: has it been done, what would it do."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from gradstep_server.errors import Fault, InvalidRequest, pointer
from gradstep_server.optimizers import Compute
from gradstep_server.schedulers import NOTHING
from gradstep_server.sessions import accumulation, lookups, stepping
from gradstep_server.sessions.config import Changes, ConfigPatch, patched, resolve
from gradstep_server.sessions.digests import canonical, content_digest, index
from gradstep_server.sessions.entries import CONFIG, EPOCH, INIT, REWIND, STEP, Planned
from gradstep_server.sessions.errors import (
    EpochsNotUsed,
    InvalidConfig,
    InvalidTensors,
    ParamsConflict,
    ParamsMissing,
)
from gradstep_server.sessions.gradients import Gradients
from gradstep_server.sessions.guards import Version, fence, stale, taken, version_of
from gradstep_server.sessions.journal import Command
from gradstep_server.sessions.offload import ARITHMETIC, offload
from gradstep_server.sessions.snapshots import param_shapes
from gradstep_server.sessions.state import State
from gradstep_server.sessions.store import Entry, Header, Store
from gradstep_server.sessions.tensors import Tensors, total_size
from gradstep_server.sessions.timeline import Timeline
from gradstep_server.sessions.transfer import StateFile
from gradstep_server.sessions.transitions import measured


class Commands:
    """Makes commands from what a client asked for."""

    def __init__(self, store: Store, timeline: Timeline, compute: Compute) -> None:
        self._store = store
        self._timeline = timeline
        self._compute = compute

    async def initial(self, file: StateFile, *, generation: int | None) -> Command:
        """Fill an empty session with `file`."""
        content = await digest(INIT, file.asked(), file.tensors)

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            entry = await lookups.initial(self._store, header.key)
            if entry is not None and entry.digest != content:
                raise ParamsConflict("the parameters are set already, and differ from these")
            return entry

        async def plan(_: Header, state: State) -> Planned:
            return await fitting(state, file)

        return Command(INIT, content, file.tensors, find, plan)

    async def step(
        self,
        n: int | None,
        gradients: Tensors,
        asked: stepping.Asked,
        *,
        generation: int | None,
    ) -> Command:
        """Take step n, or the next one if n is None."""
        gradients = Gradients(gradients)
        content = await digest(STEP, asked.model_dump(), gradients)

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            position = state.step + 1 if n is None else n
            return await taken(self._store, header, STEP, position, state.step, content)

        async def plan(_: Header, state: State) -> Planned:
            stepping.check(state, gradients)
            size = total_size(gradients) // ARITHMETIC
            record = await offload(size, stepping.plan, state, gradients, asked, self._compute)
            return Planned(state.step + 1, state.step + 1, record.model_dump_json().encode())

        return Command(STEP, content, gradients, find, plan)

    async def epoch(self, e: int, metric: float | None, *, generation: int | None) -> Command:
        """End epoch e."""
        content = await digest(EPOCH, {"metric": metric}, {})

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            if state.config.schedule_on != "epoch":
                raise EpochsNotUsed(
                    'the schedule moves with every step; use "schedule_on": "epoch"'
                )
            return await taken(self._store, header, EPOCH, e, state.epoch, content)

        async def plan(_: Header, state: State) -> Planned:
            if not state.tensors:
                raise ParamsMissing("set the initial parameters first, with PUT …/params")
            if _follows(state) and metric is None:
                detail = "send what was measured: the scheduler follows it"
                raise InvalidRequest(Fault("/metric", detail))
            replace(state, epoch=e, followed=measured(state, metric)).usable()
            return Planned(e, state.step, canonical({"asked": {"metric": metric}}))

        return Command(EPOCH, content, {}, find, plan)

    async def patch(
        self, patch: ConfigPatch, *, generation: int | None, version: Version | None
    ) -> Command:
        """Change hyperparameters from the next step on."""
        sent = patch.model_dump(mode="json", exclude_unset=True)
        content = await digest(CONFIG, {"patch": sent}, {})

        async def find(header: Header, state: State) -> Entry | None:
            fence(state, generation)
            if version in (None, version_of(state)):
                return None
            if version is not None and version[0] == state.generation:
                entry = await self._behind(header, version, CONFIG, content)
                if entry is not None:
                    return entry
            raise stale(state)

        async def plan(_: Header, state: State) -> Planned:
            changed = altered(state, patch)
            facts = {
                "asked": {"patch": sent},
                "config": changed.config.model_dump(mode="json"),
                "origin": changed.origin,
                "decay_origin": changed.decay_origin,
                "followed": asdict(changed.followed),
            }
            return Planned(0, state.step, canonical(facts), changed.nbytes)

        return Command(CONFIG, content, {}, find, plan)

    async def rewind(
        self, step: int, *, generation: int | None, version: Version | None
    ) -> Command:
        """Go back to what the session was right after a step."""
        content = await digest(REWIND, {"step": step}, {})

        async def find(header: Header, state: State) -> Entry | None:
            if version is not None and version[0] < state.generation:
                entry = await self._behind(header, version, REWIND, content)
                if entry is not None:  # it has raised the generation, so this comes first
                    return entry
            fence(state, generation)
            if version not in (None, version_of(state)):
                raise stale(state)
            return None

        async def plan(header: Header, state: State) -> Planned:
            target = await self._timeline.entry_of(header, state, step)
            facts = {"asked": {"step": step}, "generation": state.generation + 1}
            return Planned(target.seq, step, canonical(facts), past=target.seq)

        return Command(REWIND, content, {}, find, plan)

    async def _behind(
        self, header: Header, version: Version, kind: str, content: bytes
    ) -> Entry | None:
        """Return the entry right behind a version, if it is this command's own."""
        entry = await lookups.at(self._store, header.key, version[1] + 1)
        return entry if entry and entry.kind == kind and entry.digest == content else None


def altered(state: State, changes: Changes) -> State:
    """Return `state` with another configuration, or raise if it cannot be had.

    Raises:
        InvalidConfig: a value is wrong, or the schedule leaves the range of float64.
    """
    config = patched(state.config, changes, stepped=state.stepped)
    changed = replace(state, config=config, groups=resolve(config))
    if state.accumulated and config.accumulate != state.config.accumulate:
        count = f"{state.accumulated} of {state.config.per_update}"
        detail = f"cannot change while the gradients of {count} steps are accumulated"
        raise InvalidConfig(Fault("/accumulate", detail))
    if "freeze" in changes.model_fields_set and state.tensors:
        changed.groups.check(state.tensors)
    if "scheduler" in changes.model_fields_set:
        changed.origin, changed.followed = state.position, NOTHING
    if "weight_decay_scheduler" in changes.model_fields_set:
        changed.decay_origin = state.position
    return changed.usable()  # what cannot be answered is not logged


async def fitting(state: State, file: StateFile) -> Planned:
    """Return the first entry of an empty session that takes `file`.

    Raises:
        InvalidConfig, InvalidTensors: it does not fit.
    """
    if state.tensors or not file.tensors:
        raise InvalidTensors(Fault("/params", "must hold at least one tensor"))
    filled = replace(
        state,
        step=file.step,
        updates=file.step if file.updates is None else file.updates,
        epoch=file.epoch,
        origin=file.origin,
        decay_origin=file.decay_origin,
        followed=file.followed,
    )
    for name, origin in (("origin", file.origin), ("decay_origin", file.decay_origin)):
        if origin > filled.position:
            detail = "the schedule would begin behind the position of the state"
            raise InvalidTensors(Fault(pointer("__metadata__", name), detail))
    _fits_what_was_measured(filled)
    filled.usable()  # what cannot be answered is not logged
    patterns = [*(g.match for g in state.config.param_groups), state.config.freeze]
    matches = len(file.tensors) * sum(map(len, patterns))
    work = total_size(file.tensors) + 10 * matches
    nbytes = await offload(work, _checked_footprint, state, file)
    return Planned(0, file.step, file.record(), nbytes)


def _follows(state: State) -> bool:
    """Whether the session's schedule follows the metrics of epochs."""
    scheduler = state.config.scheduler
    return scheduler is not None and scheduler.needs_metrics


def _fits_what_was_measured(state: State) -> None:
    """Raise unless what is known to be measured leads to where the schedule stands.

    Raises:
        InvalidTensors: it does not, so that the rate would not be known.
    """
    followed, t = state.followed, state.clock()
    if _follows(state) and (followed.measured != t or max(followed.falls, default=0) > t):
        detail = (
            f"knows {followed.measured} measurements, and the scheduler is at its epoch {t}; "
            "load the state into a session without this scheduler, and PATCH it then"
        )
        raise InvalidTensors(Fault("/__metadata__/followed", detail))


async def digest(kind: str, asked: dict[str, Any], tensors: Tensors) -> bytes:
    """Return the content digest of a command."""
    size = total_size(tensors) // ARITHMETIC
    return await offload(size, content_digest, {"kind": kind, **asked}, tensors)


def _checked_footprint(state: State, file: StateFile) -> int:
    """Return the memory that an empty session takes with `file`, or raise."""
    tensors, sums = accumulation.parted(file.tensors)
    state.check(tensors, file.counters, file.scalars)
    accumulation.check(state, tensors, sums, file.accumulated)
    return state.footprint(param_shapes(index(file.tensors)))
