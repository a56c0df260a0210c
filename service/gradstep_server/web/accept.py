"""What the client would rather read: the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers

Preference = tuple[float, int]
"""How much a form is wanted, from 0 (not at all) to 1, and how precisely Accept names it."""


def accepted(headers: Headers) -> str:
    """Return what Accept says; all forms are as welcome where it says nothing."""
    return ",".join(headers.getlist("accept")).strip() or "*/*"


def ranges(text: str) -> Mapping[str, float]:
    """Return how much each range of an Accept header is wanted.

    A dtype is the one parameter that makes a form of its own, in lowercase:
    ``application/vnd.safetensors;dtype=bf16``. Others are left out.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        media, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weights = [text[2:] for text in parameters if text.startswith("q=")]
        dtypes = [text.replace('"', "") for text in parameters if text.startswith("dtype=")]
        name = ";".join([media, *dtypes])
        wanted = _weight(weights[0]) if weights else 1.0
        found[name] = max(wanted, found.get(name, 0.0))
    return found


def preference(wanted: Mapping[str, float], name: str, *others: str) -> Preference:
    """Return how much a form is wanted; the most precise range that names it decides.

    Args:
        wanted: what `ranges` returns.
        name: the media type in which the form is written.
        others: further names of it.
    """
    precision = {name: 3, **dict.fromkeys(others, 2)}
    if ";" not in name:
        precision |= {f"{name.partition('/')[0]}/*": 1, "*/*": 0}
    found = [(precise, wanted[media]) for media, precise in precision.items() if media in wanted]
    precise, q = max(found, default=(0, 0.0))
    return q, precise


def _weight(text: str) -> float:
    """Return a q-value; what is none makes its range unwanted."""
    try:
        q = float(text)
    except ValueError:
        return 0.0
    return q if 0 <= q <= 1 else 0.0
