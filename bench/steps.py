"""A step from one process to another over loopback TCP: gradients in, parameters out, by AdamW.

*gradstep* is the SDK and the service on ``memory://``. *torch rpc* is torch.distributed.rpc, with a
remote object that steps a fused AdamW; on one machine it takes shared memory instead of TCP, and
keeps two cores busy looking for messages, so it is stopped while the others have their turns.
*FastAPI + JSON* and *FastAPI + safetensors* are routes that step the same with torch; *uvicorn
echo* and *socket echo* carry the bytes there and back and do nothing. These last four are asked by
the leanest client that the standard library makes possible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Literal

import numpy as np
import orjson
from safetensors.numpy import save

import gradstep
from bench import kernels
from bench.line import Line, RawLine
from bench.peers.torch_rpc import far_steppers
from bench.rows import Progress, Row
from bench.servers import free_port, gradstep_server, peer
from bench.turns import turn_about

_K, _M = 1_000, 1_000_000

SIZES: Mapping[str, tuple[int, int, int]] = {
    "1 k": (_K, 60, 20),
    "100 k": (100 * _K, 40, 10),
    "1 M": (_M, 15, 3),
    "25 M": (25 * _M, 15, 1),
}
"""Elements, rounds, and calls in each."""

_QUICK = ("1 k", "100 k")
_JSON_UP_TO = _M
_RPC_TARGET, _ECHO_TARGET = 1.0, 1.3
_LEAST = "uvicorn echo + kernel + reduction"
"""What a step cannot do without, where all is served by uvicorn."""

MEMORY = 80
"""Bytes for each element that the steps of a round may take: a log grows by the gradients."""

Durability = Literal["step", "relaxed"]

OPTIMIZER = {"type": "AdamW", "lr": 1e-3}


def run(progress: Progress) -> list[Row]:
    """Measure every size."""
    sizes = {name: size for name, size in SIZES.items() if not progress.quick or name in _QUICK}
    rows: list[Row] = []
    with peers() as others:
        for done, (label, (elements, rounds, calls)) in enumerate(sizes.items()):
            progress.show(done, len(sizes))
            effort = (3, 3) if progress.quick else (rounds, calls)
            rows += _rows(label, elements, effort, others)
    progress.show(len(sizes), len(sizes))
    return rows


class Peers:
    """Everything that runs beside us, and we."""

    def __init__(self, running: ExitStack) -> None:
        self.ours = running.enter_context(running.enter_context(gradstep_server()).client())
        self.far = running.enter_context(far_steppers(free_port()))
        self.naive = running.enter_context(peer("naive"))
        self.echo = running.enter_context(peer("uvicorn_echo"))
        self.raw = running.enter_context(peer("raw_echo"))

    def things(self, elements: int, running: ExitStack) -> dict[str, Callable[[], object]]:
        """Return what takes a step of so many elements, or carries as much, by name."""
        gradient = np.random.default_rng(1).standard_normal(elements, np.float32)
        body = save({"w": gradient})
        session = running.enter_context(fresh(self.ours, elements))
        room = len(body) if elements > _JSON_UP_TO else 32 * elements
        naive = running.enter_context(closing(Line(self.naive, room + 4096)))
        echo = running.enter_context(closing(Line(self.echo, len(body))))
        raw = running.enter_context(closing(RawLine(self.raw, len(body))))

        def by_json() -> object:
            body = orjson.dumps({"w": gradient}, option=orjson.OPT_SERIALIZE_NUMPY)
            answer = naive.ask("PUT", f"/json/{elements}", body, "application/json")
            return np.array(orjson.loads(answer)["w"], np.float32)

        def by_safetensors() -> object:
            return naive.ask("PUT", f"/safetensors/{elements}", save({"w": gradient}))

        return {
            "gradstep": lambda: session.step({"w": gradient}),
            "FastAPI + safetensors": by_safetensors,
            **({"FastAPI + JSON": by_json} if elements <= _JSON_UP_TO else {}),
            "uvicorn echo": lambda: echo.ask("PUT", "/", body),
            "socket echo": lambda: raw.ask(memoryview(body)),
        }


@contextmanager
def peers() -> Iterator[Peers]:
    """Start everything, and end it."""
    with ExitStack() as running:
        yield Peers(running)


@contextmanager
def fresh(
    client: gradstep.Client, elements: int, durability: Durability = "step"
) -> Iterator[gradstep.Session]:
    """Make a session of one tensor, and delete it at the end."""
    params = {"w": np.zeros(elements, np.float32)}
    session = client.sessions.create(optimizer=OPTIMIZER, params=params, durability=durability)
    yield session
    session.refresh()  # it may have been stepped without the SDK
    session.delete()


def _rows(label: str, elements: int, effort: tuple[int, int], others: Peers) -> list[Row]:
    rounds, calls = effort
    with ExitStack() as running:
        things = others.things(elements, running)
        ours = running.enter_context(kernels.ours(OPTIMIZER, {"w": elements}))
        alone = {name: ours[name] for name in ("kernel", "reduction")}
        far = {"torch rpc": others.far.stepper(elements)}
        measured = turn_about(
            things | alone,
            rounds=rounds,
            calls=calls,
            memory=MEMORY * elements,
            elsewhere=far,
        )
    parts = zip(*(measured[name] for name in ("uvicorn echo", *alone)), strict=True)
    measured[_LEAST] = [sum(seconds) for seconds in parts]
    beside = [*far, *(name for name in things if name not in {"gradstep", "uvicorn echo"})]
    large = elements > _JSON_UP_TO

    def row(what: str, others: list[str], target: float | None) -> Row:
        return Row.compare(
            "steps", label, what, measured, ours="gradstep", others=others, target=target
        )

    return [
        row("step", beside, None if large else _RPC_TARGET),
        row(
            "step beside moving its bytes",
            [_LEAST, "uvicorn echo"],
            _ECHO_TARGET if large else None,
        ),
    ]
