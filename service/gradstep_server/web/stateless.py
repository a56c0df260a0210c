"""What reads and changes nothing but what the request carries."""

from __future__ import annotations

STATELESS = ("/v1/schedules", "/v1/schedulers", "/v1/optimizers", "/v1/backprop")
"""Where the addresses of such routes begin."""

_WITHIN = tuple(f"{prefix}/" for prefix in STATELESS)


def is_stateless(path: str) -> bool:
    """Say whether the route of an address has no state."""
    return path.startswith(_WITHIN) or path in STATELESS
