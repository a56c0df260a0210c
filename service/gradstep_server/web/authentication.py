"""Which requests need a key, of which role, and whose sessions they then see."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from gradstep_server.errors import GradstepError
from gradstep_server.keys import ANYONE, Holder, Keyring, Role, token
from gradstep_server.web.errors import Forbidden, Unauthenticated
from gradstep_server.web.problems import render
from gradstep_server.web.stateless import is_stateless

PUBLIC = frozenset({"/", "/livez", "/readyz", "/version", "/openapi.json", "/docs"})
"""The addresses that never need a key; beside them, the files of the documentation."""

_HOLDER = "holder"
_ROLE_OF_METHOD: Mapping[str, Role] = {
    "GET": "read",
    "HEAD": "read",
    "OPTIONS": "read",
    "DELETE": "admin",
}
"""What a method needs; any other one writes."""

_ROLE_OF_PATH: Mapping[str, Role] = {"/metrics": "admin"}
"""What an address needs, whatever the method: the figures are of all tenants."""


def is_public(path: str) -> bool:
    """Say whether an address never needs a key."""
    return path in PUBLIC or path.startswith("/docs/")


def needed_role(method: str, path: str) -> Role:
    """Return the role that a request needs where it needs a key, whether or not the route exists.

    So a route that is added needs a key unless somebody says here that it does not.
    """
    if is_stateless(path):
        return "read"
    return _ROLE_OF_PATH.get(path) or _ROLE_OF_METHOD.get(method, "write")


def holder_of(request: Request) -> Holder:
    """Return who a request comes from. A request that needed no key has no answer to that."""
    holder: Holder = request.scope["state"][_HOLDER]
    return holder


def known_holder(scope: Scope) -> Holder | None:
    """Return who a request comes from, None for one that needed no key."""
    holder: Holder | None = scope.get("state", {}).get(_HOLDER)
    return holder


class Authentication:
    """ASGI middleware: lets in who has a key that is good for what is asked.

    It answers before anything of a body is read, and before it is known whether
    the route, or the session, exists.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, *, public_curves: bool) -> None:
        self.app = app
        self.keyring = keyring
        self.public_curves = public_curves

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the call on with its holder, or refuse it."""
        if scope["type"] == "http" and not self._is_public(scope["path"]):
            try:
                holder = self._holder(Headers(scope=scope))
                _require(needed_role(scope["method"], scope["path"]), holder)
            except GradstepError as error:
                refusal = render(Request(scope), error, {"WWW-Authenticate": _challenge(error)})
                await refusal(scope, receive, send)
                return
            scope.setdefault("state", {})[_HOLDER] = holder
        await self.app(scope, receive, send)

    def _is_public(self, path: str) -> bool:
        return is_public(path) or (self.public_curves and is_stateless(path))

    def _holder(self, headers: Headers) -> Holder:
        if not self.keyring.needed:
            return ANYONE
        sent = _sent(headers)
        if not token.is_whole(sent):
            raise Unauthenticated("what was sent is no key, or not the whole of one")
        key = self.keyring.find(sent)
        if key is None:
            raise Unauthenticated("this key is unknown, was revoked, or has expired")
        return key


def _sent(headers: Headers) -> str:
    """Return the key that was sent, whatever it is."""
    given = headers.getlist("authorization")
    scheme, _, credentials = given[0].partition(" ") if len(given) == 1 else ("", "", "")
    if scheme.lower() != "bearer":
        raise Unauthenticated("send a key once, as `Authorization: Bearer KEY`")
    return credentials.strip()


def _require(needed: Role, holder: Holder) -> None:
    if not holder.allows(needed):
        raise Forbidden(
            f"this needs a key of role {needed}, and this one's is {holder.role}", role=needed
        )


def _challenge(error: GradstepError) -> str:
    """Return what tells a client's library what to send (RFC 6750)."""
    if isinstance(error, Forbidden):
        return f'Bearer error="insufficient_scope", scope="{error.extra["role"]}"'
    return "Bearer"
