"""The base of every answer that refuses, whichever layer gives it.

GradstepError
├── InvalidRequest   the content is wrong, and no retry helps
└── NotFound         what was asked for does not exist

`sessions.errors` and `web.errors` draw the rest of the tree. Nothing here knows
HTTP: the web layer maps each class to a status.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Fault:
    """One wrong field or tensor: where it is, and what to do about it."""

    pointer: str
    """A JSON pointer (RFC 6901) into what was sent, such as ``/grads/w/0``."""

    detail: str
    """One sentence: what is wrong and what would be right."""


def pointer(*path: str | int) -> str:
    """Return the JSON pointer (RFC 6901) to `path`, escaped."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


class GradstepError(Exception):
    """The base of all errors that are an answer rather than a defect."""

    code: ClassVar[str]
    """A stable name for programs, part of the wire format."""

    title: ClassVar[str]
    """The class of problem in a few words, the same for every occurrence."""

    def __init__(self, detail: str, **extra: int | str | None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra
        """Further members of the problem document, such as ``expected``."""


class InvalidRequest(GradstepError):
    """Raised when the content is wrong; `faults` names every wrong place found."""

    code = "invalid-request"
    title = "The request is not valid"

    def __init__(self, *faults: Fault) -> None:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"{faults[0].pointer or '/'}: {faults[0].detail}{more}")
        self.faults = faults


class NotFound(GradstepError):
    """The base of what does not exist."""
