"""The language of ExpressionLR: what it computes, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gradstep_server.schedulers import NegativeRate, RateOverflow, UndefinedRate
from gradstep_server.schedulers.expression import (
    EXTREMES,
    FUNCTIONS,
    MAX_DEPTH,
    MAX_OPERATIONS,
    Expression,
    ExpressionError,
)
from gradstep_server.schedulers.expression_lr import NAMES, ExpressionLR

T = np.arange(60)
BASE_LR = 0.3


def expression_lr(text: str) -> ExpressionLR:
    return ExpressionLR(expression=text)


COMPUTED = [
    "base_lr",
    "0.25",
    "t",
    " t +.5 ",
    "1e-3*t**2",
    "2 ** 3 ** 2 - -t",
    "-t ** 2 + 4000",
    "+t % 7 / 3",
    "(t + 9) // 4 % 3",
    "pi * base_lr + e",
    "abs(5 - t) + ceil(t / 7) + floor(t / 8)",
    "exp(-t / 10) + log(t + 1) + sqrt(t)",
    "1 + sin(t) + (2 + cos(t)) * tanh(t)",
    "min(t, 30) + max(t, 10, 20)",
    "1 if t < 10 else 2 if t <= 20 else 3",
    "1 if 5 < t < 10 != t else 0",
    "1 if t == 3 or t >= 40 and not t > 50 else 0",
    "max(t if t > 9 else 4, (1 if not not t < 9 else 2))",
]


@pytest.mark.parametrize("text", COMPUTED)
def test_an_expression_means_what_it_means_in_python(text: str) -> None:
    names = {"abs": abs, "min": min, "max": max, "base_lr": BASE_LR, **vars(math)}
    expected = [eval(text, {**names, "t": t}) for t in T.tolist()]  # noqa: S307 - the list above
    got = expression_lr(text.strip()).lrs(T, BASE_LR)
    np.testing.assert_allclose(got, expected, rtol=1e-14)


@pytest.mark.parametrize("name", [*FUNCTIONS, *EXTREMES])
def test_a_function_gives_the_same_bits_at_every_length_and_place(name: str) -> None:
    more = ", 1.5" if name in EXTREMES else ""
    schedule = expression_lr(f"9 + {name}((t + 1) / 300{more})")
    whole = schedule.lrs(np.arange(300), BASE_LR)
    for length in range(67):
        part = schedule.lrs(np.arange(200, 200 + length), BASE_LR)
        np.testing.assert_array_equal(part, whole[200 : 200 + length])
    np.testing.assert_array_equal(schedule.lrs(np.arange(300)[::-7], BASE_LR), whole[::-7])


def test_a_branch_that_is_not_taken_may_be_undefined() -> None:
    got = expression_lr("1 / t if t > 0 else sqrt(4)").lrs(T, BASE_LR)
    np.testing.assert_array_equal(got[:3], [2, 1, 0.5])


def test_a_rate_below_zero_is_refused_with_its_step() -> None:
    with pytest.raises(NegativeRate, match="step 31 ") as caught:
        expression_lr("30 - t").lrs(T[::-1], BASE_LR)
    assert caught.value.step == 31


@pytest.mark.parametrize(
    "text", ["(t - 5) / (t - 5)", "log(3 - t)", "(2 - t) ** 0.5", "exp(t)-exp(t*99)"]
)
def test_a_rate_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises((UndefinedRate, NegativeRate)):
        expression_lr(text).lrs(T, BASE_LR)


@pytest.mark.parametrize("text", ["9 ** 9 ** 9", "1 / (t - 7)", "10 ** t ** 2"])
def test_a_rate_without_end_is_refused(text: str) -> None:
    with pytest.raises((RateOverflow, NegativeRate)):
        expression_lr(text).lrs(T, BASE_LR)


REFUSED = [
    ("", "at least 1 character"),
    ("   ", "empty"),
    ("base_lr *", "Character "),
    ("t t", "Character "),
    ("  t @ 2", "Character 5 "),
    ("t ^ 2", "Character 3 "),
    ("(t", "Character "),
    ("t)", "Character "),
    ("1if t < 3 else 2", "Character 1 "),
    ("1_000", "Character 1 "),
    ("0x10", "Character 1 "),
    ("007", "Character "),
    ("2j", "Character 1 "),
    ("1e999", "too large"),
    ("9" * 400, "too large"),
    ("x", "Nothing is called 'x'; there are base_lr, e, pi, t"),
    ("lr_base", "Nothing is called"),
    ("True", "Nothing like 'True'"),
    ("None", "Nothing like 'None'"),
    ("yield", "Nothing like|Character "),
    ("~t", "Character 1 "),
    ("t < 3", "'t < 3' is true or false, not a number"),
    ("1 if t else 2", "'t' is a number, not true or false"),
    ("not t", "'t' is a number"),
    ("(t < 3) + 1", "true or false"),
    ("1 if (t < 3) < 1 else 0", "true or false"),
    ("t and t", "is a number"),
    ("1 if t is 1 else 0", "compared by"),
    ("1 if t in t else 0", "compared by"),
    ("sqrt()", "sqrt takes one"),
    ("sqrt(1, 2)", "sqrt takes one"),
    ("max(1)", "max takes two or more"),
    ("sum(1, 2)", "No function is called 'sum'; there are abs, ceil"),
    ("eval(t)", "No function is called 'eval'"),
    ("sqrt(*t)", "Nothing like '*t'"),
    ("sqrt(x=t)", "Character 7 "),
    ("sqrt(t)(t)", "Nothing like"),
    ("sqrt", "Nothing is called 'sqrt'"),
    ("(t, t)", "Nothing like"),
    ("t.real", "Character 2 "),
    ("t.__class__", "Character 2 "),
    ("__import__('os')", "Character 12 "),
    ("[t][0]", "Character 1 "),
    ("lambda: t", "Character 7 "),
    ("(t := 3)", "Character 4 "),
    ("'a'", "Character 1 "),
    ("t\n+ 1", "Character 2 "),
    ("t # rest", "Character 3 "),
    ("\u0660", "Character 1 "),
    ("τ", "Character 1 "),
    ("t\0", "Character 2 "),
    ("(" * 400 + "t" + ")" * 400, "Character |deep"),
    ("-" * 900 + "t", "deep"),
    ("-" * MAX_DEPTH + "t", f"more than {MAX_DEPTH} deep"),
    ("+".join(["t"] * 400), "deep"),
    (f"max({', '.join(['t'] * 200)})", f"More than {MAX_OPERATIONS} operations"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_expression_is_refused_in_one_sentence(text: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why.replace("*", r"\*")) as caught:
        expression_lr(text)
    (error,) = caught.value.errors()
    assert error["loc"] == ("expression",)


def test_as_deep_and_as_long_as_allowed_is_accepted() -> None:
    deepest = expression_lr("-" * (MAX_DEPTH - 1) + "t")
    assert deepest.expression.endswith("t")
    longest = f"max({', '.join(['t'] * MAX_OPERATIONS)})"
    np.testing.assert_array_equal(expression_lr(longest).lrs(T, BASE_LR), T)


def test_what_is_compared_twice_is_computed_once() -> None:
    calls = 0

    def counted(x: object) -> object:
        nonlocal calls
        calls += 1
        return x

    text = "t"
    for _ in range(9):
        text = f"(1 if 0 <= {text} <= 9 else 0)"
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(FUNCTIONS, "abs", counted)
        assert Expression(text.replace("t ", "abs(t) "), NAMES)(t=3.0) == 1
    assert calls == 1


WORDS = ["t", "base_lr", "2", "0.5", "1e3", "+", "-", "*", "//", "%", "**", "<", ">=", "=="]
WORDS += ["and", "or", "not", "if", "else", "(", ")", "min(", "sqrt(", ","]


@settings(derandomize=True, deadline=None, max_examples=400)
@given(
    st.text(alphabet="t0123456789.e+-*/%<>=()!, andorntifelsmx_πb", max_size=40)
    | st.lists(
        st.sampled_from(WORDS),
        max_size=14,
    ).map(" ".join)
)
def test_any_text_is_an_expression_or_is_refused(text: str) -> None:
    try:
        expression = Expression(text, NAMES)
    except ExpressionError:
        return
    with np.errstate(all="ignore"):
        value = expression(t=T.astype(np.float64), base_lr=np.float64(BASE_LR))
    assert np.broadcast_to(value, T.shape).dtype == np.float64
