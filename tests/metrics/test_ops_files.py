"""The alerts and the dashboard ask for metrics that exist, and the page for operators tells them.

The expressions are taken apart here rather than run: what counts is that every
name and every label in them is one that the service exposes after one step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from session_app import f32, running

from gradstep_server.metrics import Families

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "ops" / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD: dict[str, Any] = json.loads((ROOT / "ops" / "dashboard.json").read_text())

ADDED = frozenset({"instance", "job"})
"""Labels that Prometheus adds itself."""

_WORDS = frozenset({"and", "or", "unless", "by", "without", "on", "ignoring"})
_SELECTOR = re.compile(r"([a-zA-Z_:]\w*)\{([^}]*)\}")
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring) \(([^)]*)\)")
_NAME = re.compile(r"(?<![\w$.])[a-zA-Z_:][\w:]*(?!\w*\s*\()")


@pytest.fixture(scope="module")
def exposed() -> Mapping[str, set[str]]:
    """The labels of every sample that is exposed after one step, by its name."""
    with running() as service:
        path = service.session("s", params={"w": [0.0, 0.0]})
        service.step(path, 1, {"w": f32(1, 2)})
        text = service.get("/metrics").text
    found: dict[str, set[str]] = {"up": set()}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    # These have no sample before the first snapshot.
    for suffix in ("count", "sum", "bucket"):
        found.setdefault(f"gradstep_snapshot_seconds_{suffix}", {"outcome", "le"})
    return found


def expressions() -> Iterator[tuple[str, str]]:
    """Yield every expression with where it stands."""
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


def names_in(expression: str) -> set[str]:
    """Return the metrics that an expression names."""
    bare = _SELECTOR.sub(r"\1", expression)
    bare = _GROUPING.sub("", bare)
    bare = re.sub(r"\[[^\]]*\]", "", bare)
    return set(_NAME.findall(bare)) - _WORDS


def labels_in(expression: str) -> set[tuple[str, str]]:
    """Return the labels by which an expression selects, each with its metric."""
    return {
        (name, label)
        for name, matchers in _SELECTOR.findall(expression)
        for label in re.findall(r"(\w+)\s*[=!]", matchers)
    }


@pytest.mark.parametrize(("where", "expression"), [*expressions()])
def test_an_expression_names_only_what_is_exposed(
    exposed: Mapping[str, set[str]], where: str, expression: str
) -> None:
    names = names_in(expression)
    assert names, where
    assert names <= exposed.keys()
    for name, label in labels_in(expression):
        assert label in exposed[name] | ADDED, (where, name, label)
    grouped = {label for group in _GROUPING.findall(expression) for label in group.split(", ")}
    assert grouped <= set().union(*(exposed[name] for name in names)) | ADDED


def test_a_metric_that_is_not_there_would_be_found() -> None:
    expression = 'sum by (le) (rate(gradstep_gone_total{status="5xx"}[5m])) / gradstep_lost > 1e3'
    assert names_in(expression) == {"gradstep_gone_total", "gradstep_lost"}
    assert labels_in(expression) == {("gradstep_gone_total", "status")}


def test_every_alert_says_how_grave_it_is_and_has_its_section() -> None:
    alerts = [rule["alert"] for rule in RULES]
    assert len(set(alerts)) == len(alerts)
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}
    assert re.findall(r"^### (Gradstep\w+)$", PAGE, re.MULTILINE) == alerts
    assert all(rule["annotations"]["summary"] for rule in RULES)


def test_every_metric_is_on_the_dashboard() -> None:
    asked = set().union(*(names_in(expr) for _, expr in expressions()))
    for family in Families().registry.collect():
        assert any(name.startswith(family.name) for name in asked), family.name


def test_the_table_of_metrics_is_what_the_code_defines() -> None:
    table = "\n".join(
        f"| `{_shown_name(family.name, family.type)}` | {family.type} "
        f"| {', '.join(f'`{label}`' for label in _labels(family.name))} "
        f"| {family.documentation} |"
        for family in Families().registry.collect()
    )
    assert table in PAGE, f"docs/operations.md should have this table:\n{table}"


def _shown_name(name: str, kind: str) -> str:
    return f"{name}_total" if kind == "counter" else name


def _labels(name: str) -> tuple[str, ...]:
    [collector] = [one for one in vars(Families()).values() if getattr(one, "_name", None) == name]
    found: tuple[str, ...] = collector._labelnames
    return found


def test_the_dashboard_has_panels_that_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [
        (x, y)
        for at in places
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(places)
