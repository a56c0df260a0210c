"""Eight sessions that one process steps on asyncio, all as often: by AdamW on ``memory://``.

*Pipeline* has steps of all of them under way at once; beside it the same sessions are stepped
*one after another*. The numbers are the seconds of one step. The client and the server, each of
which keeps a core busy, share two.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

import gradstep
from bench.rows import Progress, Row
from bench.servers import Service, gradstep_server
from bench.steps import OPTIMIZER
from bench.turns import turn_about

_K, _M = 1_000, 1_000_000

SESSIONS = 8
SIZES: Mapping[str, tuple[int, int, int]] = {
    "1 k": (_K, 20, 20),
    "100 k": (100 * _K, 20, 5),
    "1 M": (_M, 9, 1),
}
"""Elements, rounds, and in each of those how many steps a session takes."""

_QUICK = ("1 k",)


def run(progress: Progress) -> list[Row]:
    """Measure every size."""
    sizes = {name: size for name, size in SIZES.items() if not progress.quick or name in _QUICK}
    rows: list[Row] = []
    with gradstep_server() as service, asyncio.Runner() as runner:
        for done, (label, size) in enumerate(sizes.items()):
            progress.show(done, len(sizes))
            rows.append(_row(label, size, service, runner))
    progress.show(len(sizes), len(sizes))
    return rows


def _row(label: str, size: tuple[int, int, int], service: Service, runner: asyncio.Runner) -> Row:
    elements, rounds, times = size
    client = service.async_client()
    sessions = runner.run(_created(client, elements))
    gradients = {"w": np.random.default_rng(1).standard_normal(elements, np.float32)}

    def steps() -> Iterator[gradstep.Step]:
        return (gradstep.Step(one, gradients) for _ in range(times) for one in sessions)

    async def at_once() -> None:
        async with gradstep.Pipeline(steps(), limit=SESSIONS) as pipeline:
            async for _ in pipeline:
                pass

    async def one_after_another() -> None:
        for session, grads, *_ in steps():
            await session.step(grads)

    try:
        measured = turn_about(
            {
                "Pipeline": lambda: runner.run(at_once()),
                "one after another": lambda: runner.run(one_after_another()),
            },
            rounds=rounds,
            calls=1,
            memory=16 * elements * SESSIONS * times,  # two things, each once to be warm
        )
    finally:
        runner.run(_deleted(client, sessions))
    each = {name: [one / (SESSIONS * times) for one in all_] for name, all_ in measured.items()}
    return Row.compare(
        "pipeline",
        f"{label}, {SESSIONS} sessions",
        "Pipeline",
        each,
        ours="Pipeline",
        others=["one after another"],
    )


async def _created(client: gradstep.AsyncClient, elements: int) -> list[gradstep.AsyncSession]:
    params = {"w": np.zeros(elements, np.float32)}
    return [
        await client.sessions.create(optimizer=OPTIMIZER, params=params) for _ in range(SESSIONS)
    ]


async def _deleted(client: gradstep.AsyncClient, sessions: Sequence[gradstep.AsyncSession]) -> None:
    for session in sessions:
        await session.delete()
    await client.close()
