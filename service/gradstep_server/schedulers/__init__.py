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
from gradstep_server.schedulers.union import SCHEDULERS, Scheduler

__all__ = [
    "NOTHING",
    "SCHEDULERS",
    "Curve",
    "Followed",
    "Metrics",
    "Momentums",
    "NegativeRate",
    "OutOfReach",
    "RateError",
    "RateOverflow",
    "Rates",
    "Schedule",
    "Scheduler",
    "Steps",
    "UndefinedRate",
    "Unmeasured",
    "WindowError",
    "window",
]
