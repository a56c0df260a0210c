"""What a session was created as: the form of `Header.record`, written and proven."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.digests import canonical, record_digest
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.store import Entry, Header, Ref


@dataclass(frozen=True, slots=True)
class Origin:
    """What a fork was made of."""

    id: str
    """The session that it comes from."""

    step: int
    """The step after which it goes its own way."""

    generation: int
    """The generation of the session when it was forked."""

    asked: dict[str, Any]
    """What the client asked for, by which a retry is recognised."""


def header_of(
    ref: Ref, config: SessionConfig, entry: Entry | None, now: float, fork: Origin | None = None
) -> Header:
    """Return the header of a new session.

    Its digest covers the configuration and the content of the first entry.
    """
    params = entry.digest.hex() if entry else None
    facts: dict[str, Any] = {"config": config.model_dump(mode="json"), "params": params}
    if fork is not None:
        facts["fork"] = asdict(fork)
    record = canonical(facts)
    return Header(*ref, secrets.token_hex(16), record, record_digest(record), now)


def origin_of(header: Header) -> Origin | None:
    """Return what a session is a fork of."""
    fork = _proven(header).get("fork")
    return None if fork is None else Origin(**fork)


def config_of(header: Header) -> SessionConfig:
    """Return what the session was created with, after proving that it is what was written.

    Raises:
        SessionCorrupt: the record does not match its digest.
    """
    return SessionConfig.model_validate(_proven(header)["config"])


def begin_alike(one: Header, other: Header) -> bool:
    """Return whether two sessions were created from the same configuration and content.

    Configurations are compared as they are read: those that an earlier version wrote
    lack fields that have a default.

    Raises:
        SessionCorrupt: a record does not match its digest.
    """
    if one.digest == other.digest:
        return True
    facts = [{**_proven(header), "config": config_of(header)} for header in (one, other)]
    return facts[0] == facts[1]


def begins_filled(header: Header) -> bool:
    """Return whether the session was created together with its first entry."""
    return _proven(header)["params"] is not None


def _proven(header: Header) -> dict[str, Any]:
    if record_digest(header.config) != header.digest:
        raise SessionCorrupt(f"the configuration of session {header.id!r} is damaged")
    facts: dict[str, Any] = orjson.loads(header.config)
    return facts
