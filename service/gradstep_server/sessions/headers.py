"""What a session was created as: the form of `Header.record`, written and proven."""

from __future__ import annotations

import secrets

import orjson

from gradstep_server.sessions.config import SessionConfig
from gradstep_server.sessions.digests import canonical, record_digest
from gradstep_server.sessions.errors import SessionCorrupt
from gradstep_server.sessions.store import Entry, Header


def header_of(
    tenant: str, session_id: str, config: SessionConfig, entry: Entry | None, now: float
) -> Header:
    """Return the header of a new session.

    Its digest covers the configuration and the content of the first entry, by
    which a retry of the creation is recognised.
    """
    params = entry.digest.hex() if entry else None
    record = canonical({"config": config.model_dump(mode="json"), "params": params})
    return Header(tenant, session_id, secrets.token_hex(16), record, record_digest(record), now)


def config_of(header: Header) -> SessionConfig:
    """Return what the session was created with, after proving that it is what was written.

    Raises:
        SessionCorrupt: the record does not match its digest.
    """
    if record_digest(header.config) != header.digest:
        raise SessionCorrupt(f"the configuration of session {header.id!r} is damaged")
    return SessionConfig.model_validate(orjson.loads(header.config)["config"])
