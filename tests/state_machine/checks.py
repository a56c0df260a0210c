"""Comparisons that say what they compared, wherever they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
from session_app import read_file, same
from session_states import Array
from state_machine.drawn import STORAGE
from state_machine.model import PLACE, Moment
from state_machine.oracle import StateFile, same_rates


def equal(got: object, wanted: object, what: str) -> None:
    """Raise unless the service told what it must tell."""
    if got != wanted:
        raise AssertionError(f"{what}: {got!r}, and not {wanted!r}")


def true(holds: bool, what: str) -> None:
    """Raise unless it holds."""
    if not holds:
        raise AssertionError(what)


def answered(answer: httpx.Response, status: int) -> dict[str, Any]:
    """Return the JSON of an answer that must have this status."""
    if answer.status_code != status:
        request = f"{answer.request.method} {answer.request.url}"
        raise AssertionError(f"{request}: {answer.status_code}, and not {status}: {answer.text}")
    told: dict[str, Any] = answer.json() if answer.content else {}
    return told


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Return the problem of an answer that must be this refusal."""
    problem = answered(answer, status)
    equal(problem["code"], code, "the code of a refusal")
    return problem


def same_tensors(got: Mapping[str, Array], wanted: Mapping[str, Array], what: str) -> None:
    """Raise unless tensors are equal in name, dtype, shape and every bit."""
    if not same(got, wanted):
        raise AssertionError(f"{what}: {dict(got)!r}, and not {dict(wanted)!r}")


def params_of(moment: Moment) -> dict[str, Array]:
    """Return the parameters as `GET …/params` tells them: masters rounded to nearest even."""
    storage = STORAGE[moment.dtype]
    file = moment.loaded()
    return {name: file.master(name).astype(storage) for name in file.names}


def same_params(answer: httpx.Response, moment: Moment, what: str) -> None:
    """Raise unless an answer holds the parameters of a moment, as a file or as JSON."""
    wanted = params_of(moment)
    if answer.headers["Content-Type"] != "application/json":
        same_tensors(read_file(answer.content)[0], wanted, what)
        return
    told = answer.json()["params"]
    equal(told.keys(), wanted.keys(), what)
    written = {name: np.asarray(told[name], wanted[name].dtype) for name in wanted}
    same_tensors(written, wanted, what)


def same_facts(file: StateFile, moment: Moment) -> None:
    """Raise unless a state says of itself what the session is."""
    wanted = {key: getattr(moment, key) for key in PLACE} | {"config": dict(moment.config)}
    got = {key: file.facts[key] for key in wanted}
    equal(got, wanted, "what a state says of itself")


def same_decays(got: list[float] | None, moment: Moment, what: str) -> None:
    """Raise unless these are the weight decays of the next step, or none where nothing moves it."""
    wanted = moment.decays()
    if got is None or wanted is None:
        equal(got, wanted, what)
        return
    bases = [group["weight_decay"] for group in moment.groups]
    true(same_rates(got, wanted, bases), f"{what}: {got}, and not {wanted}")
