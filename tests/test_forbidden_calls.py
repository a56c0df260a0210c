"""Neither the service nor the SDK runs what it is sent: no pickle, no eval, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = (ROOT / "service", ROOT / "clients" / "python")
MODULES = frozenset({"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"})
"""Modules whose files run code when they are read."""

BUILTINS = frozenset({"eval", "exec", "compile", "__import__"})
CALLS = frozenset({"os.system", "os.popen", "yaml.load", "yaml.unsafe_load", "torch.load"})
FLAGS: Mapping[str, bool] = {"shell": False, "allow_pickle": False}
"""Arguments, and the only value that they may have."""

NAMES = {"np": "numpy"}


def _dotted(node: ast.expr) -> str:
    """Return a name as it is written, such as ``os.system``; empty where it is none."""
    if isinstance(node, ast.Name):
        return NAMES.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (base := _dotted(node.value)):
        return f"{base}.{node.attr}"
    return ""


def _imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str]]:
    """Yield what is imported in full, and the name that it gets."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, alias.asname or alias.name) for alias in node.names)
    elif not node.level:
        yield from ((f"{node.module}.{a.name}", a.asname or a.name) for a in node.names)


def forbidden(source: str) -> list[str]:
    """Return what a module does that it must not, by line."""
    tree, found = ast.parse(source), []
    real: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            real |= {name: full for full, name in _imported(node)}
            found += [
                f"{node.lineno}: imports {full}"
                for full, _ in _imported(node)
                if full.partition(".")[0] in MODULES
            ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _dotted(node.func)
            first, dot, rest = name.partition(".")
            name = real.get(first, first) + dot + rest
            if name in BUILTINS or name in CALLS or name.removeprefix("builtins.") in BUILTINS:
                found.append(f"{node.lineno}: calls {name}")
            for given in node.keywords:
                wanted = FLAGS.get(given.arg or "")
                if wanted is not None and not (
                    isinstance(given.value, ast.Constant) and given.value.value is wanted
                ):
                    found.append(f"{node.lineno}: {name} with {given.arg}")
    return found


def test_nothing_runs_what_it_is_sent() -> None:
    paths = [path for tree in TREES for path in sorted(tree.rglob("*.py"))]
    assert len(paths) > 100
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        for line in forbidden(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "def late():\n    import marshal as m",
        "import shelve, json",
        "import dill",
        "eval('1')",
        "exec(text)",
        "compile(text, '', 'exec')",
        "import builtins\nbuiltins.eval('1')",
        "import os\nos.system('ls')",
        "import os as o\no.popen('ls')",
        "from os import system\nsystem('ls')",
        "from os import popen as run\nrun('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import subprocess\nsubprocess.run('ls', shell=flag)",
        "import yaml\nyaml.load(text, Loader=yaml.Loader)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
    ],
)
def test_what_would_is_found(source: str) -> None:
    assert len(forbidden(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import re\nre.compile('a')",
        "import subprocess\nsubprocess.run(['ls'], shell=False)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
        "import numpy as np\nnp.load(path)",
        "import yaml\nyaml.safe_load(text)",
        "model.eval()",
    ],
)
def test_what_would_not_is_let_be(source: str) -> None:
    assert forbidden(source) == []
