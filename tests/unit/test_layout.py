"""The house rules that no linter knows: what lies where, how long a file may be, what has a docstring."""

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "zfabric").rglob("*.py"))

TOP_LEVEL = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "examples",
    "pyproject.toml",
    "setup.cfg",
    "tests",
    "tools",
    "zfabric",
}
LINES_MAX = 500
LONGER: dict[str, int] = {}
"""Files that may be longer, each with its own bound. A table of one idea may be; a second idea may not move in."""


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def is_public(path):
    return not any(part.startswith("_") and not part.startswith("__") for part in path.relative_to(ROOT).parts)


def documented(node, prefix):
    """Yield (qualified name, whether it has a docstring) of the public functions and classes in a module or class."""
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or child.name.startswith("_"):
            continue
        decorators = [ast.unparse(decorator) for decorator in child.decorator_list]
        # An overload and a setter share the docstring of what they belong to.
        if any(d.endswith(("overload", ".setter", ".deleter")) for d in decorators):
            continue
        name = f"{prefix}.{child.name}"
        yield name, ast.get_docstring(child) is not None or "override" in decorators
        if isinstance(child, ast.ClassDef):
            yield from documented(child, name)


def test_the_top_level_holds_what_it_should_and_nothing_else():
    """Untracked files count, as long as git does not ignore them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    top = {path.split("/")[0] for path in listed if (ROOT / path).exists()}
    assert {name for name in top if not name.startswith(".")} <= TOP_LEVEL


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_holds_one_idea(path):
    """Past 500 lines it holds two."""
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGER.get(name_of(path), LINES_MAX)


def test_the_list_of_longer_files_is_true():
    """An entry that is no longer needed goes."""
    needed = {n for n in LONGER if len((ROOT / n).read_text(encoding="utf-8").splitlines()) > LINES_MAX}
    assert needed == set(LONGER)


@pytest.mark.parametrize("path", [path for path in SOURCES if is_public(path)], ids=name_of)
def test_everything_public_has_a_docstring(path):
    """Modules, classes, functions, methods."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree) is not None
    assert [name for name, has in documented(tree, path.stem) if not has] == []


def test_type_information_is_shipped():
    """PEP 561: without the marker, a user's type checker ignores our annotations."""
    assert (ROOT / "zfabric" / "py.typed").is_file()
