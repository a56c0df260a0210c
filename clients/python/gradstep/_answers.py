"""Reading answers: one function per form of answer, each from bytes to the SDK's types."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gradstep import _safetensors
from gradstep._core import Answer
from gradstep._errors import AnswerMalformed
from gradstep._fields import Fields
from gradstep._types import (
    Curve,
    EpochReceipt,
    ForkedFrom,
    Group,
    History,
    JsonObject,
    Kind,
    Params,
    Receipt,
    SessionInfo,
    SessionSummary,
    State,
    TensorInfo,
)


def fields(answer: Answer) -> Fields:
    """Return the JSON object of an answer."""
    return Fields.parse(bytes(answer.body))


def tensors(answer: Answer) -> tuple[Params, dict[str, str]]:
    """Return the tensors of an answer, as views of it, and what stands beside them."""
    try:
        return _safetensors.decode(answer.body)
    except ValueError as error:
        msg = f"the answer is no safetensors file: {error}"
        raise AnswerMalformed(msg) from error


def curve(answer: Answer) -> Curve:
    """Return a curve."""
    found = fields(answer)
    return Curve(
        step=found.whole_column("step"),
        position=found.number_column_or_none("position"),
        lr=found.number_column("lr"),
        momentum=found.number_column_or_none("momentum"),
        warnings=tuple(map(str, found.items("warnings"))),
    )


def kind(found: Fields) -> Kind:
    """Return an entry of the catalogue."""
    return Kind(
        type=found.text("type"),
        summary=found.text("summary"),
        description=found.text("description"),
        formula=found.text("formula"),
        torch_name=found.text("torch_name"),
        reference=found.text("reference"),
        parameters=found.mapping("parameters"),
        examples=found.mappings("examples"),
        curve=found.text_or_none("curve"),
    )


def summary(found: Fields) -> SessionSummary:
    """Return a line of the list of sessions."""
    return SessionSummary(
        id=found.text("id"),
        name=found.text_or_none("name"),
        step=found.whole("step"),
        optimizer=found.text("optimizer"),
        created_at=found.moment("created_at"),
        updated_at=found.moment("updated_at"),
    )


def session(answer: Answer) -> SessionInfo:
    """Return the description of a session."""
    found = fields(answer)
    return SessionInfo(
        id=found.text("id"),
        name=found.text_or_none("name"),
        step=found.whole("step"),
        epoch=found.whole("epoch"),
        generation=found.whole("generation"),
        seq=found.whole("seq"),
        durable_step=found.whole("durable_step"),
        oldest_step=found.whole("oldest_step"),
        optimizer=found.mapping("optimizer"),
        scheduler=found.mapping_or_none("scheduler"),
        weight_decay_scheduler=found.mapping_or_none("weight_decay_scheduler"),
        schedule_on=found.text("schedule_on"),
        param_groups=found.mappings("param_groups"),
        groups=tuple(
            Group(tuple(map(str, group.items("tensors"))), group.mapping("optimizer"))
            for group in found.objects("groups")
        ),
        freeze=tuple(map(str, found.items("freeze"))),
        accumulate=found.mapping_or_none("accumulate"),
        accumulated=found.whole("accumulated"),
        clip=found.mapping_or_none("clip"),
        on_nonfinite=found.text("on_nonfinite"),
        durability=found.text("durability"),
        retain=found.text_or_whole("retain"),
        dtype=found.text("dtype"),
        forked_from=_forked_from(found.mapping_or_none("forked_from")),
        lr=found.numbers("lr"),
        momentum=found.number_or_none("momentum"),
        weight_decay=found.numbers_or_none("weight_decay"),
        tensors={
            name: _tensor_info(Fields(entry)) for name, entry in found.mapping("tensors").items()
        },
        created_at=found.moment("created_at"),
        updated_at=found.moment("updated_at"),
        replayed=found.flag("replayed"),
    )


def _forked_from(members: JsonObject | None) -> ForkedFrom | None:
    if members is None:
        return None
    found = Fields(members)
    return ForkedFrom(found.text("id"), found.whole("step"), found.whole("generation"))


def _tensor_info(found: Fields) -> TensorInfo:
    shape = found.whole_column("shape")
    return TensorInfo(found.text("dtype"), tuple(map(int, shape)))


def place(answer: Answer) -> tuple[int, int]:
    """Return the position and the generation that an answer's headers name."""
    headers = answer.headers
    try:
        return int(headers["gradstep-step"]), int(headers["gradstep-generation"])
    except (KeyError, ValueError) as error:
        raise AnswerMalformed("the answer's headers do not say where the session stands") from error


def receipt(answer: Answer) -> Receipt:
    """Return a step's receipt that came alone."""
    return receipt_of(fields(answer))


def receipt_of(found: Fields) -> Receipt:
    """Return a step's receipt."""
    return Receipt(
        step=found.whole("step"),
        position=found.whole("position"),
        replayed=found.flag("replayed"),
        applied=found.flag("applied"),
        accumulated=found.whole_or_none("accumulated"),
        durable_step=found.whole("durable_step"),
        lr=found.numbers("lr"),
        next_lr=found.numbers("next_lr"),
        momentum=found.number_or_none("momentum"),
        weight_decay=found.numbers_or_none("weight_decay"),
        grad_norm=found.number_or_none("grad_norm"),
        loss=found.number_or_none("loss"),
        clipped=found.flag("clipped"),
        frozen=found.whole("frozen"),
        generation=found.whole("generation"),
    )


def step(answer: Answer) -> tuple[Receipt, Params]:
    """Return a step's receipt and the parameters after it."""
    params, metadata = tensors(answer)
    return receipt_of(Fields.parse(metadata.get("receipt", ""))), params


def epoch(answer: Answer) -> EpochReceipt:
    """Return the receipt of an epoch's end."""
    found = fields(answer)
    return EpochReceipt(
        epoch=found.whole("epoch"),
        step=found.whole("step"),
        replayed=found.flag("replayed"),
        metric=found.number_or_none("metric"),
        lr=found.numbers("lr"),
        generation=found.whole("generation"),
    )


def state(answer: Answer) -> State:
    """Return a whole state."""
    return State(*tensors(answer))


def history(answer: Answer) -> tuple[History, int | None]:
    """Return a page of a history, and the step behind which the next page begins."""
    found = fields(answer)
    step = found.whole_column("step")
    lr = found.number_column("lr")
    page = History(
        step=step,
        lr=lr.T if lr.ndim > 1 else np.empty((0, 0)),
        grad_norm=found.number_column("grad_norm"),
        loss=found.number_column("loss"),
        applied=found.flag_column("applied"),
        clipped=found.flag_column("clipped"),
    )
    following = found.number_or_none("next")
    return page, None if following is None else int(following)


def joined(pages: Sequence[History]) -> History:
    """Return the pages of a history as one."""
    full = [page for page in pages if page.step.size] or pages[:1]
    return History(
        *(
            np.concatenate([getattr(page, column.name) for page in full], axis=-1)
            for column in dataclasses.fields(History)
        )
    )
