"""Imports run one way, and files and functions stay small."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = "gradstep_server"
SERVICE = Path(__file__).parents[1] / "service" / PACKAGE

MAX_FILE = 400
MAX_FUNCTION = 60
VAGUE = frozenset({"utils", "helpers", "manager"})
ROOTS = frozenset(
    {
        "admission",
        "app",
        "cli",
        "deadline",
        "draining",
        "ending",
        "heaps",
        "maintenance",
        "opening",
        "serving",
        "session_files",
        "unix_socket",
    }
)
"""Modules that may see every layer, and the settings."""

LAYERS: Mapping[str, frozenset[str]] = {
    "__init__": frozenset(),
    "kinds": frozenset(),
    "errors": frozenset(),
    "settings": frozenset({"memory_limit"}),
    "memory_limit": frozenset(),
    "backprop": frozenset(),
    "kernel_cache": frozenset(),
    "keys": frozenset(),
    "schedulers": frozenset({"kernel_cache", "kinds"}),
    "optimizers": frozenset({"kernel_cache", "kinds"}),
    "sessions": frozenset({"errors", "kinds", "schedulers", "optimizers"}),
    "stores": frozenset({"sessions"}),
    "web": frozenset(
        {"errors", "keys", "kinds", "schedulers", "optimizers", "backprop", "sessions"}
    ),
    "metrics": frozenset({"sessions", "web"}),
    "logs": frozenset({"web"}),
    "reference": frozenset({"kinds", "schedulers", "optimizers", "web"}),
}
"""What each layer may import of the project, beside itself and the version."""

_PYDANTIC = frozenset({"pydantic", "pydantic_core"})
_NUMERIC = _PYDANTIC | {"numpy"}
FOREIGN: Mapping[str, frozenset[str]] = {
    "kinds": _PYDANTIC,
    "settings": frozenset({"limits", "pydantic", "pydantic_settings"}),
    "backprop": _NUMERIC,
    "kernel_cache": frozenset({"numba"}),
    "keys": _PYDANTIC,
    "schedulers": _NUMERIC | {"numba"},
    "optimizers": _NUMERIC | {"numba"},
    "sessions": _NUMERIC | {"orjson", "blake3"},
    "stores": frozenset({"apsw", "asyncpg"}),
    "reference": frozenset({"numpy", "orjson"}),
    "metrics": frozenset({"prometheus_client"}),
    "logs": frozenset({"orjson", "structlog"}),
    "web": _NUMERIC
    | {"orjson", "fastapi", "starlette", "fastapi_swagger", "uvicorn", "httptools", "limits"},
}
"""What each layer may import beside the project and the standard library."""


def _modules(root: Path) -> Iterator[tuple[str, Path, ast.Module]]:
    """Yield every module of a package: its layer, its path, its syntax tree."""
    for path in sorted(root.rglob("*.py")):
        layer = path.relative_to(root).parts[0].removesuffix(".py")
        yield layer, path, ast.parse(path.read_text(), str(path))


def _imports(tree: ast.Module, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the dotted names that a module imports, wherever in it that happens.

    Args:
        tree: the module.
        package: the package that the module is in, where relative imports start.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else ()
            module = (*base, *(node.module.split(".") if node.module else ()))
            yield from ((*module, alias.name) for alias in node.names)


def _wrong_arrows(root: Path) -> list[str]:
    """Return every import that no layer's list allows."""
    found = []
    for layer, path, tree in _modules(root):
        if layer in ROOTS:
            continue
        if layer not in LAYERS:
            found.append(f"{path.name}: {layer} is in no layer; give it a place in LAYERS")
            continue
        package = (PACKAGE, *path.relative_to(root).parent.parts)
        for top, *rest in _imports(tree, package):
            if top == PACKAGE:
                target = rest[0] if rest else "__init__"
                allowed = LAYERS[layer] | {layer, "__version__"}
            elif top in sys.stdlib_module_names:
                continue
            else:
                target, allowed = top, FOREIGN.get(layer, frozenset())
            if target not in allowed:
                found.append(f"{path.relative_to(root)}: {layer} imports {target}")
    return found


def _length(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function from its signature, without its docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    first = function.body[0]
    if ast.get_docstring(function) is not None and first.end_lineno is not None:
        lines -= first.end_lineno - first.lineno + 1
    return lines


def _oversized(root: Path) -> list[str]:
    """Return files and functions beyond the bounds, and files with vague names."""
    found = []
    for _, path, tree in _modules(root):
        name = path.relative_to(root)
        lines = len(path.read_text().splitlines())
        if lines > MAX_FILE:
            found.append(f"{name}: {lines} lines")
        if VAGUE & set(path.stem.split("_")):
            found.append(f"{name}: a name that says nothing")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = _length(node)
                if length > MAX_FUNCTION:
                    found.append(f"{name}: {node.name} has {length} lines")
    return found


def test_imports_run_one_way() -> None:
    assert _wrong_arrows(SERVICE) == []


def test_every_layer_exists_and_was_read() -> None:
    read = {layer for layer, _, _ in _modules(SERVICE)}
    assert read == LAYERS.keys() | ROOTS


def test_stores_and_web_never_meet() -> None:
    """Not even through a layer between them: neither may import one that imports the other."""
    for start, goal in (("stores", "web"), ("web", "stores")):
        reached, waiting = set(), {start}
        while waiting:
            reached |= waiting
            waiting = {below for layer in waiting for below in LAYERS[layer]} - reached
        assert goal not in reached


def test_files_and_functions_stay_small() -> None:
    assert _oversized(SERVICE) == []


@pytest.mark.parametrize(
    ("module", "line", "arrow"),
    [
        ("kinds.py", "from gradstep_server.schedulers import Schedule", "kinds imports schedulers"),
        ("schedulers/a.py", "import gradstep_server.optimizers", "schedulers imports optimizers"),
        ("schedulers/a.py", "import scipy.special", "schedulers imports scipy"),
        ("optimizers/a.py", "import torch", "optimizers imports torch"),
        ("optimizers/a.py", "from ..sessions import state", "optimizers imports sessions"),
        ("sessions/a.py", "from gradstep_server.stores import urls", "sessions imports stores"),
        ("sessions/a.py", "from gradstep_server import web", "sessions imports web"),
        ("sessions/a.py", "from fastapi import Request", "sessions imports fastapi"),
        ("sessions/a.py", "def late():\n    import apsw", "sessions imports apsw"),
        ("sessions/a.py", "import starlette.requests", "sessions imports starlette"),
        ("sessions/a.py", "import uvicorn", "sessions imports uvicorn"),
        ("sessions/a.py", "from gradstep_server.settings import Settings", "imports settings"),
        ("stores/a.py", "from gradstep_server.web import errors", "stores imports web"),
        ("stores/a.py", "from ..web.errors import MalformedBody", "stores imports web"),
        ("stores/a.py", "import numpy", "stores imports numpy"),
        ("web/a.py", "from gradstep_server.stores.memory import MemoryStore", "web imports stores"),
        ("web/a.py", "from .. import stores", "web imports stores"),
        ("web/a.py", "from gradstep_server.app import create_app", "web imports app"),
        ("web/a.py", "from gradstep_server import settings", "web imports settings"),
        ("web/deep/a.py", "from ...stores import memory", "web imports stores"),
        ("settings.py", "import gradstep_server.kinds", "settings imports kinds"),
        ("extra.py", "x = 1", "extra is in no layer"),
    ],
)
def test_an_arrow_that_runs_the_wrong_way_is_found(
    tmp_path: Path, module: str, line: str, arrow: str
) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"import json\n{line}\n")
    [found] = _wrong_arrows(tmp_path)
    assert arrow in found


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("app.py", "from gradstep_server.stores.urls import open_store"),
        ("cli.py", "from gradstep_server.settings import Settings"),
        ("sessions/a.py", "from gradstep_server.optimizers import Compute"),
        ("stores/a.py", "from gradstep_server.sessions.store import Store"),
        ("web/a.py", "from gradstep_server import __version__"),
        ("web/a.py", "from .errors import MalformedBody"),
    ],
)
def test_an_arrow_that_runs_the_right_way_is_allowed(
    tmp_path: Path, module: str, line: str
) -> None:
    path = tmp_path / module
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{line}\n")
    assert _wrong_arrows(tmp_path) == []


def test_what_has_grown_too_large_is_found(tmp_path: Path) -> None:
    long = "def long():\n" + "    x = 1\n" * MAX_FUNCTION
    documented = 'def told():\n    """Say.\n' + "\n" * MAX_FUNCTION + '    """\n    return 1\n'
    (tmp_path / "a.py").write_text(f"class C:\n    pass\n\n\n{long}\n\n{documented}")
    (tmp_path / "b.py").write_text("x = 1\n" * (MAX_FILE + 1))
    (tmp_path / "web_utils.py").write_text("x = 1\n")
    assert _oversized(tmp_path) == [
        "a.py: long has 61 lines",
        "b.py: 401 lines",
        "web_utils.py: a name that says nothing",
    ]
