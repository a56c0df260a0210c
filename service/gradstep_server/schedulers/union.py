"""The union of all scheduler classes, written once: it is the registry."""

from __future__ import annotations

from typing import Annotated

from gradstep_server.kinds import TaggedUnion
from gradstep_server.schedulers.base import Schedule
from gradstep_server.schedulers.chained_scheduler import ChainedScheduler
from gradstep_server.schedulers.constant_lr import ConstantLR
from gradstep_server.schedulers.cosine_annealing_lr import CosineAnnealingLR
from gradstep_server.schedulers.cosine_annealing_warm_restarts import CosineAnnealingWarmRestarts
from gradstep_server.schedulers.cyclic_lr import CyclicLR
from gradstep_server.schedulers.exponential_lr import ExponentialLR
from gradstep_server.schedulers.expression_lr import ExpressionLR
from gradstep_server.schedulers.hf_constant_with_warmup import HFConstantWithWarmup
from gradstep_server.schedulers.hf_cosine import HFCosine
from gradstep_server.schedulers.hf_cosine_warmup_with_min_lr import HFCosineWarmupWithMinLr
from gradstep_server.schedulers.hf_cosine_with_min_lr import HFCosineWithMinLr
from gradstep_server.schedulers.hf_cosine_with_restarts import HFCosineWithRestarts
from gradstep_server.schedulers.hf_inverse_sqrt import HFInverseSqrt
from gradstep_server.schedulers.hf_linear import HFLinear
from gradstep_server.schedulers.hf_polynomial import HFPolynomial
from gradstep_server.schedulers.hf_warmup_stable_decay import HFWarmupStableDecay
from gradstep_server.schedulers.linear_lr import LinearLR
from gradstep_server.schedulers.multi_step_lr import MultiStepLR
from gradstep_server.schedulers.one_cycle_lr import OneCycleLR
from gradstep_server.schedulers.piecewise_lr import PiecewiseLR
from gradstep_server.schedulers.polynomial_lr import PolynomialLR
from gradstep_server.schedulers.reduce_lr_on_plateau import ReduceLROnPlateau
from gradstep_server.schedulers.sequential_lr import SequentialLR
from gradstep_server.schedulers.step_lr import StepLR
from gradstep_server.schedulers.swalr import SWALR

_KINDS: tuple[type[Schedule], ...] = (
    StepLR,
    MultiStepLR,
    ExponentialLR,
    CosineAnnealingLR,
    ConstantLR,
    LinearLR,
    PolynomialLR,
    CosineAnnealingWarmRestarts,
    OneCycleLR,
    CyclicLR,
    SWALR,
    ReduceLROnPlateau,
    HFLinear,
    HFCosine,
    HFCosineWithRestarts,
    HFPolynomial,
    HFConstantWithWarmup,
    HFInverseSqrt,
    HFCosineWithMinLr,
    HFCosineWarmupWithMinLr,
    HFWarmupStableDecay,
    PiecewiseLR,
    ExpressionLR,
    SequentialLR,
    ChainedScheduler,
)

SCHEDULERS: dict[str, type[Schedule]] = {kind.kind_name(): kind for kind in _KINDS}
"""Every scheduler class by its ``type``, in the order of the union."""

Scheduler = Annotated[Schedule, TaggedUnion(lambda: _KINDS)]
"""Any scheduler: validates a value by the class that its ``type`` names."""

# A composite holds the union that it belongs to, which exists only here.
for _composite in (SequentialLR, ChainedScheduler):
    _composite.model_rebuild(_types_namespace={"Scheduler": Scheduler})
