"""There is one class for every problem that a server can name."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import gradstep
import gradstep_server.errors as base_errors
import gradstep_server.sessions.errors as session_errors
import gradstep_server.web.errors as web_errors
from gradstep import _errors
from gradstep._refusals import CLASS_OF_CODE, CLASS_OF_STATUS, error_for
from gradstep_server.web import problems

README = Path(__file__).parents[2] / "clients" / "python" / "README.md"

CLASSES = [
    value
    for value in vars(_errors).values()
    if isinstance(value, type) and issubclass(value, gradstep.GradstepError)
]


def codes_of_the_server() -> set[str]:
    classes = [
        *vars(base_errors).values(),
        *vars(session_errors).values(),
        *vars(web_errors).values(),
    ]
    named = {
        str(vars(value)["code"])
        for value in classes
        if isinstance(value, type)
        and issubclass(value, base_errors.GradstepError)
        and "code" in vars(value)
    }
    return named | {code for code, _ in problems._FRAMEWORK_CODES.values()}


def test_every_code_of_the_server_has_its_class() -> None:
    codes = codes_of_the_server()
    assert len(codes) > 20
    assert codes <= CLASS_OF_CODE.keys()


@pytest.mark.parametrize(
    "code",
    [
        "invalid-request",
        "malformed-body",
        "not-found",
        "unknown-kind",
        "method-not-allowed",
        "not-acceptable",
        "body-too-large",
        "unsupported-media-type",
        "internal-error",
    ],
)
def test_every_code_of_the_framework_has_its_class(code: str) -> None:
    assert CLASS_OF_CODE[code].problem_code == code


def test_a_code_of_the_server_has_a_class_of_the_same_name() -> None:
    for value in vars(session_errors).values():
        if isinstance(value, type) and "code" in vars(value) and "title" in vars(value):
            assert CLASS_OF_CODE[str(vars(value)["code"])].__name__ == value.__name__


def test_the_tree_at_the_top_of_the_module_is_the_tree_of_the_classes() -> None:
    """Each line names a class, its depth says its base, and its code stands beside it."""
    path: list[str] = []
    drawn = {}
    for line in (_errors.__doc__ or "").splitlines():
        match = re.match(r"([│├└─ ]*)([A-Z]\w+)( .*)?$", line)
        if match is None or ("──" not in line and match[2] != "GradstepError"):
            continue
        path = [*path[: len(match[1]) // 4], match[2]]
        drawn[match[2]] = (path[-2] if len(path) > 1 else "Exception", match[3] or "")
    assert set(drawn) == {cls.__name__ for cls in CLASSES}
    for cls in CLASSES:
        base, beside = drawn[cls.__name__]
        assert base == cls.__base__.__name__ if cls.__base__ else False
        code = vars(cls).get("problem_code")
        assert code is None or code in re.split(r"[ ,;]+", beside), cls


@pytest.mark.parametrize(("status", "cls"), CLASS_OF_STATUS.items())
def test_a_code_from_the_future_gets_the_class_of_its_status(
    status: int, cls: type[gradstep.ApiError]
) -> None:
    error = error_for(gradstep.Problem(status, "detail", code="from-the-future"))
    assert type(error) is cls
    assert error.code == "from-the-future"


def test_a_status_from_the_future_gets_the_class_of_its_kind() -> None:
    assert type(error_for(gradstep.Problem(418, "detail"))) is gradstep.ApiError
    assert type(error_for(gradstep.Problem(599, "detail"))) is gradstep.ServerError


@pytest.mark.parametrize("cls", [*CLASS_OF_CODE.values(), gradstep.ApiError])
def test_an_error_survives_pickling(cls: type[gradstep.ApiError]) -> None:
    error = cls(gradstep.Problem(409, "detail", code="c", request_id="r", extra={"expected": 3}))
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the line itself
    assert (type(copy), copy.problem, str(copy)) == (cls, error.problem, str(error))


def test_a_failed_connection_survives_pickling() -> None:
    error = gradstep.ConnectionFailed("detail", "r1")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - made on the line itself
    assert (copy.request_id, str(copy)) == ("r1", "detail (request r1)")


def test_a_position_that_is_no_number_is_none() -> None:
    assert gradstep.PositionMismatch(gradstep.Problem(409, "d")).expected is None
    problem = gradstep.Problem(409, "d", extra={"expected": "x", "generation": 3})
    assert gradstep.StepConflict(problem).expected is None
    assert gradstep.GenerationMismatch(problem).generation == 3


def test_every_class_is_exported_and_in_the_readme() -> None:
    text = README.read_text()
    for cls in CLASSES:
        assert getattr(gradstep, cls.__name__) is cls
        assert f"`{cls.__name__}`" in text, cls.__name__


def test_what_is_exported_is_what_is_listed() -> None:
    public = {
        name
        for name, value in vars(gradstep).items()
        if not name.startswith("_")
        and not isinstance(value, type(pickle))
        and name != "annotations"
    }
    assert public | {"__version__"} == set(gradstep.__all__)
