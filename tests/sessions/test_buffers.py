"""Buffers are used again, and never while anything still reads them."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

from gradstep_server.sessions import safetensors
from gradstep_server.sessions.buffers import SMALL, Buffers
from gradstep_server.sessions.safetensors import Limits
from gradstep_server.sessions.tensors import DType, Tensor

SIZE = 4 * SMALL
MUCH = 64 * SIZE


def address(view: memoryview) -> int:
    return int(np.frombuffer(view, np.uint8).ctypes.data)


def test_a_buffer_is_of_the_size_asked_for_writable_and_aligned() -> None:
    buffers = Buffers(MUCH)
    for size in (0, 1, SMALL - 1, SMALL, SIZE + 1):
        view = buffers.take(size)
        assert (len(view), view.readonly, view.format) == (size, False, "B")
        assert size == 0 or address(view) % 16 == 0


def test_what_came_back_is_lent_again() -> None:
    buffers = Buffers(MUCH)
    view = buffers.take(SIZE)
    where = address(view)
    assert buffers.kept == 0
    del view
    assert buffers.kept == SIZE
    again = buffers.take(SIZE - 100)
    assert (address(again), buffers.kept) == (where, 0)


def test_two_that_are_in_use_are_two() -> None:
    buffers = Buffers(MUCH)
    first, second = buffers.take(SIZE), buffers.take(SIZE)
    first[:] = b"a" * SIZE
    second[:] = b"b" * SIZE
    assert bytes(first) == b"a" * SIZE


@pytest.mark.parametrize("kind", ["slice", "array", "view of an array", "strided", "tensor"])
def test_a_buffer_does_not_come_back_while_a_view_of_it_is_left(kind: str) -> None:
    buffers = Buffers(MUCH)
    view = buffers.take(SIZE)
    whole = np.frombuffer(view, np.float32)
    tensor = Tensor(DType.F32, (25,), view[100:200])
    views = {
        "slice": view[10:20],
        "array": whole,
        "view of an array": whole[3:9].reshape(2, 3).T,
        "strided": as_strided(whole[5:], (10,), whole.strides),
        "tensor": tensor.widened(DType.F32),
    }
    left = views[kind]
    del view, whole, tensor, views
    assert buffers.kept == 0
    assert address(buffers.take(SIZE)) != 0
    assert buffers.kept == SIZE  # the other one, which is back
    del left
    assert buffers.kept == 2 * SIZE


def test_the_tensors_of_a_file_hold_its_buffer_one_by_one() -> None:
    values = np.arange(SMALL, dtype=np.float32)
    packed = {name: Tensor.of(values, (SMALL,), DType.F32) for name in "ab"}
    file = b"".join(safetensors.encode(packed, {}))
    buffers = Buffers(MUCH)
    view = buffers.take(len(file))
    view[:] = file
    tensors, _ = safetensors.decode(view, Limits())
    del view
    del tensors["a"]
    assert buffers.kept == 0
    assert bytes(tensors["b"].data) == values.tobytes()
    del tensors
    assert buffers.kept > 0


def test_no_more_is_kept_than_the_limit() -> None:
    buffers = Buffers(2 * SIZE)
    views = [buffers.take(SIZE) for _ in range(5)]
    last = address(views[-1])
    while views:
        del views[0]
    assert buffers.kept == 2 * SIZE
    assert address(buffers.take(SIZE)) == last
    assert Buffers(0).take(SIZE).nbytes == SIZE


def test_nothing_is_kept_where_the_limit_is_zero() -> None:
    buffers = Buffers(0)
    buffers.take(SIZE)
    assert buffers.kept == 0


def test_a_small_request_does_not_take_a_large_block() -> None:
    buffers = Buffers(MUCH)
    buffers.take(4 * SIZE)
    assert buffers.kept == 4 * SIZE
    kept = buffers.take(SIZE)
    assert (buffers.kept, len(kept)) == (4 * SIZE, SIZE)


def test_a_buffer_comes_back_from_a_cycle_that_the_collector_finds() -> None:
    buffers = Buffers(MUCH)
    cycle: list[object] = [buffers.take(SIZE)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert buffers.kept == SIZE


def test_threads_never_share_a_buffer() -> None:
    buffers = Buffers(MUCH)
    failures: list[int] = []

    def use(number: int) -> None:
        for _ in range(200):
            array = np.frombuffer(buffers.take(SMALL), np.uint8)
            array[::4096] = number
            if (array[::4096] != number).any():
                failures.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert buffers.kept <= 4 * SMALL


def test_memory_that_is_not_there_is_a_memory_error() -> None:
    with pytest.raises(MemoryError, match="there is no memory for"):
        Buffers(MUCH).take(1 << 55)
