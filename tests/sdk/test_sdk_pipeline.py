"""How a pipeline steps many sessions at once, against a real service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import ml_dtypes
import numpy as np
import pytest
from sdk_pipelines import Handle, Watched, created, gradients, positions, run, start
from server_process import Server
from session_app import Arrays, same

import gradstep
from gradstep import AsyncClient, AsyncSession, Pipeline, Step

pytestmark = pytest.mark.usefixtures("direct")

OPTIMIZERS: list[Any] = [
    {"type": "AdamW", "lr": 0.01},
    {"type": "SGD", "lr": 0.1, "momentum": 0.9},
    {"type": "RMSprop", "lr": 0.01},
]

Results = tuple[dict[tuple[int, int], Arrays], list[Arrays]]
"""The parameters by session and step, and the states in the end."""


async def later(steps: Iterator[Step]) -> AsyncIterator[Step]:
    for step in steps:
        await asyncio.sleep(0)
        yield step


@pytest.mark.parametrize("limit", [1, 3, 64])
@pytest.mark.parametrize("awaited", [False, True], ids=["iterator", "asynchronous"])
def test_the_results_are_those_of_stepping_one_after_another(
    service: Server, limit: int, *, awaited: bool
) -> None:
    """Sessions of many sizes, in an order drawn at random, some of them often in a row."""
    sizes = [1, 3, 17, 1000, 40_000, 5, 300_000]
    order = [int(i) for i in np.random.default_rng(limit).integers(0, len(sizes), 60)]

    def alone() -> Results:
        with gradstep.Client(service.url) as client:
            sessions = [
                client.sessions.create(optimizer=OPTIMIZERS[i % 3], params=start(size))
                for i, size in enumerate(sizes)
            ]
            params: dict[tuple[int, int], Arrays] = {}
            for n, i in enumerate(order):
                stepped = sessions[i].step(gradients(n, sizes[i]), loss=n, lr=[0.001 * n])
                params[i, sessions[i].position] = stepped
            return params, [session.state().tensors for session in sessions]

    async def together() -> Results:
        async with AsyncClient(service.url) as client:
            sessions = [
                await client.sessions.create(optimizer=OPTIMIZERS[i % 3], params=start(size))
                for i, size in enumerate(sizes)
            ]
            steps = (
                Step(sessions[i], gradients(n, sizes[i]), n, [0.001 * n])
                for n, i in enumerate(order)
            )
            source: Any = later(steps) if awaited else steps
            found: dict[tuple[int, int], Arrays] = {}
            taken = [0] * len(sizes)
            async with Pipeline(source, limit=limit) as pipeline:
                async for session, params, receipt in pipeline:
                    i = sessions.index(session)
                    taken[i] += 1
                    assert (receipt.step, receipt.replayed) == (taken[i], False)
                    found[i, receipt.step] = params
            losses = [loss for session in sessions for loss in (await session.history()).loss]
            assert sorted(losses) == list(range(60))
            return found, [(await session.state()).tensors for session in sessions]

    (params, states), (expected, expected_states) = run(together()), alone()
    assert params.keys() == expected.keys()
    assert all(same(params[key], expected[key]) for key in expected)
    assert all(map(same, states, expected_states))


def test_so_many_steps_as_allowed_are_under_way_and_no_more(service: Server) -> None:
    limit, count = 3, 12
    meeting = asyncio.Barrier(limit)
    under_way: set[httpx.Request] = set()

    async def watch(request: httpx.Request, pass_on: Handle) -> httpx.Response:
        under_way.add(request)
        assert len(under_way) <= limit
        async with meeting:  # a step waits for two others: if they came later, this would not end
            under_way.remove(request)
            return await pass_on(request)

    async def main() -> None:
        async with AsyncClient(service.url, transport=Watched(watch)) as client:
            sessions = await created(client, count)
            made, taken = 0, 0

            def source() -> Iterator[Step]:
                nonlocal made
                for session in sessions:
                    made += 1
                    assert made - taken <= limit
                    yield Step(session, gradients(made, 4))

            async with Pipeline(source(), limit=limit) as pipeline:
                async for _ in pipeline:
                    taken += 1
                    await asyncio.sleep(0.02)
            assert taken == count

    run(main())


def test_gradients_are_on_their_way_before_the_next_are_computed(service: Server) -> None:
    events: list[str] = []

    async def watch(request: httpx.Request, pass_on: Handle) -> httpx.Response:
        events.append("sent")
        return await pass_on(request)

    async def main() -> None:
        async with AsyncClient(service.url, transport=Watched(watch)) as client:
            sessions = await created(client, 4)

            def source() -> Iterator[tuple[AsyncSession, Arrays]]:
                for n, session in enumerate(sessions):
                    events.append("computed")
                    yield session, gradients(n, 4)

            async with Pipeline(source()) as pipeline:
                assert len([stepped async for stepped in pipeline]) == 4

    run(main())
    assert events == ["computed", "sent"] * 4


def test_gradients_may_be_computed_from_the_results(service: Server) -> None:
    rounds = 5

    async def main() -> None:
        async with AsyncClient(service.url) as client:
            sessions = await created(client, 3)
            ready: asyncio.Queue[Step | None] = asyncio.Queue()
            for session in sessions:
                ready.put_nowait(Step(session, start(4)))

            async def source() -> AsyncIterator[Step]:
                while (step := await ready.get()) is not None:
                    yield step

            left = rounds * len(sessions)
            async with Pipeline(source(), limit=2) as pipeline:
                async for session, params, receipt in pipeline:
                    left -= 1
                    if receipt.step < rounds:
                        ready.put_nowait(Step(session, params))  # that of half the squares
                    if not left:
                        ready.put_nowait(None)
            assert await positions(sessions) == [rounds] * len(sessions)

    run(main())


def test_with_a_limit_of_one_the_source_knows_all_that_the_loop_has_done(service: Server) -> None:
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            [session] = await created(client, 1)
            newest, asked = start(4), list[bool]()

            async def source() -> AsyncIterator[Step]:
                for step in range(5):
                    asked.append(session.position == step and same(newest, current))
                    yield Step(session, newest)

            current = newest
            async with Pipeline(source(), limit=1) as pipeline:
                async for _, params, _ in pipeline:
                    current = params
                    await asyncio.sleep(0.02)
                    newest = params
            assert asked == [True] * 5

    run(main())


def test_steps_may_answer_with_parameters_half_as_wide(service: Server) -> None:
    async def main() -> None:
        async with AsyncClient(service.url) as client:
            sessions = await created(client, 3)
            dtypes: list[Any] = ["F16", "BF16", None]
            steps = [
                Step(session, gradients(1, 4), dtype=dtype)
                for session, dtype in zip(sessions, dtypes, strict=True)
            ]
            async with Pipeline(steps) as pipeline:
                found = {session.id: params async for session, params, _ in pipeline}
            half, brain, full = (found[session.id]["w"] for session in sessions)
            assert [half.dtype.name, brain.dtype.name] == ["float16", "float32"]
            assert np.array_equal(half, full.astype(np.float16))
            assert np.array_equal(brain, full.astype(ml_dtypes.bfloat16).astype(np.float32))

    run(main())


def test_nothing_to_step_is_no_error() -> None:
    async def main() -> None:
        async with Pipeline([]) as pipeline:
            assert [stepped async for stepped in pipeline] == []
            assert [stepped async for stepped in pipeline] == []

    run(main())
