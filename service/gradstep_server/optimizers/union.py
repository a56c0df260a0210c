"""The optimizers there are: this union is the registry, written once."""

from __future__ import annotations

from typing import Annotated

from gradstep_server.kinds import TaggedUnion
from gradstep_server.optimizers.adadelta import Adadelta
from gradstep_server.optimizers.adafactor import Adafactor
from gradstep_server.optimizers.adagrad import Adagrad
from gradstep_server.optimizers.adam import Adam, AdamW
from gradstep_server.optimizers.adamax import Adamax
from gradstep_server.optimizers.asgd import ASGD
from gradstep_server.optimizers.base import Optimizer
from gradstep_server.optimizers.lamb import LAMB
from gradstep_server.optimizers.lars import LARS
from gradstep_server.optimizers.lion import Lion
from gradstep_server.optimizers.muon import Muon
from gradstep_server.optimizers.nadam import NAdam
from gradstep_server.optimizers.radam import RAdam
from gradstep_server.optimizers.rmsprop import RMSprop
from gradstep_server.optimizers.rprop import Rprop
from gradstep_server.optimizers.sgd import SGD
from gradstep_server.optimizers.signsgd import SignSGD

_KINDS: tuple[type[Optimizer], ...] = (
    SGD,
    Adam,
    AdamW,
    RMSprop,
    Adamax,
    Adagrad,
    Adadelta,
    Rprop,
    RAdam,
    Lion,
    SignSGD,
    NAdam,
    ASGD,
    LAMB,
    LARS,
    Adafactor,
    Muon,
)

OPTIMIZERS: dict[str, type[Optimizer]] = {kind.kind_name(): kind for kind in _KINDS}
"""Every optimizer class by the value of its ``type``."""

AnyOptimizer = Annotated[Optimizer, TaggedUnion(lambda: _KINDS)]
"""Validates to the class that ``type`` names."""
