"""What a step is: one class per kind, one compiled loop each."""

from gradstep_server.optimizers.adam import Adam, AdamW
from gradstep_server.optimizers.base import Due, Optimizer, Scalars, Shape
from gradstep_server.optimizers.clipping import Clipping
from gradstep_server.optimizers.clips import CLIPS, AnyClip, Clip
from gradstep_server.optimizers.compute import (
    BLOCK,
    Compute,
    FloatArray,
    Pass,
    Scalar,
    added,
    in_dtype,
    round_to_bfloat16,
)
from gradstep_server.optimizers.sgd import SGD
from gradstep_server.optimizers.union import OPTIMIZERS, AnyOptimizer
from gradstep_server.optimizers.warmup import warm_up
from gradstep_server.optimizers.whole import matrices

__all__ = [
    "BLOCK",
    "CLIPS",
    "OPTIMIZERS",
    "SGD",
    "Adam",
    "AdamW",
    "AnyClip",
    "AnyOptimizer",
    "Clip",
    "Clipping",
    "Compute",
    "Due",
    "FloatArray",
    "Optimizer",
    "Pass",
    "Scalar",
    "Scalars",
    "Shape",
    "added",
    "in_dtype",
    "matrices",
    "round_to_bfloat16",
    "warm_up",
]
