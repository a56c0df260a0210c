"""A key as it is kept: whose it is and what it may do, without what is sent."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, get_args

from pydantic import AwareDatetime, BaseModel, ConfigDict, StringConstraints

TENANT = "default"
"""The tenant of a key that names none, and of everyone where there are no keys."""

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"
"""What a key and a tenant may be called."""

Role = Literal["read", "write", "admin"]
"""What a key may do, within its tenant: ``read`` sees everything, ``write`` creates and steps
sessions too, ``admin`` deletes them too."""

ROLES: tuple[Role, ...] = get_args(Role)
"""Each may do what those before it may."""

Name = Annotated[str, StringConstraints(pattern=NAME)]


class Holder(BaseModel):
    """Who a request comes from: the tenant whose sessions it sees, and what it may do with them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    role: Role
    tenant: Name = TENANT

    def allows(self, needed: Role) -> bool:
        """Say whether the holder may do what needs a role."""
        return ROLES.index(self.role) >= ROLES.index(needed)


ANYONE = Holder(name="anyone", role="admin")
"""Who a request comes from where no key is asked for."""


class Key(Holder):
    """A line of the file of keys."""

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None

    @property
    def id(self) -> str:
        """What tells this key from others of the same name, and is of no use to anyone else."""
        return self.sha256[:12]

    def has_expired(self) -> bool:
        """Say whether its time is over."""
        return self.expires_at is not None and self.expires_at <= datetime.now(UTC)

    def ending_in(self, seconds: float) -> Key:
        """Return the key as one that ends after so many seconds, if it does not end before."""
        end = now() + timedelta(seconds=seconds)
        return self.model_copy(update={"expires_at": min(end, self.expires_at or end)})


def now() -> datetime:
    """Return the time, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)
