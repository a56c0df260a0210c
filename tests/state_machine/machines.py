"""The machines, and running them until they have done so many operations."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test
from state_machine.base import Ground, Tally
from state_machine.branches import Branches
from state_machine.changes import Changes
from state_machine.lives import Lives
from state_machine.restarts import Restarts
from state_machine.steps import Steps

STEPS = 60
"""Operations of one run of a machine."""


class InMemory(Lives, Steps, Changes, Branches):
    """All that can be asked of a service that keeps running."""

    store = "memory://"


class OnSqlite(InMemory, Restarts):
    """All that can be asked of a service, which is ended and started again."""

    store = "sqlite:///{folder}/data"


def explore(
    machine: type[Ground],
    runs: int,
    *,
    steps: int = STEPS,
    number: int = 0,
    phases: tuple[Phase, ...] = (Phase.generate, Phase.shrink),
) -> Tally:
    """Run a machine on services of its own, with other operations for every number.

    Raises:
        AssertionError: the service is not what it must be. It tells the shortest
            way there that was found.
    """
    machine.tally = Tally()
    try:
        run_state_machine_as_test(
            seed(number)(machine),
            settings=settings(
                max_examples=runs,
                stateful_step_count=steps,
                deadline=None,
                database=None,
                phases=phases,
                report_multiple_bugs=False,
                suppress_health_check=list(HealthCheck),
            ),
        )
    except Exception as failure:
        # What fails only now and then is told as a group.
        causes = [repr(cause) for cause in getattr(failure, "exceptions", ())]
        told = "\n".join([str(failure), *causes, *getattr(failure, "__notes__", ())])
        raise AssertionError(f"{machine.__name__}, number {number}: {told}") from failure
    return machine.tally
