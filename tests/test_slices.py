"""Bounds of slices in compiled modules: mypyc raises SystemError where start passes stop.

CPython gives nothing there, so the interpreted suite cannot meet it. Only slices with both bounds
are concerned: mypyc takes a single one to the nearer end, as CPython does.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKED_ITSELF = {
    "wire/frames": ["data[start:stop]"],
    "session/reading": ["text[at:min(at + _BLOCK, most)]", "text[start:end]"],
    "session/tokens": [
        "text[at:inside]",
        "text[found.end():end - len(value)]",
        "value[1:-1]",
        "value.lstrip('eE')[1:-1]",
    ],
}
"""The body of `between`, which compares the two; and slices of str, which are empty then in machine
code too (PyUnicode_Substring)."""

Sum = Counter[str]
"""What is added up, by its source text; the number itself is under ""."""


def compiled_modules() -> list[str]:
    where = ROOT / "deploy/build/backend.py"
    assigned = [n for n in ast.parse(where.read_text()).body if isinstance(n, ast.Assign)]
    (names,) = (n.value for n in assigned if ast.unparse(n.targets[0]) == "MODULES")
    return str(ast.literal_eval(names)).split()


def slices(tree: ast.AST) -> Iterator[ast.Subscript]:
    """Slices with two bounds that are read; assigned and deleted ones take CPython's own way."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            both = node.slice.lower is not None and node.slice.upper is not None
            if both and isinstance(node.ctx, ast.Load):
                yield node


def added_up(node: ast.expr, constants: dict[str, object]) -> Sum:
    """An expression as a sum of what cannot be taken apart further."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        total = Sum(added_up(node.left, constants))
        right = added_up(node.right, constants)
        total.update(right) if isinstance(node.op, ast.Add) else total.subtract(right)
        return total
    value = node.value if isinstance(node, ast.Constant) else constants.get(ast.unparse(node))
    if isinstance(value, int):
        return Sum({"": value})
    return Sum({ast.unparse(node): 1})


def is_ordered(cut: ast.Slice, constants: dict[str, object]) -> bool:
    """Whether stop is start and something that is never negative: a number, or a length."""
    assert cut.lower is not None
    assert cut.upper is not None
    more = added_up(cut.upper, constants)
    more.subtract(added_up(cut.lower, constants))
    return all(
        count == 0 or (count > 0 and (name == "" or name.startswith("len(")))
        for name, count in more.items()
    )


def unordered(source: str, constants: dict[str, object]) -> list[str]:
    found = slices(ast.parse(source))
    return [
        ast.unparse(node)
        for node in found
        if isinstance(node.slice, ast.Slice) and not is_ordered(node.slice, constants)
    ]


@pytest.mark.parametrize("module", compiled_modules())
def test_no_slice_of_a_compiled_module_can_end_before_it_starts(module: str) -> None:
    constants = vars(importlib.import_module("guardproxy." + module.replace("/", ".")))
    source = (ROOT / "guardproxy" / f"{module}.py").read_text()
    assert unordered(source, constants) == CHECKED_ITSELF.get(module, []), "take frames.between"


@pytest.mark.parametrize(
    ("source", "flagged"),
    [
        ("data[at : at + 4]", False),
        ("data[at + HEAD : at + MOST]", False),
        ("data[at + MOST : at + HEAD]", True),
        ("data[at : at + len(name)]", False),
        ("data[at : at + length]", True),
        ("data[at + HEAD : at + length + 1]", True),
        ("data[start:stop]", True),
        ("data[stop + 1 : data.find(NUL, stop + 1)]", True),
        ("data[start:]", False),
        ("data[:stop]", False),
        ("del data[start:stop]", False),
    ],
)
def test_what_is_flagged(source: str, flagged: bool) -> None:
    assert bool(unordered(source, {"HEAD": 5, "MOST": 256})) is flagged
