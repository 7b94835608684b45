"""The README's table of what happens in transaction mode: each row of it has its tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
LINK = re.compile(r"\[(test_\w+)\]\((tests/[\w/]+\.py)\)")


def rows() -> list[str]:
    found = re.search(r"<!-- features:.*?-->\n(.*?)<!-- end", README, re.DOTALL)
    assert found
    return found[1].strip().splitlines()[2:]


def named_in(path: Path) -> set[str]:
    """The names of the tests that pytest finds there."""
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", rows())
def test_each_row_is_tested(row: str) -> None:
    """It links a test at least, and each one that it links is there."""
    feature, *_, tested_by = row.strip("| ").split(" | ")
    links = LINK.findall(tested_by)
    assert links, f"nothing tests: {feature}"
    for name, path in links:
        assert name in named_in(ROOT / path), f"no {name} in {path}"


def test_each_row_is_complete() -> None:
    """Feature, ours, PgBouncer's, RDS Proxy's, tests."""
    assert len(rows()) > 20
    assert {len(row.strip("| ").split(" | ")) for row in rows()} == {5}
