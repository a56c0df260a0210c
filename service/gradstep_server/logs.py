"""What is logged and how: one form for our own lines and those of the server beneath.

Whoever logs uses the standard library and knows nothing of forms. Lines go to
standard error: as JSON, one object a line, or as text for a terminal. A line
that was logged on a request's behalf carries the request's id.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from gradstep_server.web import request_id
from gradstep_server.web.probes import PROBES
from gradstep_server.web.served import Served

Form = Literal["json", "text"]

_REQUESTS = logging.getLogger("gradstep_server.requests")


def configuration(level: str, form: Form | None) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` is given, in each process.

    Args:
        level: the least severe that is logged.
        form: how a line is written; if None, as text on a terminal and as JSON elsewhere.
    """
    loggers = ("uvicorn", "uvicorn.error", "gradstep_server")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"lines": {"()": formatter, "form": form}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "lines"}},
        "loggers": {
            name: {"handlers": ["stderr"], "level": level.upper(), "propagate": False}
            for name in loggers
        },
        "root": {"handlers": ["stderr"], "level": "WARNING"},
    }


def formatter(form: Form | None) -> logging.Formatter:
    """Return what turns a record into a line."""
    on_terminal = sys.stderr.isatty()
    render: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    kind = structlog.stdlib.ProcessorFormatter
    if (form or ("text" if on_terminal else "json")) == "json":
        render += [structlog.processors.format_exc_info, _json]
        kind = _JsonLines
    else:
        render.append(structlog.dev.ConsoleRenderer(colors=on_terminal))
    return kind(
        foreign_pre_chain=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            structlog.stdlib.ExtraAdder(),
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _described,
        ],
        processors=render,
    )


class _RequestRecord(logging.LogRecord):
    """The record of a request, which knows what it says beside its message."""

    __slots__ = ("facts",)
    facts: dict[str, Any]


class _JsonLines(structlog.stdlib.ProcessorFormatter):
    """Writes the line of a request at once: the way of every other takes longer than a curve."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the same line as for a record of any class."""
        if not isinstance(record, _RequestRecord):
            return super().format(record)
        line = {
            "event": record.msg,
            "level": record.levelname.lower(),
            "logger": record.name,
            **record.facts,
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        return orjson.dumps(line).decode()


class RequestLines:
    """A watcher of requests that logs each with one line."""

    def began(self) -> None:
        """Log nothing yet."""

    def ended(self, served: Served) -> None:
        """Log the request."""
        level = logging.DEBUG if served.route in PROBES else logging.INFO
        if not _REQUESTS.isEnabledFor(level):
            return
        tenant, session = served.session or (None, None)
        facts = {
            "method": served.method,
            "route": served.route,
            "path": served.path,
            "status": served.status,
            "problem": served.problem,
            "tenant": tenant,
            "session": session,
            "ms": _ms(served.seconds),
            "bytes_in": served.received,
            "bytes_out": served.sent,
            "request_id": served.request_id,
            "phases_ms": {name: _ms(seconds) for name, seconds in served.phases.items()} or None,
        }
        known = {name: fact for name, fact in facts.items() if fact is not None}
        message = "request" if served.status is not None else "request given up"
        # As `log` does, which would first walk up the stack to find out where it was called.
        record = _RequestRecord(_REQUESTS.name, level, "", 0, message, (), None)
        record.facts = known
        record.__dict__.update(known)
        _REQUESTS.handle(record)


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _described(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Add the request's id, and leave out what uvicorn repeats in colour."""
    line.pop("color_message", None)
    if "request_id" not in line and (current := request_id.current.get()) is not None:
        line["request_id"] = current
    return line


def _json(_: WrappedLogger, __: str, line: EventDict) -> str:
    return orjson.dumps(line, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
