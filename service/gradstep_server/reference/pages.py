"""The files of ``docs/reference``: a page and pictures for each kind, and their index.

Nothing is written here that a class does not say, so that a page cannot be
wrong about what the service does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

import numpy as np

from gradstep_server.kinds import MAX_COUNT, Kind
from gradstep_server.optimizers import CLIPS, OPTIMIZERS
from gradstep_server.reference import parameters
from gradstep_server.schedulers import NOTHING, SCHEDULERS, Curve, Schedule, window
from gradstep_server.web.catalogue import MEASURED, KindEntry, kind_entry, scheduler_entry
from gradstep_server.web.curves import caption
from gradstep_server.web.picture import picture

BASE_LR = 0.1
STEPS = 100
"""What the pictures show: few enough points to draw each of them."""

_TORCH = "https://docs.pytorch.org/docs/stable/generated/{}.html"
_SWA = "https://docs.pytorch.org/docs/stable/optim.html#stochastic-weight-averaging"
_OPTAX = "https://optax.readthedocs.io/en/latest/api/{}.html#{}"
_TRANSFORMERS = "https://huggingface.co/docs/transformers/main_classes/optimizer_schedules#{}"


def pages() -> dict[str, bytes]:
    """Return every file of the reference by its path."""
    files = {"README.md": _index().encode()}
    for name, kind in SCHEDULERS.items():
        drawn = list(_pictures(kind))
        files[f"schedulers/{name}.md"] = _page(scheduler_entry(kind), len(drawn)).encode()
        for i, page in enumerate(drawn):
            files[f"schedulers/{_picture_name(name, i)}"] = page
    for name, optimizer in OPTIMIZERS.items():
        files[f"optimizers/{name}.md"] = _page(kind_entry(optimizer), 0).encode()
    for name, clip in CLIPS.items():
        files[f"clips/{name}.md"] = _page(kind_entry(clip), 0).encode()
    return files


def _index() -> str:
    return f"""\
# Reference

Every scheduler, optimizer and kind of clipping, generated from its class by `make docs`. The first
two are served as JSON, too: `GET /v1/schedulers` and `GET /v1/optimizers`. Whole numbers are at
most {MAX_COUNT:,}.

## Schedulers

{_overview(SCHEDULERS, "schedulers")}

## Optimizers

{_overview(OPTIMIZERS, "optimizers")}

## Clipping

What the `clip` of a session may be.

{_overview(CLIPS, "clips")}
"""


def _overview(kinds: Mapping[str, type[Kind]], folder: str) -> str:
    rows = [
        f"| [{name}]({folder}/{name}.md) | {kind.summary()} | {_numbers_of(kind)} |"
        for name, kind in kinds.items()
    ]
    return "\n".join(["| Kind | What it does | Numbers of |", "|---|---|---|", *rows])


def _numbers_of(kind: type[Kind]) -> str:
    known = kind.torch_name or kind.reference
    return f"`{known}`" if known else "its own formula"


def _page(entry: KindEntry, pictures: int) -> str:
    """Return the page of a kind, with pictures of so many of its examples."""
    parts = [f"# {entry.type}", entry.description, f"```math\n{entry.formula}\n```"]
    table = parameters.table(entry.parameters)
    parts += ["## Parameters", table or "It has none."]
    parts += ["## Numbers", _source(entry), "## Examples"]
    if pictures:
        parts.append(f"Drawn with `base_lr` {BASE_LR}, over {STEPS} steps.")
    for i, example in enumerate(entry.examples):
        parts.append(f"```json\n{json.dumps(example, ensure_ascii=False)}\n```")
        if i < pictures:
            parts.append(f"![Its curve]({_picture_name(entry.type, i)})")
    return "\n\n".join(parts) + "\n"


def _source(entry: KindEntry) -> str:
    """Say whose numbers these are, and where they are described."""
    if entry.torch_name:
        address = _SWA if "swa_utils" in entry.torch_name else _TORCH.format(entry.torch_name)
        return f"Those of torch's [`{entry.torch_name}`]({address})."
    if entry.reference:
        optax = entry.reference.startswith("optax.")
        address = _optax(entry) if optax else _TRANSFORMERS.format(entry.reference)
        return f"Those of [`{entry.reference}`]({address})."
    return "Those of the formula: no library has it."


def _optax(entry: KindEntry) -> str:
    """Return where optax describes a kind: clipping is a transformation there."""
    return _OPTAX.format(
        "transformations" if entry.type in CLIPS else "optimizers", entry.reference
    )


def _pictures(kind: type[Schedule]) -> Iterator[bytes]:
    points = window(STEPS)
    for example in kind.examples:
        schedule = kind.model_validate(example)
        followed = schedule.follow(NOTHING, np.array(MEASURED if kind.needs_metrics else ()))
        curve = Curve(schedule, (BASE_LR,), points, followed)
        yield picture(curve, kind.kind_name(), caption(schedule))


def _picture_name(name: str, number: int) -> str:
    return f"{name}-{number + 1}.svg"
