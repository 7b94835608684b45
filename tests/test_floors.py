"""The house's order: imports point down only, and every room says what it is for."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import guardproxy

ROOT = Path(__file__).parent.parent
HOUSE = ROOT / "guardproxy"
LONGEST = 600
"""Lines; most longer files have a seam somewhere."""

GROUND = frozenset(
    (
        "addresses",
        "errors",
        "stats",
        "text",
        "views",
        "units",
        "kinds",
        "settings",
        "watching",
        "yamltext",
        "leaves",
        "config",
        "files",
        "phases",
    )
)
FLOORS = {
    **dict.fromkeys(GROUND, 0),
    "wire": 1,
    "session": 2,
    "pool": 2,
    "net": 3,
    "ops": 3,
    "app": 4,
    "signals": 4,
    "cli": 4,
    "calls": 4,
    "operate": 4,
    "top": 4,
    "__main__": 4,
}
OPENINGS = {
    0: ("Ground floor: ",),
    1: ("Sans-I/O: ", "First floor, sans-I/O: "),
    2: ("Sans-I/O: ", "Second floor, sans-I/O: "),
    3: ("Net: ", "Ops: ", "Third floor: "),
    4: ("Roof: ",),
}
"""How a module's docstring begins, by its floor; the second form is a package's."""
ONLY_IN = {
    "twisted": {"net", "ops", "app"},
    "zope": {"net", "ops"},
    "asyncio": {"net", "app"},
    "socket": {"net", "demo", "calls"},
    "yaml": {"yamltext"},
    "click": {"cli", "operate"},
    "django": {"demo"},
    "psycopg": {"demo", "ops"},
    "prometheus_client": {"ops"},
    "rich": {"demo", "top"},
}
"""Who may import what comes from outside (cli reports on a demo that lacks its packages)."""


@dataclass(frozen=True)
class Module:
    path: Path

    @property
    def name(self) -> str:
        parts = self.path.relative_to(ROOT).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def room(self) -> str:
        return self.name.split(".")[1] if "." in self.name else ""

    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text())


MODULES = [Module(path) for path in sorted(HOUSE.rglob("*.py"))]
NAMES = frozenset(module.name for module in MODULES)


def each_module(*, demo: bool = True) -> pytest.MarkDecorator:
    chosen = [module for module in MODULES if demo or module.room != "demo"]
    return pytest.mark.parametrize("module", chosen, ids=lambda module: module.name)


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module named in an import, wherever it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            base = node.module or ""
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in NAMES else base


def at_run_time(tree: ast.Module) -> Iterator[str]:
    """What is imported as soon as the module is: not inside functions or `if TYPE_CHECKING`."""
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from imports(ast.Module([node], []))


def room_of(name: str) -> str:
    return name.split(".")[1] if name.startswith("guardproxy.") else ""


@each_module()
def test_every_room_has_a_floor(module: Module) -> None:
    assert module.room in FLOORS or module.room in ("", "demo")


@each_module(demo=False)
def test_imports_point_down_only(module: Module) -> None:
    """Those for type checkers count too; siblings on a floor above the ground do not meet."""
    own = FLOORS.get(module.room, 0)
    for name in imports(module.tree()):
        room = room_of(name)
        if not room or room == module.room:
            continue
        if room == "demo":
            assert module.room == "cli", f"{module.name} knows the demo"
            continue
        met = FLOORS[room] < own or own == FLOORS[room] in (0, 4)
        assert met, f"{module.name} imports {name}"


def test_within_the_house_nothing_goes_round_in_circles() -> None:
    graph = {
        module.name: {name for name in at_run_time(module.tree()) if name in NAMES}
        for module in MODULES
    }
    for needed in graph.values():
        needed.discard("guardproxy")  # the version only
    graphlib.TopologicalSorter(graph).prepare()  # CycleError if it does


@each_module()
def test_what_comes_from_outside_stays_in_its_room(module: Module) -> None:
    for name in imports(module.tree()):
        allowed = ONLY_IN.get(name.partition(".")[0])
        assert allowed is None or module.room in allowed, f"{module.name} imports {name}"


def test_the_demo_stands_apart() -> None:
    """It uses the guard as any user does: over its command line."""
    for module in MODULES:
        if module.room == "demo":
            used = {room_of(name) for name in imports(module.tree())}
            assert used <= {"", "demo"}, module.name


@each_module(demo=False)
def test_every_module_stands_in_the_map(module: Module) -> None:
    """Under its name, in the docstring of the whole."""
    words = re.findall(r"\w+", guardproxy.__doc__ or "")
    assert module.path.stem in words or module.path.stem == "__init__", f"where is {module.name}?"


@each_module()
def test_every_module_says_what_it_is_for(module: Module) -> None:
    """The first line of its docstring is one sentence or the beginning of one, with its floor."""
    docstring = ast.get_docstring(module.tree())
    assert docstring, f"{module.name} has no docstring"
    if module.room in FLOORS:
        first, _, _ = docstring.partition("\n")
        assert first.startswith(OPENINGS[FLOORS[module.room]]), f"{module.name}: {first}"


@each_module(demo=False)
def test_every_source_file_has_its_test_file(module: Module) -> None:
    """In the folder of the same name: test_<name>.py, or one whose docstring names it."""
    path = module.path.relative_to(HOUSE)
    if path.stem in ("__init__", "__main__"):
        return
    folder = ROOT / "tests" / path.parent
    named = [*folder.glob(f"test_{path.stem}.py"), *folder.glob(f"test_{path.stem}_*.py")]
    told = (ast.get_docstring(ast.parse(test.read_text())) for test in folder.glob("test_*.py"))
    assert named or any(path.name in (text or "") for text in told), f"nothing tests {path}"


@pytest.mark.parametrize("folder", ["guardproxy", "tests", "benchmarks"])
def test_no_file_is_too_long(folder: str) -> None:
    lines = {path: path.read_text().count("\n") for path in (ROOT / folder).rglob("*.py")}
    assert {path: count for path, count in lines.items() if count >= LONGEST} == {}
