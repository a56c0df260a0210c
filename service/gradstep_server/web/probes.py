"""What machines ask every few seconds, to know whether and how a process lives."""

from __future__ import annotations

PROBES = frozenset({"/livez", "/readyz", "/metrics"})
"""Their addresses: a line in the log for each would hide the others, and a process that
is full of connections answers them all the same."""


def is_probe(line: bytes) -> bool:
    """Return whether the first line of a request asks for one of them."""
    method, _, rest = line.partition(b" ")
    path, _, _ = rest.partition(b" ")[0].partition(b"?")
    return method == b"GET" and path.decode("latin-1") in PROBES
