"""Optimizers that torch lacks, written down from their papers in torch's plain operations."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

PAPERS: Mapping[str, Callable[..., torch.optim.Optimizer]] = {}
"""The optimizer of each such kind."""
