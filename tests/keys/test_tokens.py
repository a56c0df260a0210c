"""What is sent as a key."""

from __future__ import annotations

import hashlib
import re
import string

import pytest

from gradstep_server.keys import token

MADE = token.make()


def test_a_key_is_found_by_its_form() -> None:
    """As docs/security.md tells to scanners of secrets."""
    assert re.fullmatch("gs_[0-9A-Za-z]{49}", MADE)


def test_no_two_keys_are_alike() -> None:
    assert len({token.make() for _ in range(1000)}) == 1000


def test_every_digit_of_every_place_is_random() -> None:
    """All but the first, whose number is what is left of 256 bits."""
    keys = [token.make() for _ in range(2000)]
    for place in range(4, 46):
        assert {key[place] for key in keys} == set(string.digits + string.ascii_letters)


@pytest.mark.parametrize("place", range(len(MADE)))
def test_a_key_with_a_changed_character_is_not_whole(place: int) -> None:
    other = "0" if MADE[place] != "0" else "1"
    assert not token.is_whole(MADE[:place] + other + MADE[place + 1 :])


@pytest.mark.parametrize(
    "text",
    ["", "gs_", MADE[:-1], MADE + "0", f" {MADE}", MADE.lower(), "gs_" + 49 * "0", f"{MADE}\n"],
)
def test_what_is_no_key_is_not_whole(text: str) -> None:
    assert token.is_whole(MADE)
    assert not token.is_whole(text)


def test_two_exchanged_characters_are_noticed() -> None:
    swapped = next(
        MADE[:i] + MADE[i + 1] + MADE[i] + MADE[i + 2 :]
        for i in range(3, 45)
        if MADE[i] != MADE[i + 1]
    )
    assert not token.is_whole(swapped)


def test_what_is_kept_is_what_sha256sum_prints() -> None:
    assert token.digest(MADE) == hashlib.sha256(MADE.encode()).hexdigest()
