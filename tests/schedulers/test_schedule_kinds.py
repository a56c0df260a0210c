"""What scheduler classes do beyond what tests/test_kinds.py asks of every kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel, ValidationError
from schedule_samples import SCHEDULER, measured

from gradstep_server.schedulers import SCHEDULERS, Scheduler

EXAMPLES = [
    {"type": name, **params} for name, kind in SCHEDULERS.items() for params in kind.examples
]


class Body(BaseModel):
    """The union in a field, as requests hold it."""

    scheduler: Scheduler


@pytest.mark.parametrize("params", EXAMPLES, ids=str)
def test_an_example_gives_rates(params: dict[str, Any]) -> None:
    schedule = SCHEDULER.validate_python(params)
    rates = schedule.lrs(np.arange(300), 0.1, measured(schedule))
    assert rates.shape == (300,)
    assert rates.dtype == np.float64
    assert (rates >= 0).all()


def test_an_error_in_a_nested_scheduler_says_where_it_is() -> None:
    params = {
        "type": "SequentialLR",
        "schedulers": [{"type": "LinearLR"}, {"type": "StepLR", "step_size": 0}],
        "milestones": [5],
    }
    with pytest.raises(ValidationError) as caught:
        Body.model_validate({"scheduler": params})
    (error,) = caught.value.errors()
    assert error["loc"] == ("scheduler", "SequentialLR", "schedulers", 1, "StepLR", "step_size")


def test_the_schema_selects_by_the_type_at_every_depth() -> None:
    schema = Body.model_json_schema()
    definitions = schema["$defs"]
    outer = schema["properties"]["scheduler"]
    inner = definitions["SequentialLR"]["properties"]["schedulers"]["items"]
    for place in (outer, inner):
        assert place["discriminator"]["propertyName"] == "type"
        assert set(place["discriminator"]["mapping"]) == set(SCHEDULERS)
