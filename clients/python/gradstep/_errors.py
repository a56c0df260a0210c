"""Everything that the SDK raises on its own account, one class per problem code.

GradstepError
├── ConnectionFailed              no answer came, after all retries
├── AnswerMalformed               an answer came that no gradstep server sends
├── ClientClosed                  a call came after `close`; also a RuntimeError
└── ApiError                      the server answered with a problem
    ├── BadRequest                400
    │   ├── MalformedRequest      malformed-request
    │   └── MalformedBody         malformed-body
    ├── Unauthenticated           401, unauthenticated
    ├── Forbidden                 403, forbidden; `role` is the one that the key needs
    ├── InvalidRequest            422, invalid-request
    │   ├── InvalidConfig         invalid-config
    │   ├── InvalidTensors        invalid-tensors
    │   └── NonFiniteGradient     non-finite-gradient
    ├── NotFound                  404, not-found
    │   ├── UnknownKind           unknown-kind
    │   ├── SessionNotFound       session-not-found
    │   └── StepNotFound          step-not-found
    ├── MethodNotAllowed          405, method-not-allowed
    ├── NotAcceptable             406, not-acceptable
    ├── RequestTimeout            408, request-timeout
    ├── Conflict                  409
    │   ├── SessionConflict       session-conflict
    │   ├── SessionDeleted        session-deleted
    │   ├── ParamsMissing         params-missing
    │   ├── ParamsConflict        params-conflict
    │   ├── EpochsNotUsed         epochs-not-used
    │   ├── PositionMismatch      position-mismatch; `expected` is the next position
    │   ├── StepConflict          step-conflict; `expected` likewise
    │   └── GenerationMismatch    generation-mismatch; `generation` is the current one
    ├── StepGone                  410, step-gone; `oldest_step` is the first that is kept
    ├── PreconditionFailed        412, precondition-failed
    ├── BodyTooLarge              413, body-too-large
    ├── UnsupportedMediaType      415, unsupported-media-type
    ├── TooManyRequests           429, too-many-requests
    ├── Unavailable               502, 503, 504, 507
    │   ├── StoreUnavailable      store-unavailable
    │   ├── StorageFull           storage-full
    │   ├── QuotaExceeded         quota-exceeded
    │   ├── Busy                  busy
    │   ├── MemoryExhausted       memory-exhausted
    │   ├── TooManyConnections    too-many-connections
    │   └── Draining              draining
    └── ServerError               500 and other 5xx
        ├── InternalError         internal-error
        └── SessionCorrupt        session-corrupt

A code that this version does not know gets the class of its status.
What the caller got wrong before anything was sent is a ValueError or TypeError.
"""

from __future__ import annotations

from typing import ClassVar

from gradstep._types import Fault, Problem


class GradstepError(Exception):
    """The base of all errors of this package."""


class ConnectionFailed(GradstepError):
    """Raised when no answer came: no connection, a broken one, or a timeout.

    The request may have been applied. Repeat the same call: a step that was
    taken already is answered as replayed and not taken twice.
    """

    def __init__(self, detail: str, request_id: str) -> None:
        super().__init__(detail, request_id)
        self.detail = detail
        """What was sent, how often, and how the last attempt ended."""
        self.request_id = request_id
        """The name of the request in the server's log, if it arrived."""

    def __str__(self) -> str:
        return f"{self.detail} (request {self.request_id})"


class AnswerMalformed(GradstepError):
    """Raised when an answer cannot be read, such as the page of a proxy."""


class ClientClosed(GradstepError, RuntimeError):
    """Raised when a client that was closed, or a session of its, is to send or repeat a call."""


class ApiError(GradstepError):
    """Raised when the server refused; the base of one class per code."""

    problem_code: ClassVar[str | None] = None
    """The code that this class stands for; None for a whole status."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem
        """All that the server said, with `errors`, `retry_after` and `extra`."""

    def __str__(self) -> str:
        name = f"{self.status} {self.code or type(self).__name__}"
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{name}: {self.detail}{request}"

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def code(self) -> str | None:
        """The stable name of the problem; None where no gradstep server spoke."""
        return self.problem.code

    @property
    def detail(self) -> str:
        """What happened and what to do."""
        return self.problem.detail

    @property
    def pointer(self) -> str | None:
        """The first wrong field or tensor, as a JSON pointer."""
        return self.problem.pointer

    @property
    def errors(self) -> tuple[Fault, ...]:
        """Every wrong field or tensor that was found."""
        return self.problem.errors

    @property
    def request_id(self) -> str | None:
        """The name of the request in the server's log."""
        return self.problem.request_id

    def _whole_number(self, member: str) -> int | None:
        value = self.problem.extra.get(member)
        return value if isinstance(value, int) else None


class BadRequest(ApiError):
    """Raised when the request could not be read (400)."""


class MalformedRequest(BadRequest):
    """Raised when the server cannot read the head: an address is too long, or it is not HTTP."""

    problem_code = "malformed-request"


class MalformedBody(BadRequest):
    """Raised when the body is broken: truncated, or not what its type says."""

    problem_code = "malformed-body"


class Unauthenticated(ApiError):
    """Raised when the server wants a key, and none was sent that is in force (401)."""

    problem_code = "unauthenticated"


class Forbidden(ApiError):
    """Raised when the key's role does not allow the call (403)."""

    problem_code = "forbidden"

    @property
    def role(self) -> str | None:
        """The role that the key needs."""
        value = self.problem.extra.get("role")
        return value if isinstance(value, str) else None


class InvalidRequest(ApiError):
    """Raised when the content is wrong (422); `errors` names every wrong place."""

    problem_code = "invalid-request"


class InvalidConfig(InvalidRequest):
    """Raised when a field of a session's configuration cannot be honoured."""

    problem_code = "invalid-config"


class InvalidTensors(InvalidRequest):
    """Raised when a tensor's name, shape, dtype or encoding is wrong."""

    problem_code = "invalid-tensors"


class NonFiniteGradient(InvalidRequest):
    """Raised when a gradient is NaN or infinite and the session rejects those."""

    problem_code = "non-finite-gradient"


class NotFound(ApiError):
    """Raised when what was asked for does not exist (404)."""

    problem_code = "not-found"


class UnknownKind(NotFound):
    """Raised when no scheduler or optimizer has this name."""

    problem_code = "unknown-kind"


class SessionNotFound(NotFound):
    """Raised when no session has this id."""

    problem_code = "session-not-found"


class StepNotFound(NotFound):
    """Raised when a step or an epoch has not been taken."""

    problem_code = "step-not-found"


class MethodNotAllowed(ApiError):
    """Raised when a route does not know the method (405)."""

    problem_code = "method-not-allowed"


class NotAcceptable(ApiError):
    """Raised when the server cannot answer in the wanted form (406)."""

    problem_code = "not-acceptable"


class RequestTimeout(ApiError):
    """Raised when the request came more slowly than the server waits for (408)."""

    problem_code = "request-timeout"


class Conflict(ApiError):
    """Raised when the content collides with where the session stands (409)."""

    @property
    def expected(self) -> int | None:
        """The position that the session takes next, where the position was the matter."""
        return self._whole_number("expected")


class SessionConflict(Conflict):
    """Raised when the id is taken by a session created with other content."""

    problem_code = "session-conflict"


class SessionDeleted(Conflict):
    """Raised when the id belonged to a deleted session; it is never reused."""

    problem_code = "session-deleted"


class ParamsMissing(Conflict):
    """Raised when the session has no parameters yet."""

    problem_code = "params-missing"


class ParamsConflict(Conflict):
    """Raised when the session holds other parameters or has moved on."""

    problem_code = "params-conflict"


class EpochsNotUsed(Conflict):
    """Raised when an epoch is ended in a session whose schedule counts steps."""

    problem_code = "epochs-not-used"


class PositionMismatch(Conflict):
    """Raised when the position that was sent is not the next one."""

    problem_code = "position-mismatch"


class StepConflict(Conflict):
    """Raised when the position was taken with other content."""

    problem_code = "step-conflict"


class GenerationMismatch(Conflict):
    """Raised when the session was rewound, or lost relaxed steps, since this client looked."""

    problem_code = "generation-mismatch"

    @property
    def generation(self) -> int | None:
        """The session's present generation."""
        return self._whole_number("generation")


class StepGone(ApiError):
    """Raised when a step lies before those that the session can go back to (410)."""

    problem_code = "step-gone"

    @property
    def oldest_step(self) -> int | None:
        """The first step that the session can go back to."""
        return self._whole_number("oldest_step")


class PreconditionFailed(ApiError):
    """Raised when the session has changed since it was last read (412)."""

    problem_code = "precondition-failed"


class BodyTooLarge(ApiError):
    """Raised when the body exceeds the server's limit (413)."""

    problem_code = "body-too-large"


class UnsupportedMediaType(ApiError):
    """Raised when the server does not read bodies of this type (415)."""

    problem_code = "unsupported-media-type"


class TooManyRequests(ApiError):
    """Raised when requests came too fast, after all retries (429)."""

    problem_code = "too-many-requests"


class Unavailable(ApiError):
    """Raised when nothing is wrong with the request (502, 503, 504, 507)."""


class StoreUnavailable(Unavailable):
    """Raised when the server's store fails or cannot be reached."""

    problem_code = "store-unavailable"


class StorageFull(Unavailable):
    """Raised when the server's store has no space left."""

    problem_code = "storage-full"


class QuotaExceeded(Unavailable):
    """Raised when the tenant keeps as much as it may; deleting a session makes room."""

    problem_code = "quota-exceeded"


class Busy(Unavailable):
    """Raised when other requests take all memory that there is for them, after all retries."""

    problem_code = "busy"


class MemoryExhausted(Unavailable):
    """Raised when a session does not fit the server's memory."""

    problem_code = "memory-exhausted"


class TooManyConnections(Unavailable):
    """Raised when the server has as many connections as it may have."""

    problem_code = "too-many-connections"


class Draining(Unavailable):
    """Raised when the server is about to end."""

    problem_code = "draining"


class ServerError(ApiError):
    """Raised when the server failed (500 and other 5xx)."""


class InternalError(ServerError):
    """Raised when the server met a defect of its own; its log says which."""

    problem_code = "internal-error"


class SessionCorrupt(ServerError):
    """Raised when what is stored does not match its digest."""

    problem_code = "session-corrupt"
