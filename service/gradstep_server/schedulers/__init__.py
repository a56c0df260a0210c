"""What a schedule is: one class per kind, a closed form over an array of steps."""

from gradstep_server.schedulers.base import (
    Metrics,
    Momentums,
    NegativeRate,
    OutOfReach,
    RateError,
    RateOverflow,
    Rates,
    Schedule,
    Steps,
    UndefinedRate,
    Unmeasured,
)
from gradstep_server.schedulers.curve import Curve, WindowError, window
from gradstep_server.schedulers.followed import NOTHING, Followed
from gradstep_server.schedulers.loop import DIRECT, Loop, Places, Unit
from gradstep_server.schedulers.union import SCHEDULERS, Scheduler

__all__ = [
    "DIRECT",
    "NOTHING",
    "SCHEDULERS",
    "Curve",
    "Followed",
    "Loop",
    "Metrics",
    "Momentums",
    "NegativeRate",
    "OutOfReach",
    "Places",
    "RateError",
    "RateOverflow",
    "Rates",
    "Schedule",
    "Scheduler",
    "Steps",
    "UndefinedRate",
    "Unit",
    "Unmeasured",
    "WindowError",
    "window",
]
