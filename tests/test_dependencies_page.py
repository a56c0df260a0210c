"""docs/dependencies.md names what is installed, with the licence that it has."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "dependencies.md").read_text()
EXTRAS = ("postgres", "otel")
PARTS = {"The service": "pyproject.toml", "The SDK": "clients/python/pyproject.toml"}
_CLASSIFIER = re.compile(r"License :: (?:OSI Approved :: )?(.+)")


def rows(part: str) -> dict[str, list[str]]:
    """Return the cells of a table's rows, by what the first one names."""
    section = PAGE.partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line[:3] == "| `"]
    return {first.strip(" `"): [cell.strip() for cell in rest] for first, *rest in lines}


def wanted(file: str) -> set[str]:
    """Return the distributions that a pyproject.toml asks for at run time, with their extras."""
    project: dict[str, Any] = tomllib.loads((ROOT / file).read_text())["project"]
    extras = project.get("optional-dependencies", {})
    texts = [*project["dependencies"], *(text for name in EXTRAS for text in extras.get(name, []))]
    return {_name(Requirement(text)) for text in texts}


def _name(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return canonicalize_name(requirement.name) + extras


def licence(distribution: str) -> str:
    """Return what a distribution says: an expression, else classifiers, else the free field."""
    told = metadata(distribution.partition("[")[0])
    if expression := told["License-Expression"]:
        return expression
    named = [m[1] for m in map(_CLASSIFIER.fullmatch, told.get_all("Classifier", [])) if m]
    return ", ".join(named) or told["License"]


@pytest.mark.parametrize("part", PARTS)
def test_the_table_names_what_the_project_asks_for(part: str) -> None:
    assert rows(part).keys() == wanted(PARTS[part])


@pytest.mark.parametrize(
    ("part", "distribution"), [(part, name) for part in PARTS for name in rows(part)]
)
def test_the_licence_is_the_one_that_it_says(part: str, distribution: str) -> None:
    _purpose, said, *_others = rows(part)[distribution]
    assert said == licence(distribution)


def test_every_cell_says_something() -> None:
    for part in PARTS:
        for name, cells in rows(part).items():
            assert len(cells) == 4, name
            assert all(cells), name
