"""Round numbers for axes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradstep_server.web.ticks import epoch_axis, rate_axis, step_axis


@pytest.mark.parametrize(
    ("highest", "labels"),
    [
        (0.1, ["0", "0.02", "0.04", "0.06", "0.08", "0.10"]),
        (0.3, ["0", "0.1", "0.2", "0.3"]),
        (1.0, ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.11, ["0", "0.025", "0.050", "0.075", "0.100", "0.125"]),
        (7, ["0", "2", "4", "6", "8"]),
        (0, ["0", "1"]),
    ],
)
def test_rates_are_labelled_with_round_numbers(highest: float, labels: list[str]) -> None:
    axis = rate_axis(highest)
    assert [label for _, label in axis.ticks] == labels
    assert axis.name == "learning rate"


def test_small_rates_are_multiples_of_a_power_of_ten() -> None:
    axis = rate_axis(3e-5)
    assert axis.name == "learning rate × 10⁻⁵"
    assert [label for _, label in axis.ticks] == ["0", "1", "2", "3"]


@settings(derandomize=True, deadline=None)
@given(st.floats(min_value=1e-300, max_value=1e300))
def test_the_rate_axis_holds_the_highest_rate_with_few_ticks(highest: float) -> None:
    axis = rate_axis(highest)
    assert highest <= axis.high * (1 + 1e-9)
    assert axis.high <= 2.1 * highest
    assert 2 <= len(axis.ticks) <= 7
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        (0, 99, ["0", "20", "40", "60", "80"]),
        (0, 9, ["0", "2", "4", "6", "8"]),
        (5, 8, ["5", "6", "7", "8"]),
        (0, 10_000, ["0", "2,000", "4,000", "6,000", "8,000", "10k"]),
        (0, 2_000_000, ["0", "250k", "500k", "750k", "1M", "1.25M", "1.5M", "1.75M", "2M"]),
        (7, 7, ["7"]),
    ],
)
def test_steps_are_labelled_with_whole_numbers(first: int, last: int, labels: list[str]) -> None:
    axis = step_axis(first, last)
    assert [label for _, label in axis.ticks] == labels
    assert axis.name == "step"


def test_steps_far_away_are_counted_from_where_the_window_begins() -> None:
    axis = step_axis(10**12, 10**12 + 40)
    assert axis.name == "step − 1,000,000,000,000"
    assert axis.ticks[1] == (10**12 + 5, "5")


@settings(derandomize=True, deadline=None)
@given(st.integers(0, 2**52), st.integers(1, 2**52))
def test_the_step_axis_has_few_different_ticks_inside_it(first: int, length: int) -> None:
    axis = step_axis(first, first + length)
    assert 1 <= len(axis.ticks) <= 10
    assert all(0 <= axis.at(value) <= 1 for value, _ in axis.ticks)
    assert len({label for _, label in axis.ticks}) == len(axis.ticks)


@pytest.mark.parametrize("highest", [5e-324, 1e-310])
def test_rates_that_are_hardly_more_than_nothing_have_an_axis_too(highest: float) -> None:
    axis = rate_axis(highest)
    assert 0 <= axis.at(highest) <= 1


@pytest.mark.parametrize(
    ("first", "last", "labels"),
    [
        (0, 9.996, ["0", "2", "4", "6", "8"]),
        (2, 2.9, ["2", "2.2", "2.4", "2.6", "2.8"]),
        (0.5, 0.5, ["0.5"]),
        (0, 0.996, ["0", "0.2", "0.4", "0.6", "0.8"]),
    ],
)
def test_epochs_are_labelled_with_round_numbers(
    first: float, last: float, labels: list[str]
) -> None:
    axis = epoch_axis(first, last)
    assert [label for _, label in axis.ticks] == labels
    assert axis.name == "epoch"
    assert all(0 <= axis.at(place) <= 1 for place, _ in axis.ticks)


def test_samples_are_counted_as_steps_are() -> None:
    assert step_axis(0, 64_000, "sample").name == "sample"
    assert step_axis(7, 7, "sample").name == "sample"
