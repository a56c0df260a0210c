"""Every system call of one request in turn: the process's last, or one that fails.

A request is recorded once. Then, for each call by which it changes the disk, a
fresh copy of the same data is served, and the process is killed as it enters
that call; or the disk is full from that call on; or that call fails once. The
store has one thread here, so that the calls come in the same order every time.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from crash.findings import Finding, evidence, scaled
from crash.forked_servers import ForkedServer, Nursery, forked
from crash.operations import Delete, First, Operation, Step
from crash.plans import KB, MB, Truth, one_tensor
from crash.strace import Call, attached, calls, last_call, lasting_failure, one_failure
from session_app import Service, running

SAMPLED_KILLS = 60
"""Of the thousands of calls of a step of 64 MB."""

SAMPLED_FAILURES = 15
REFUSED = {"ENOSPC": 507, "EIO": 503}
"""How a request is refused that met the error."""


@dataclass(frozen=True)
class Recorded:
    """A request, the data of a server that is ready for it, and the calls that it makes."""

    operation: Operation
    data: Path
    made: Sequence[Call]
    sampled: bool
    """Whether only some of the calls are tried at full scale."""

    def places(self, scale: float, sample: int) -> list[int]:
        """Return the calls to try, spread over all."""
        count = sample if self.sampled else len(self.made)
        chosen = random.Random(1).sample(range(len(self.made)), scaled(count, scale))
        return sorted(chosen)


Trial = Callable[[Recorded, int, ForkedServer, Path], bool]
"""Tries one call; returns whether the request turned out to be carried out."""


def run(scale: float, progress: Callable[[int, int], None]) -> list[Finding]:
    """Kill a process at every call of a request, and let every call fail."""
    with evidence("syscalls") as folder, Nursery() as nursery:
        with running() as service:
            operations = list(_operations(service))
        recorded = [_record(nursery, folder, operation) for operation in operations]
        kinds: list[tuple[Trial, int]] = [
            (_killed, SAMPLED_KILLS),
            (_disk_full, SAMPLED_FAILURES),
            (_fails_once, SAMPLED_FAILURES),
        ]
        planned = [
            (trial, kept, place)
            for trial, sample in kinds
            for kept in recorded
            for place in kept.places(scale, sample)
        ]
        done: Counter[tuple[Trial, str]] = Counter()
        for number, (trial, kept, place) in enumerate(planned, 1):
            work = folder / "trial"
            shutil.copytree(kept.data, work / "data")
            with forked(nursery, work / "data", store_threads=1) as server:
                done[trial, kept.operation.name] += trial(kept, place, server, work)
            shutil.rmtree(work)
            progress(number, len(planned))
    return _findings(recorded, Counter(trial for trial, _, _ in planned), done)


def _findings(
    recorded: Sequence[Recorded],
    tried: Mapping[Trial, int],
    done: Mapping[tuple[Trial, str], int],
) -> list[Finding]:
    of = ", ".join(
        f"{kept.operation.name} ({len(kept.made)} calls{', sampled' if kept.sampled else ''})"
        for kept in recorded
    )
    carried_out = {trial: sum(n for (of, _), n in done.items() if of is trial) for trial in tried}
    return [
        Finding(
            "D1, D2, D3",
            "kill at every call",
            f"{tried[_killed]} times killed on entering a call that writes or syncs: {of}",
            f"0 half done: {carried_out[_killed]} were there after the restart, the others were "
            "not, and sent again each was there once; states bit-identical",
        ),
        Finding(
            "D1, D3, D7",
            "failing calls",
            f"the same calls fail: {tried[_disk_full]} times with ENOSPC from there on, "
            f"{tried[_fails_once]} times once with EIO",
            f"refused with 507 and 503 or carried out ({carried_out[_disk_full]} and "
            f"{carried_out[_fails_once]}), never half; reads served meanwhile; all went on",
        ),
    ]


def _operations(service: Service) -> Iterator[Operation]:
    for name, size in {"1 KB": KB, "256 KB": 256 * KB, "4 MB": 4 * MB, "64 MB": 64 * MB}.items():
        plan = one_tensor(f"step-{size}", size)
        yield Step.of(f"a step of {name}", plan, 2, service)
    for name, kind in (("the first parameters", First), ("a deletion", Delete)):
        plan = one_tensor(kind.__name__.lower(), 256 * KB)
        yield kind(name, plan, Truth(service, plan).advance(0))


def _record(nursery: Nursery, folder: Path, operation: Operation) -> Recorded:
    """Prepare the data of an operation, and write down the calls that it makes."""
    home = folder / operation.name.replace(" ", "-")
    home.mkdir()
    with forked(nursery, home / "data", store_threads=1) as server:
        with _client(server) as http:
            operation.prepare(http)
        server.stop()
        shutil.copytree(home / "data", home / "rehearsed")
    with forked(nursery, home / "rehearsed", store_threads=1) as server, _client(server) as http:
        http.get(operation.plan.path)
        with attached(server.process.pid, home / "trace"):
            assert operation.send(http).status_code in {201, 204}
    made = calls(home / "trace")
    return Recorded(operation, home / "data", made, len(made) > 1000)


def _killed(kept: Recorded, place: int, server: ForkedServer, work: Path) -> bool:
    """Kill the process as it enters the call."""
    operation, process = kept.operation, server.process.pid
    with _client(server) as http:
        http.get(operation.plan.path)  # loaded
        with attached(process, work / "trace", last_call(kept.made, place), to_the_end=True):
            try:
                answer = operation.send(http)
            except httpx.TransportError:
                answer = None
    assert answer is None, f"call {place} of {operation.name} was not reached"
    server.kill()
    server.start()
    with _client(server) as http:
        done = operation.done(http)
        assert _again(kept, http) == done
    return done


def _disk_full(kept: Recorded, place: int, server: ForkedServer, work: Path) -> bool:
    """Let the disk be full from the call on, until what was sent is answered and read again.

    A call that does not write to a file that is there already fails once.
    """
    call, rule = kept.made[place], one_failure(kept.made, place, "ENOSPC")
    with _client(server) as http:
        http.get(kept.operation.plan.path)  # loaded
        files = [path for path in work.rglob("*.sqlite*") if path.suffix != ".sqlite-shm"]
        if call.name != "pwrite64" or Path(call.path).name not in {path.name for path in files}:
            return _failing(kept, "ENOSPC", server, work, rule)
    rule = lasting_failure(kept.made, place, "ENOSPC", files)
    return _failing(kept, "ENOSPC", server, work, rule, files)


def _fails_once(kept: Recorded, place: int, server: ForkedServer, work: Path) -> bool:
    """Let the call fail."""
    return _failing(kept, "EIO", server, work, one_failure(kept.made, place, "EIO"))


def _failing(
    kept: Recorded,
    error: str,
    server: ForkedServer,
    work: Path,
    rule: str,
    files: Sequence[Path] = (),
) -> bool:
    operation, process = kept.operation, server.process.pid
    with _client(server) as http:
        http.get(operation.plan.path)  # loaded
        with attached(process, work / "trace", rule, files=files):
            answer = operation.send(http)
            refused = answer.status_code == REFUSED[error]
            assert refused or answer.is_success, f"{answer.status_code}: {answer.text}"
            done = operation.done(http)
            assert done or refused, "what was acknowledged is not there"
            if files:
                assert http.get("/readyz").status_code == REFUSED[error]
                assert operation.send(http).is_success == answer.is_success
        assert _again(kept, http) or not done
    return done


def _again(kept: Recorded, http: httpx.Client) -> bool:
    """Send the request again, and go on; return whether the answer says that it was done."""
    answer = kept.operation.send(http)
    assert answer.is_success, answer.text
    kept.operation.prove(http)
    said = answer.headers.get("Gradstep-Replayed")
    return said == "true" if said else bool(answer.json()["replayed"])


def _client(server: ForkedServer) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=60)
