"""Memory for requests under way has a limit, and comes back."""

from __future__ import annotations

import pytest

from gradstep_server.sessions.buffers import SMALL, Buffers
from gradstep_server.sessions.errors import Busy
from gradstep_server.sessions.room import Room

SIZE = 4 * SMALL


def test_no_more_is_lent_than_there_is_room_for() -> None:
    room = Room(2 * SIZE)
    buffers = Buffers(0, room)
    first, second = buffers.take(SIZE), buffers.take(SIZE)
    with pytest.raises(Busy, match=f"beside the {2 * SIZE}"):
        buffers.take(SMALL)
    kept = second[5:10]
    del first, second
    assert room.taken == SIZE
    del kept
    assert room.taken == 0


def test_bodies_leave_room_for_answers() -> None:
    buffers = Buffers(0, Room(2 * SIZE))
    body = buffers.take(SIZE, share=0.5)
    with pytest.raises(Busy):
        buffers.take(SMALL, share=0.5)
    assert len(buffers.take(SIZE)) == len(body)


def test_what_cannot_be_had_takes_no_room() -> None:
    room = Room(2**62)
    with pytest.raises(MemoryError):
        Buffers(0, room).take(2**61)
    assert room.taken == 0
