"""The tests' own order: what tests share is in `support`, and every test has a folder."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]
FILES = [path for path in TESTS.rglob("*.py") if not {".venv", "node_modules"} & set(path.parts)]


def test_no_test_imports_a_test() -> None:
    """No file of the tests, nor of `support`, imports a test module."""
    found, seen = [], 0
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                seen += 1
                names = [alias.name for alias in node.names]
                modules = names if isinstance(node, ast.Import) else [node.module or "", *names]
                found += [(path.name, name) for name in modules if name.rpartition(".")[2].startswith("test_")]
    assert seen > 1000
    assert found == []


def test_each_test_has_a_folder_and_a_name_of_its_own() -> None:
    """No test is in the root, and no two test files have one name: pytest knows them by it."""
    names = Counter(path.name for path in FILES if path.name.startswith("test_"))
    assert [path.name for path in TESTS.glob("*.py")] == ["conftest.py"]
    assert [name for name, count in names.items() if count > 1] == []
