"""deploy/build/backend.py: compiled where it can be, pure where not, and the same either way."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import guardproxy.errors

ROOT = Path(__file__).parents[2]
EXPECTED = "EXPECT_GUARDPROXY_BUILD"
BACKEND = ROOT / "deploy/build/backend.py"
NEEDED = ("guardproxy", "tests", "deploy/build", "pyproject.toml", "README.md", "LICENSE")
TWINS = ("tests/wire", "tests/net", "tests/integration/test_cap.py")
"""A part that meets all layers; .ci/run has the rest on the wheel."""
WHICH = "from guardproxy.wire import frames; print(frames.BUILD)"

pytestmark = pytest.mark.timeout(600)  # compiling takes half a minute of CPU, its tests another


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources by themselves."""
    folder = tmp_path_factory.mktemp("tree")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def needed(*names: str) -> set[str]:
    """These distributions, and those that they need in turn."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name in found:
            continue
        found.add(name)
        wanted = map(Requirement, metadata.requires(name) or ())
        ahead += [one.name for one in wanted if one.marker is None or one.marker.evaluate()]
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python that has what building asks for and nothing else, as pip makes one for a build."""
    folder = tmp_path_factory.mktemp("alone")
    venv.create(folder, symlinks=True)
    (packages,) = folder.glob("lib/*/site-packages")
    for name in needed("setuptools", "mypy"):
        installed = metadata.distribution(name)
        for top in {file.parts[0] for file in installed.files or ()} - {".."}:
            if not (packages / top).exists():
                (packages / top).symlink_to(str(installed.locate_file(top)))
    return str(folder / "bin/python")


def run(code: str, tree: Path, env: Mapping[str, str] = {}, python: str = sys.executable) -> str:
    """What Python says to this there, whichever build these tests themselves run on."""
    inherited = {name: value for name, value in os.environ.items() if name != EXPECTED}
    done = subprocess.run(
        [python, "-c", code],
        cwd=tree,
        env={**inherited, "GUARDPROXY_PURE": "", "PYTHONPATH": "deploy/build", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def build(
    hook: str, tree: Path, into: Path, env: Mapping[str, str] = {}, python: str = sys.executable
) -> tuple[Path, str]:
    """What a front end gets from this hook: a file, and what was said."""
    into.mkdir(exist_ok=True)
    said = run(f"import backend; backend.{hook}({str(into)!r})", tree, env, python)
    (made,) = into.iterdir()
    return made, said


def machine_code(wheel: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


@pytest.fixture(scope="module")
def compiled(tree: Path, alone: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is installed where there is a compiler."""
    absent = (
        "from importlib import util; print(util.find_spec('twisted'), util.find_spec('msgspec'))"
    )
    assert run(absent, tree, python=alone).split() == ["None", "None"]
    wheel, said = build("build_wheel", tree, tmp_path_factory.mktemp("wheel"), python=alone)
    assert "pure" not in said
    assert "none-any" not in wheel.name
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)  # noqa: S202 our own
    return folder


def test_with_a_compiler_it_is_compiled(compiled: Path) -> None:
    assert run(WHICH, compiled).strip() == "compiled"
    assert "(compiled)" in run("from guardproxy.cli import cli; cli(['--version'])", compiled)


def test_machine_code_needs_nothing_more_at_run_time(compiled: Path) -> None:
    missing = "import sys; sys.modules['mypy_extensions'] = sys.modules['librt'] = None; "
    assert run(missing + WHICH, compiled).strip() == "compiled"


def test_the_sources_are_there_too(compiled: Path) -> None:
    for path in compiled.rglob("*.so"):
        if path.parent != compiled:  # there is the one that all share
            assert (path.parent / f"{path.name.partition('.')[0]}.py").exists()


def test_machine_code_does_what_the_sources_do(compiled: Path) -> None:
    """Unit tests, held against it, and real clients of a compiled guard."""
    shutil.copytree(ROOT / "tests", compiled / "tests")
    shutil.copy(ROOT / "pyproject.toml", compiled)
    assert run(WHICH, compiled).strip() == "compiled"
    argv = ["-q", "-x", "-p", "no:cacheprovider", *TWINS]
    code = f"import sys, pytest; sys.path.insert(0, ''); sys.exit(pytest.main({argv!r}))"
    assert " passed" in run(code, compiled)


def test_no_generic_class_is_compiled(tree: Path) -> None:
    """mypyc 2.4.1 miscounts the references of its objects: some are freed while they are in use."""
    for module, node in compiled_classes(tree):
        assert not any("Generic" in ast.unparse(base) for base in node.bases), module


def test_no_compiled_class_gives_an_error_another_attribute(tree: Path) -> None:
    """mypyc 2.4.1 leaves out what such a class assigns, for errors.py is interpreted."""
    errors = {name for name, kind in vars(guardproxy.errors).items() if isinstance(kind, type)}
    for module, node in compiled_classes(tree):
        if errors & {ast.unparse(base) for base in node.bases}:
            assert not any(isinstance(one, ast.Assign) for one in node.body), module


def compiled_classes(tree: Path) -> Iterator[tuple[str, ast.ClassDef]]:
    modules = run("import backend; print(backend.MODULES)", tree).split()
    assert "pool/admission" in modules
    for module in modules:
        for node in ast.walk(ast.parse((ROOT / f"guardproxy/{module}.py").read_text())):
            if isinstance(node, ast.ClassDef):
                yield module, node


@pytest.mark.parametrize(
    ("env", "why"),
    [
        ({"GUARDPROXY_PURE": "1"}, "GUARDPROXY_PURE is set"),
        ({"CC": "no-such-compiler"}, "there is no C compiler (no-such-compiler)"),
        ({"PATH": "/nowhere", "CC": ""}, "there is no C compiler"),
        ({"CC": "/bin/false"}, "compiling failed"),
    ],
    ids=["by wish", "another name", "no path", "broken"],
)
def test_without_a_compiler_it_installs_pure_and_says_so(
    env: Mapping[str, str], why: str, tree: Path, tmp_path: Path
) -> None:
    wheel, said = build("build_wheel", tree, tmp_path / "wheel", env)
    assert f"guardproxy: installs as pure Python, which is slower: {why}" in said
    assert wheel.name.endswith("-py3-none-any.whl")
    assert machine_code(wheel) == []


def test_only_who_compiles_needs_mypyc(tree: Path) -> None:
    wanted = "import backend; print(backend.get_requires_for_build_{}())"
    assert "['mypy" in run(wanted.format("wheel"), tree)
    assert "['mypy" not in run(wanted.format("wheel"), tree, {"GUARDPROXY_PURE": "1"})
    assert "['mypy" not in run(wanted.format("editable"), tree)


def test_an_editable_install_is_pure(tree: Path, tmp_path: Path) -> None:
    """Else edited sources would not be what runs."""
    wheel, _ = build("build_editable", tree, tmp_path / "wheel")
    assert machine_code(wheel) == []
    assert list((tree / "guardproxy").rglob("*.so")) == []


def test_the_source_distribution_can_build_itself(tree: Path, tmp_path: Path) -> None:
    archive, _ = build("build_sdist", tree, tmp_path / "sdist")
    with tarfile.open(archive) as opened:
        opened.extractall(tmp_path / "opened", filter="data")
    (source,) = (tmp_path / "opened").iterdir()
    wheel, _ = build("build_wheel", source, tmp_path / "wheel", {"GUARDPROXY_PURE": "1"})
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"guardproxy/wire/frames.py", "guardproxy/py.typed"} <= names


def test_a_compiled_copy_of_the_tree_comes_and_goes(tree: Path) -> None:
    """For measuring and testing; the tree itself stays pure."""
    copied = tree / "build/compiled"
    copied.mkdir(parents=True)
    done = subprocess.run(
        [sys.executable, "deploy/build/backend.py", "--remove"], cwd=tree, check=False
    )
    assert done.returncode == 0
    assert not copied.exists()
