"""The reference: a page for every kind, made of what its class says."""

from __future__ import annotations

import json
import posixpath
import re
from xml.etree import ElementTree as ET

import pytest

from gradstep_server.optimizers import CLIPS, OPTIMIZERS
from gradstep_server.reference import pages
from gradstep_server.schedulers import SCHEDULERS

FILES = pages()
KINDS = {
    **{f"schedulers/{name}.md": kind for name, kind in SCHEDULERS.items()},
    **{f"optimizers/{name}.md": kind for name, kind in OPTIMIZERS.items()},
    **{f"clips/{name}.md": kind for name, kind in CLIPS.items()},
}
MARKDOWN = {name: page.decode() for name, page in FILES.items() if name.endswith(".md")}


def test_there_is_a_page_for_every_kind_and_an_index() -> None:
    assert MARKDOWN.keys() == KINDS.keys() | {"README.md"}


@pytest.mark.parametrize("path", KINDS)
def test_a_page_holds_all_that_the_class_says(path: str) -> None:
    kind, page = KINDS[path], MARKDOWN[path]
    assert page.startswith(f"# {kind.kind_name()}\n\n{kind.summary()}")
    assert f"```math\n{kind.formula}\n```" in page
    assert (kind.torch_name or kind.reference or "no library has it") in page
    told = re.findall(r"^\| `(\w+)` \| \S.* \| .* \| \S.* \|$", page, re.MULTILINE)
    assert sorted(told) == sorted(kind.model_fields.keys() - {"type"})
    shown = [json.loads(text) for text in re.findall(r"```json\n(.*)\n```", page)]
    given = [{"type": kind.kind_name(), **example} for example in kind.examples]
    assert shown == json.loads(json.dumps(given))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_example_of_a_scheduler_is_drawn(name: str) -> None:
    drawn = [path for path in FILES if re.fullmatch(rf"schedulers/{name}-\d+\.svg", path)]
    assert len(drawn) == len(SCHEDULERS[name].examples)
    for path in drawn:
        root = ET.fromstring(FILES[path])  # noqa: S314 - our own output
        assert root.findtext("{http://www.w3.org/2000/svg}title") == name
        assert len(FILES[path]) < 5_000


def test_every_link_between_pages_leads_somewhere() -> None:
    followed = set()
    for path, page in MARKDOWN.items():
        for link in re.findall(r"\]\(([^)#]+)(?:#\w+)?\)", page):
            if not link.startswith("https://"):
                target = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
                assert target in FILES, f"{path}: {link}"
                followed.add(target)
    assert followed | {"README.md"} == FILES.keys()


def test_pages_are_the_same_every_time() -> None:
    assert pages() == FILES
