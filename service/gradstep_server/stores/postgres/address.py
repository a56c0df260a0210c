"""The address of a database, and what of it may be shown."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

SCHEMES = ("postgresql://", "postgres://")

_SHOWN = frozenset({"host", "port", "user", "database", "dbname", "sslmode"})
"""Parameters that hold no secret. Others, some of which do, are left out."""


def without_secrets(url: str) -> str:
    """Return the address without the password, for banners and messages.

    Raises:
        ValueError: where the password ends cannot be told. The message holds nothing of it.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _unclear() from None
    account, at, hosts = parts.netloc.rpartition("@")
    beyond = (account, parts.path, parts.query)
    if parts.fragment or any("@" in part for part in beyond):
        raise _unclear()
    user, _, _ = account.partition(":")
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name in _SHOWN]
    scheme = f"{parts.scheme}://" if parts.scheme else ""
    query = f"?{urlencode(kept, safe='/')}" if kept else ""
    return f"{scheme}{user}{at}{hosts}{parts.path}{query}"


def _unclear() -> ValueError:
    return ValueError(
        "the PostgreSQL address cannot be read; it is "
        "postgresql://USER:PASSWORD@HOST:PORT/DATABASE, with what is reserved in the password, "
        "such as @ / ? #, written as %40 %2F %3F %23"
    )
