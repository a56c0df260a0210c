"""Memory for requests under way has a limit, and comes back."""

from __future__ import annotations

import asyncio

import pytest

from gradstep_server.sessions.buffers import SMALL, Buffers
from gradstep_server.sessions.errors import Busy
from gradstep_server.sessions.room import Room, Rooms, patiently

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


def test_bodies_and_answers_do_not_keep_each_other_out() -> None:
    rooms = Rooms.halves(2 * SIZE)
    buffers = Buffers(0, rooms.answers)
    body = buffers.take(SIZE, rooms.bodies)
    with pytest.raises(Busy):
        buffers.take(SMALL, rooms.bodies)
    assert len(buffers.take(SIZE)) == len(body)
    assert (rooms.bodies.taken, rooms.answers.taken) == (SIZE, 0)


@pytest.mark.anyio
async def test_who_wants_room_waits_for_it_a_little() -> None:
    room = Room(10)
    room.take(10)
    asyncio.get_running_loop().call_later(0.1, room.give_back, 5)
    await patiently(room, room.take, 5)
    assert room.taken == 10
    with pytest.raises(Busy):
        await patiently(room, room.take, 1)


def test_what_cannot_be_had_takes_no_room() -> None:
    room = Room(2**62)
    with pytest.raises(MemoryError):
        Buffers(0, room).take(2**61)
    assert room.taken == 0
