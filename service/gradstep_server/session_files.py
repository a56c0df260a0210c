"""A session's state as a file: written whole or not at all, and read with its configuration."""

from __future__ import annotations

import secrets
from pathlib import Path

from pydantic import ValidationError

from gradstep_server.ending import CannotRun
from gradstep_server.errors import InvalidRequest
from gradstep_server.sessions import safetensors
from gradstep_server.sessions.config import SessionConfig, faults_of
from gradstep_server.sessions.errors import InvalidConfig
from gradstep_server.sessions.safetensors import Limits
from gradstep_server.sessions.store import Body
from gradstep_server.sessions.transfer import StateFile, imported
from gradstep_server.settings import Settings
from gradstep_server.stores.sqlite.disk import fsync
from gradstep_server.web.tensor_bodies import STATE_FACTOR


def write(file: Path, parts: Body) -> None:
    """Write a file durably, under another name until it is whole.

    Raises:
        CannotRun: it cannot be written; what had its name before still has it.
    """
    draft = file.with_name(f"{file.name}.{secrets.token_hex(4)}.unfinished")
    try:
        with draft.open("xb") as out:
            for part in parts:
                out.write(part)
        fsync(draft)
        draft.replace(file)
        fsync(file.parent)
    except OSError as error:
        raise CannotRun(f"cannot write {file}: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def read(file: Path, settings: Settings) -> tuple[SessionConfig, StateFile, int]:
    """Return the configuration and the state that a file carries, and its size.

    Raises:
        CannotRun: it cannot be read, or is no such file.
    """
    limits = Limits(settings.max_header_size * STATE_FACTOR, settings.max_tensors * STATE_FACTOR)
    try:
        content = memoryview(file.read_bytes())
        tensors, metadata = safetensors.decode(content, limits)
        state = imported(tensors, metadata)
        config = SessionConfig.model_validate_json(metadata.get("config", "{}"))
    except OSError as error:
        raise CannotRun(f"cannot read {file}: {error.strerror or error}") from error
    except ValidationError as error:
        wrong = InvalidConfig(*faults_of(error, "__metadata__", "config"))
        raise CannotRun(f"{file}: {wrong.detail}") from None
    except InvalidRequest as error:
        raise CannotRun(f"{file}: {error.detail}") from None
    return config, state, len(content)
