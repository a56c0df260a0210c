"""Every setting of the service: a field here, a ``GRADSTEP_*`` variable, a flag of the CLI.

The field's docstring is its description everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal

from limits import RateLimitItem, parse_many
from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from gradstep_server.memory_limit import memory_limit

PREFIX = "GRADSTEP_"

_ITSELF = 256 * 2**20
"""Bytes for the process itself, for some hundred connections, and for the holes in its heaps."""


def _part(parts: int) -> Callable[[dict[str, Any]], ByteSize]:
    """Return what gives one of so many parts of a worker's memory for sessions and requests."""

    def default(settings: dict[str, Any]) -> ByteSize:
        available = memory_limit() // settings.get("workers", 1)
        return ByteSize(max(available - _ITSELF, available // 4) // parts)

    return default


class Settings(BaseSettings):
    """How the service runs. A flag wins over the environment, the environment over a default."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    host: str = "127.0.0.1"
    """The address to listen on; 0.0.0.0 for all of the machine's."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """The port to listen on; 0 picks a free one."""

    uds: Path | None = None
    """The path of a Unix socket to listen on, instead of host and port."""

    ssl_certfile: Path | None = None
    """The certificate chain, in PEM, with which to speak TLS; by default plain HTTP is spoken."""

    ssl_keyfile: Path | None = None
    """The certificate's private key, in PEM, without a password; by default it stands with the
    certificate."""

    keys_file: Path | None = None
    """The file that says which keys there are; by default keys.jsonl in the store's directory,
    if it has one."""

    first_key_file: Path | None = None
    """Where to write a key of role admin that is made when the service starts and there is no
    file of keys; by default none is made."""

    allow_anonymous: bool = False
    """Serve without keys beyond this machine too, as long as there is no file of keys."""

    public_curves: bool = True
    """Curves, the catalogue and backpropagation need no key, so that a page can show them."""

    store: str = "sqlite:///gradstep-data"
    """Where sessions are kept: sqlite:///DIR (four slashes for an absolute path),
    postgresql://USER@HOST/DATABASE, or memory://."""

    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """The number of processes. With one, the process owns its store and need not ask it."""

    max_body_size: Annotated[ByteSize, Field(ge=1024)] = ByteSize(2**30)
    """The largest body of a request, such as 512MB or 1GiB."""

    max_tensors: Annotated[int, Field(ge=1)] = 4096
    """The most tensors in a session or a body."""

    max_header_size: Annotated[ByteSize, Field(ge=8)] = ByteSize(2**20)
    """The largest header of a safetensors body."""

    max_points: Annotated[int, Field(ge=1)] = 10_000_000
    """The most numbers in one curve: its points times its parameter groups."""

    max_sessions: Annotated[int, Field(ge=1)] = 10_000
    """The most sessions of a tenant."""

    max_tenant_size: Annotated[ByteSize, Field(ge=1024)] | None = None
    """The most bytes that a tenant's sessions take in the store; by default no limit."""

    max_store_size: Annotated[ByteSize, Field(ge=1024)] | None = None
    """The most bytes that all sessions take in the store; by default no limit."""

    rate_limit: str | None = None
    """The most requests of a tenant, or of an address without a key, that a process answers,
    such as 100/second or 100/second;5000/minute; by default as many as it can."""

    memory_budget: ByteSize = Field(default_factory=_part(2))
    """The most bytes of session state kept in memory; by default half of what there is.
    This and what follows of memory is for each worker."""

    request_memory: Annotated[ByteSize, Field(ge=2**20)] = Field(default_factory=_part(4))
    """The most bytes that the bodies and answers of requests under way take together, a body
    at most half of them; by default a quarter of what there is."""

    buffer_memory: ByteSize = Field(default_factory=_part(8))
    """The most bytes of bodies and answers kept in memory for the next ones, which saves
    large steps the time to clear new memory; by default an eighth of what there is."""

    snapshot_factor: Annotated[float, Field(ge=0)] = 4
    """A snapshot is taken when the log since the last one exceeds so many times the
    session's state (and 16 MiB): fewer cost less, more make loading quicker."""

    snapshot_steps: Annotated[int, Field(ge=1)] | None = None
    """A snapshot is also taken after so many steps; by default the log alone decides."""

    snapshot_seconds: Annotated[float, Field(gt=0)] | None = None
    """A snapshot is also taken with the first step after so many seconds."""

    session_ttl: Annotated[float, Field(gt=0)] | None = None
    """Seconds without a write after which a session is deleted; by default never."""

    cors_origins: Annotated[tuple[str, ...], NoDecode] = ("*",)
    """Origins whose pages may read curves and the catalogue, separated by commas; * for all."""

    header_timeout: Annotated[float, Field(gt=0)] = 10
    """Seconds in which the head of a request must be whole, and a TLS handshake done."""

    min_rate: ByteSize = ByteSize(1024)
    """Bytes a second, over 20 seconds, that a body must come with, and an answer be read
    with; 0 for no limit."""

    keep_alive: Annotated[int, Field(ge=1)] = 5
    """Seconds after which a connection without a request is closed."""

    max_connections: Annotated[int, Field(ge=1)] = 4096
    """The most connections to one process; further ones are told to come later."""

    log_level: Literal["critical", "error", "warning", "info", "debug"] = "info"
    """The least severe messages that are logged."""

    log_format: Literal["json", "text"] | None = None
    """How a line of the log is written; by default as text on a terminal, as JSON elsewhere."""

    access_log: bool = True
    """Whether every request gets a line in the log; those of probes get one at level debug."""

    drain_seconds: Annotated[float, Field(ge=0, le=3600)] = 0
    """Seconds after SIGTERM in which all is served as before, while /readyz says that the
    service is draining, so that a balancer can notice; a second signal cuts them short."""

    otel: bool = False
    """Whether traces go where OTEL_EXPORTER_OTLP_ENDPOINT says; needs gradstep-server[otel]."""

    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads that compute a step; by default one per core."""

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("rate_limit")
    @classmethod
    def _is_a_rate(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_many(value)
            except ValueError:
                raise ValueError("must be rates such as 100/second;5000/minute") from None
        return value

    @property
    def rates(self) -> tuple[RateLimitItem, ...]:
        """The limits that `rate_limit` names."""
        return () if self.rate_limit is None else tuple(parse_many(self.rate_limit))

    @property
    def largest_body(self) -> int:
        """The most bytes of a body: as many as are allowed, and fit."""
        return min(self.max_body_size, self.request_memory // 2)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        if self.uds is not None or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    @model_validator(mode="after")
    def _a_key_belongs_to_a_certificate(self) -> Settings:
        if self.ssl_keyfile is not None and self.ssl_certfile is None:
            raise ValueError("--ssl-keyfile is of no use without --ssl-certfile")
        return self

    @model_validator(mode="after")
    def _workers_share_a_store(self) -> Settings:
        if self.workers > 1 and self.store.startswith("memory:"):
            msg = (
                f"{self.workers} workers cannot share a store in memory: each would have its own "
                "sessions. Use --workers 1 or a store such as sqlite:///gradstep-data"
            )
            raise ValueError(msg)
        return self


def variable(field: str) -> str:
    """Return the environment variable that sets a field."""
    return PREFIX + field.upper()
