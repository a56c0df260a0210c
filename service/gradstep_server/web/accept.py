"""What the client would rather read: the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from starlette.datastructures import Headers

Preference = tuple[float, int]
"""How much a form is wanted, from 0 (not at all) to 1, and how precisely Accept names it."""


def preference(headers: Headers, name: str, *others: str) -> Preference:
    """Return how much a form is wanted; the most precise range that names it decides.

    Args:
        headers: the request's.
        name: the media type in which the form is written.
        others: further names of it.
    """
    text = ",".join(headers.getlist("accept")).strip() or "*/*"
    return _preference(text, name, others)


@lru_cache(maxsize=256)
def _preference(text: str, name: str, others: tuple[str, ...]) -> Preference:
    precision = {"*/*": 0, f"{name.partition('/')[0]}/*": 1, **dict.fromkeys(others, 2), name: 3}
    found = [(precision[media], q) for media, q in _ranges(text) if media in precision]
    precise, q = max(found, default=(0, 0.0))
    return q, precise


def _ranges(text: str) -> Iterator[tuple[str, float]]:
    """Yield each media range with its q-value."""
    for part in text.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights = [text[2:] for text in parameters if text.startswith("q=")]
        yield media, _weight(weights[0]) if weights else 1.0


def _weight(text: str) -> float:
    """Return a q-value; what is none makes its range unwanted."""
    try:
        q = float(text)
    except ValueError:
        return 0.0
    return q if 0 <= q <= 1 else 0.0
