"""Everything that a session can refuse, one class per answer.

GradstepError
├── InvalidRequest            the content is wrong, and no retry helps
│   ├── InvalidConfig         a field of the JSON that was sent
│   ├── InvalidTensors        a tensor that was sent: name, shape, dtype, or its encoding
│   └── NonFiniteGradient     a gradient holds NaN or Inf, and the session rejects those
├── NotFound
│   ├── SessionNotFound       no such session
│   └── StepNotFound          no such step or epoch in the log
├── Conflict                  the content is fine, the session stands elsewhere
│   ├── SessionConflict       the id is taken by a session created with other content
│   ├── SessionDeleted        the id belonged to a deleted session and is never reused
│   ├── ParamsMissing         a step was sent before the initial parameters
│   ├── ParamsConflict        other parameters are set already
│   ├── EpochsNotUsed         an epoch was ended where the schedule counts steps
│   ├── PositionMismatch      n is not the next position
│   ├── StepConflict          n was taken with other content
│   └── GenerationMismatch    the client knows another generation of the session
├── PreconditionFailed        If-Match names a version that is not current
├── StepGone                  the step was taken, and what led to it was trimmed
└── Unavailable               nothing is wrong with the request
    ├── StoreUnavailable      the store cannot be reached or failed; safe to retry
    ├── StorageFull           the disk is full: reads go on, writes are refused
    ├── QuotaExceeded         the tenant keeps as much as it may: reads and deletes go on
    ├── Busy                  requests under way take all memory that there is for them
    ├── MemoryExhausted       the session does not fit the memory budget
    └── SessionCorrupt        the stored log does not match its digests

A store raises two more, which a session always handles itself: `SequenceTaken`
(another writer appended first) and `IdTaken` (another writer created first).

This module knows no HTTP: the web layer maps each class to a status.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradstep_server.errors import GradstepError, InvalidRequest, NotFound

if TYPE_CHECKING:
    from gradstep_server.sessions.store import Header


class InvalidConfig(InvalidRequest):
    """Raised when a field of a session's configuration cannot be honoured."""

    code = "invalid-config"
    title = "The configuration is not valid"


class InvalidTensors(InvalidRequest):
    """Raised when a tensor's name, shape, dtype or encoding is wrong."""

    code = "invalid-tensors"
    title = "The tensors are not valid"


class NonFiniteGradient(InvalidRequest):
    """Raised when a gradient is NaN or infinite, or overflows when squared."""

    code = "non-finite-gradient"
    title = "A gradient is not finite"


class SessionNotFound(NotFound):
    """Raised when no session has this id."""

    code = "session-not-found"
    title = "There is no such session"


class StepNotFound(NotFound):
    """Raised when a step or an epoch has not been taken, or was not taken here."""

    code = "step-not-found"
    title = "There is no such step"


class Conflict(GradstepError):
    """The base of what collides with where the session stands."""


class SessionConflict(Conflict):
    """Raised when an id is taken by a session that was created differently."""

    code = "session-conflict"
    title = "The session exists with other content"


class SessionDeleted(Conflict):
    """Raised when an id belonged to a session that was deleted."""

    code = "session-deleted"
    title = "The id belonged to a deleted session"


class ParamsMissing(Conflict):
    """Raised when a session has no parameters to step."""

    code = "params-missing"
    title = "The session has no parameters yet"


class ParamsConflict(Conflict):
    """Raised when the session holds other parameters or has moved on."""

    code = "params-conflict"
    title = "The session has other parameters already"


class EpochsNotUsed(Conflict):
    """Raised when an epoch is ended in a session whose schedule counts steps."""

    code = "epochs-not-used"
    title = "The session does not count epochs"


class PositionMismatch(Conflict):
    """Raised when n is not the next position; `expected` is."""

    code = "position-mismatch"
    title = "This is not the next position"


class StepConflict(Conflict):
    """Raised when position n was taken with other content."""

    code = "step-conflict"
    title = "This position was taken with other content"


class GenerationMismatch(Conflict):
    """Raised when the client's generation is not the session's: it was rewound since."""

    code = "generation-mismatch"
    title = "The session is at another generation"


class PreconditionFailed(GradstepError):
    """Raised when ``If-Match`` names a version that is not current."""

    code = "precondition-failed"
    title = "The session has changed"


class StepGone(GradstepError):
    """Raised when a state is asked for that is not kept any more; `oldest_step` is."""

    code = "step-gone"
    title = "The step is not kept any more"


class Unavailable(GradstepError):
    """The base of what is no fault of the request."""


class StoreUnavailable(Unavailable):
    """Raised when the store fails or cannot be reached."""

    code = "store-unavailable"
    title = "The store is not available"


class StorageFull(Unavailable):
    """Raised when the store has no space left."""

    code = "storage-full"
    title = "The storage is full"


class QuotaExceeded(Unavailable):
    """Raised when a tenant keeps as much as it may."""

    code = "quota-exceeded"
    title = "The tenant's quota is used up"


class Busy(Unavailable):
    """Raised when requests under way leave no memory for another one."""

    code = "busy"
    title = "The service is busy"


class MemoryExhausted(Unavailable):
    """Raised when a session does not fit the memory budget."""

    code = "memory-exhausted"
    title = "The session does not fit in memory"


class SessionCorrupt(Unavailable):
    """Raised when what is stored does not match its digest."""

    code = "session-corrupt"
    title = "The stored session is damaged"


class SequenceTaken(Exception):
    """Raised by a store when an append did not extend the log by exactly one."""

    def __init__(self, head: int) -> None:
        super().__init__(f"the log stands at {head}")
        self.head = head


class IdTaken(Exception):
    """Raised by a store when a session id exists, deleted or not."""

    def __init__(self, header: Header) -> None:
        super().__init__(f"{header.id} exists")
        self.header = header
