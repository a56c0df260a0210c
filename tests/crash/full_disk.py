"""A disk that is really full: a small file system, filled by the service's own writes.

Steps are sent until one is refused. Then the service must say that it is not
ready, serve all that it acknowledged, and do so again each time that it is killed and
started; and when someone gives space back, it goes on where it was. Every other
disk has blocks that are shorter than the pages that a process maps.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread

import httpx
from crash.findings import Finding, evidence, scaled
from crash.forked_servers import ForkedServer, Nursery, forked
from crash.plans import KB, MB, Truth, create, one_tensor, position, put_params, put_step, state
from session_app import running

ROUNDS = 20
PLANS = [one_tensor("large", 2 * MB), one_tensor("middle", 256 * KB), one_tensor("small", KB)]

_SIZE = 48 * MB
_OTHERS = (18 * MB, 26 * MB)
"""What someone else takes, and gives back: more than what a full write-ahead log holds."""

_BLOCKS = (KB, 4 * KB)
_KILLS = 2
_FULL = 507


class CannotMount(Exception):
    """Raised where this user may not mount a file system."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Fill a disk, look, free some space, and go on; and the same with another disk."""
    rounds = scaled(ROUNDS, scale)
    source, steps = random.Random(1), 0
    with evidence("full-disk") as folder, Nursery() as nursery:
        for number in range(1, rounds + 1):
            try:
                block = _BLOCKS[number % len(_BLOCKS)]
                with mounted(folder / f"disk-{number}", block) as disk:
                    steps += _round(nursery, disk, source.randint(*_OTHERS))
            except CannotMount as reason:
                if "CI" in os.environ:
                    raise AssertionError("in CI this must not be left out") from reason
                return [Finding("D7", "full disk", "not run", f"cannot mount: {reason}")]
            progress(number, rounds)
    return [
        Finding(
            "D1, D7",
            "full disk",
            f"{rounds} × an ext4 of {_SIZE // MB} MiB, in blocks of 1 KB or 4 KB, filled to the "
            f"last by steps of 1 KB to 2 MB ({steps} steps); the service killed and started "
            f"{_KILLS} times on each while it was full, then space given back",
            f"it started every time; every write 507, /readyz {_FULL}, all reads served, before "
            "and after each kill; 0 acknowledged steps lost; all went on without a restart when "
            "there was space, bit-identical",
        )
    ]


@contextmanager
def mounted(folder: Path, block: int) -> Iterator[Path]:
    """Lend a small file system, in blocks of this size, at a folder; it is a file beside it."""
    image = folder.with_suffix(".img")
    folder.mkdir()
    for command in (
        ["truncate", f"--size={_SIZE}", str(image)],
        ["mkfs.ext4", "-q", "-m", "0", "-b", str(block), str(image)],
        ["mount", "-o", "loop", str(image), str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise CannotMount(done.stderr.strip())
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - where the system has it
    image.unlink()


def _round(nursery: Nursery, disk: Path, ballast: int) -> int:
    """Fill a disk of which someone else takes a part; return how many steps it has taken."""
    others = disk / "of-someone-else"
    with forked(nursery, disk) as server, running() as memory:
        truths = [Truth(memory, plan) for plan in PLANS]
        with _client(server) as http:
            for plan in PLANS:
                assert create(http, plan).is_success
                assert put_params(http, plan).is_success
            others.write_bytes(bytes(ballast))
            acknowledged = _fill(http)
        with _taking_all(others):
            positions = _served(server, truths, acknowledged)
            for _ in range(_KILLS):
                server.kill()
                server.launch()
                server.await_ready("/livez")
                assert _served(server, truths, acknowledged) == positions
        others.unlink()
        _goes_on(server, truths, acknowledged, positions)
    return sum(acknowledged)


@contextmanager
def _taking_all(others: Path) -> Iterator[None]:
    """Let someone else take every block that becomes free meanwhile, at once."""
    enough = Event()

    def take() -> None:
        with others.open("ab", buffering=0) as file:
            while not enough.wait(0.001):
                with suppress(OSError):
                    while not enough.is_set():
                        file.write(bytes(KB))

    taker = Thread(target=take)
    taker.start()
    try:
        yield
    finally:
        enough.set()
        taker.join()


def _goes_on(
    server: ForkedServer,
    truths: Sequence[Truth],
    acknowledged: Sequence[int],
    positions: Sequence[int],
) -> None:
    """Send again what was refused last, and another step."""
    with _client(server) as http:
        assert http.get("/readyz").status_code == 200
        for plan, truth, least, at in zip(PLANS, truths, acknowledged, positions, strict=True):
            resent = put_step(http, plan, least + 1)
            assert resent.is_success, resent.text
            assert resent.json()["replayed"] == (at > least)
            assert put_step(http, plan, least + 2).status_code == 201
            assert truth.agrees(state(http, plan))


def _fill(http: httpx.Client) -> list[int]:
    """Step all sessions in turn until each is refused; return the last step of each."""
    taken = {plan.id: 0 for plan in PLANS}
    going_on = list(PLANS)
    while going_on:
        for plan in tuple(going_on):
            answer = put_step(http, plan, taken[plan.id] + 1)
            if answer.is_success:
                taken[plan.id] += 1
            else:
                assert answer.status_code == _FULL, answer.text
                going_on.remove(plan)
    return list(taken.values())


def _served(
    server: ForkedServer, truths: Sequence[Truth], acknowledged: Sequence[int]
) -> list[int]:
    """Raise unless reads are served and writes refused; return where the sessions stand."""
    positions = []
    with _client(server) as http:
        for plan, truth, least in zip(PLANS, truths, acknowledged, strict=True):
            for page in ("", "/params", "/history", "/schedule"):
                assert http.get(plan.path + page).status_code == 200, page
            found = state(http, plan)
            assert least <= position(found) <= least + 1, f"{plan.id} lost step {least}"
            assert truth.agrees(found), f"{plan.id} is not what its steps lead to"
            positions.append(position(found))
        assert http.get("/livez").status_code == 200
        assert http.get("/readyz").status_code == _FULL
        # A small one may fit into what a log has left.
        refused = put_step(http, PLANS[0], positions[0] + 1)
        assert refused.status_code == _FULL, refused.text
    return positions


def _client(server: ForkedServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)
