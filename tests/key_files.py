"""A file of keys with everyone in it who may come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gradstep_server.keys import KeyFile, Role, changes, token

OURS, THEIRS = "ours", "theirs"
"""The two tenants."""


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


@dataclass(frozen=True)
class Callers:
    """The keys of a file, as they are sent."""

    file: Path
    keys: dict[Role, str]
    """Of tenant `OURS`, by role."""

    other: str
    """An admin key of tenant `THEIRS`."""

    revoked: str
    wrong: str
    """One that is whole and was never made."""


def callers(path: Path) -> Callers:
    """Make a file of keys."""
    file = KeyFile(path)
    roles: tuple[Role, ...] = ("read", "write", "admin")
    keys = {role: changes.create(file, role, role, OURS) for role in roles}
    other = changes.create(file, "other", "admin", THEIRS)
    revoked = changes.create(file, "revoked", "admin", OURS)
    changes.revoke(file, "revoked")
    return Callers(path, keys, other, revoked, token.make())
