"""The asynchronous surface is the blocking one, awaited."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import gradstep
from gradstep import _async_client, _client

TWINS = [
    (gradstep.Client, gradstep.AsyncClient),
    (gradstep.Session, gradstep.AsyncSession),
    (_client.Schedules, _async_client.AsyncSchedules),
    (_client.Sessions, _async_client.AsyncSessions),
]


def methods(cls: type) -> dict[str, Callable[..., Any]]:
    own = inspect.getmembers(cls, inspect.isfunction)
    return {name: function for name, function in own if not name.startswith("_")}


def blocking_name(annotation: object) -> str:
    return re.sub(r"\bAsync(?=[A-Z])", "", str(annotation)).replace("AsyncBase", "Base")


@pytest.mark.parametrize(("blocking", "asynchronous"), TWINS)
def test_both_have_the_same_methods(blocking: type, asynchronous: type) -> None:
    assert methods(blocking).keys() == methods(asynchronous).keys()
    assert methods(blocking)


@pytest.mark.parametrize(("blocking", "asynchronous"), TWINS)
def test_both_take_and_give_the_same(blocking: type, asynchronous: type) -> None:
    theirs = methods(asynchronous) | {"__init__": asynchronous.__init__}  # type: ignore[misc]  # read, not called
    ours = methods(blocking) | {"__init__": blocking.__init__}  # type: ignore[misc]  # likewise
    for name, function in ours.items():
        one, other = inspect.signature(function), inspect.signature(theirs[name])
        assert list(one.parameters) == list(other.parameters), name
        for ours_, theirs_ in zip(one.parameters.values(), other.parameters.values(), strict=True):
            assert (ours_.kind, ours_.default) == (theirs_.kind, theirs_.default), name
            assert str(ours_.annotation) == blocking_name(theirs_.annotation), name
        assert str(one.return_annotation) == blocking_name(other.return_annotation), name


@pytest.mark.parametrize(("blocking", "asynchronous"), TWINS)
def test_both_say_the_same_in_their_first_sentence(blocking: type, asynchronous: type) -> None:
    for name, function in methods(blocking).items():
        ours = (inspect.getdoc(function) or "").partition("\n\n")[0]
        theirs = (inspect.getdoc(methods(asynchronous)[name]) or "").partition("\n\n")[0]
        assert ours == theirs, name


@pytest.mark.parametrize(("blocking", "asynchronous"), TWINS)
def test_the_asynchronous_one_is_awaited(blocking: type, asynchronous: type) -> None:
    for name, function in methods(asynchronous).items():
        awaited = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        assert awaited, name
        assert not inspect.iscoroutinefunction(methods(blocking)[name]), name


def test_every_argument_is_documented_where_the_methods_are() -> None:
    for blocking, _ in TWINS:
        for name, function in methods(blocking).items():
            documented = inspect.getdoc(function) or ""
            for parameter in list(inspect.signature(function).parameters)[1:]:
                assert f"    {parameter}: " in documented, (name, parameter)
