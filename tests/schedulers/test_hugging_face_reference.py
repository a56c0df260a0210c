"""The state machine's own form of Hugging Face's schedules, against the recorded curves."""

from __future__ import annotations

import json
from pathlib import Path

import hugging_face_schedules
import pytest
from schedule_samples import SCHEDULER

from gradstep_server.schedulers import SCHEDULERS

GOLDEN = Path(__file__).parents[1] / "golden" / "schedulers"


@pytest.mark.parametrize("kind", [name for name, made in SCHEDULERS.items() if made.reference])
def test_it_is_that_of_transformers(kind: str) -> None:
    for case in json.loads((GOLDEN / f"{kind}.json").read_text())["cases"]:
        params, base_lr = case["params"], case["base_lr"]
        whole = SCHEDULER.validate_python(params).model_dump(mode="json")
        for t, expected in enumerate(case["lr"]):
            got = hugging_face_schedules.rate(whole, base_lr, t)
            assert abs(got - expected) <= 1e-9 * abs(expected) + 1e-12 * base_lr, (params, t)
