"""How guardproxy is built: setuptools, and where there is a C compiler, mypyc for the hot modules.

The modules stay what they are: typed Python, from which mypyc makes machine code. The sources go
into the wheel too, and where nothing can be compiled they are the program. So installing needs no
compiler, and never fails for one that does not work; `guardproxy --version` says which it became.
An editable install is always pure: edited sources are what runs.

    GUARDPROXY_PURE=1 pip install .       do not compile
    pip install -v .                      see in a line why it was not compiled, if so
    python deploy/build/backend.py        a compiled copy of this tree, in build/compiled
    python deploy/build/backend.py --remove

(The hooks are PEP 517's; overriding run_setup is setuptools' own recipe, "Dynamic build
dependencies and other build_meta tweaks".)
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import setuptools
from setuptools.build_meta import build_wheel as _build_wheel
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parents[2]
COPY = Path("build/compiled")
COPIED = ("guardproxy", "tests", "benchmarks", "deploy", "pyproject.toml", "README.md", "LICENSE")
PURE = "GUARDPROXY_PURE"
MYPYC = "mypy>=2.4,<3"
MODULES = """
    stats text wire/frames wire/messages
    session/account session/acts session/backend session/belongings session/commands
    session/conversations session/detours session/glance session/life session/login
    session/neutral session/passthrough session/reading session/roaming session/session
    session/shared_names session/speaking session/statement session/statements session/states
    session/tokens session/verbs session/waiting
    pool/admission pool/line pool/orders pool/pauses pool/pool pool/round
    net/caller net/client net/departure net/endings net/entrance net/logins net/pooler net/server
    net/transport
"""
"""What every byte passes through, a hand-over and a login."""


def why_pure() -> str:
    """Why nothing is to be compiled; empty if it is."""
    if os.environ.get(PURE, "") not in ("", "0"):
        return f"{PURE} is set"
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler})"
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    return "" if header.exists() else f"{header} is missing (Debian: apt-get install python3-dev)"


def say(text: str) -> None:
    sys.stderr.write(f"guardproxy: {text}\n")


@contextmanager
def scratch_folder() -> Iterator[str]:
    """For all that is made on the way; setuptools wants the paths of sources relative."""
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build") as scratch:
        yield os.path.relpath(scratch)


def extensions(scratch: str) -> list[Any]:
    """mypyc's C files of all hot modules together, so that they call each other directly."""
    from mypyc.build import mypycify

    sources = [f"guardproxy/{module}.py" for module in MODULES.split()]
    # This house's mypy settings are for its whole; here nothing but these modules need be there.
    # Nor what they import from elsewhere, which a build by itself has not got (msgspec, Twisted).
    flags = ["--config-file=", "--ignore-missing-imports", "--follow-imports=silent"]
    flags.append(f"--cache-dir={scratch}/mypy")
    made: list[Any] = mypycify(
        [*flags, *sources],
        opt_level="2",
        debug_level="0",
        multi_file=True,
        target_dir=scratch,
        group_name="guardproxy",
    )
    return made


class Sdist(sdist):  # type: ignore[misc] # setuptools ships no types
    """What builds it is part of the source."""

    def make_distribution(self) -> None:
        self.filelist.append(os.path.relpath(__file__, ROOT))
        super().make_distribution()


class Backend(type(_build_wheel.__self__)):  # type: ignore[misc]
    """setuptools' own, with what it would else find in a setup.py."""

    options: dict[str, Any] = {}

    def run_setup(self, setup_script: str = "setup.py") -> None:
        setuptools.setup(cmdclass={"sdist": Sdist}, **self.options)

    def get_requires_for_build_wheel(self, config_settings: Any = None) -> list[str]:
        needed: list[str] = super().get_requires_for_build_wheel(config_settings)
        return needed if why_pure() else [*needed, MYPYC]

    def get_requires_for_build_editable(self, config_settings: Any = None) -> list[str]:
        """What setuptools needs, and no more: some versions of it ask the hook above."""
        needed: list[str] = super().get_requires_for_build_wheel(config_settings)
        return needed

    def build_wheel(
        self, wheel_directory: str, config_settings: Any = None, metadata_directory: Any = None
    ) -> str:
        """Compiled if that can be, else pure."""
        place = (wheel_directory, config_settings, metadata_directory)
        pure = why_pure()
        if not pure:
            try:
                return self._build_compiled(*place)
            except (Exception, SystemExit) as failed:  # mypyc and distutils end that way
                pure = f"compiling failed ({failed})"
        say(f"installs as pure Python, which is slower: {pure}")
        name: str = super().build_wheel(*place)
        return name

    def _build_compiled(self, *place: Any) -> str:
        with scratch_folder() as scratch:
            self.options = {"ext_modules": extensions(scratch), "options": places(scratch)}
            try:
                name: str = super().build_wheel(*place)
            finally:
                self.options = {}
        return name


def places(scratch: str) -> dict[str, dict[str, Any]]:
    """Nothing of an earlier build may get into this one; as many compilers as there are CPUs."""
    return {
        "build": {"build_base": f"{scratch}/build"},
        "build_ext": {"parallel": os.cpu_count()},
    }


def compile_copy(where: Path) -> None:
    """This tree once more, with machine code beside the sources: what runs there is compiled."""
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, where / name, ignore=ignored)
        else:
            shutil.copy(source, where)
    os.chdir(where)
    with scratch_folder() as scratch:
        setuptools.setup(
            script_args=["-q", "build_ext", "--inplace"],
            ext_modules=extensions(scratch),
            options=places(scratch),
        )


backend = Backend()
build_sdist = backend.build_sdist
build_wheel = backend.build_wheel
build_editable = backend.build_editable
get_requires_for_build_sdist = backend.get_requires_for_build_sdist
get_requires_for_build_wheel = backend.get_requires_for_build_wheel
get_requires_for_build_editable = backend.get_requires_for_build_editable
prepare_metadata_for_build_wheel = backend.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = backend.prepare_metadata_for_build_editable

if __name__ == "__main__":
    if "--remove" in sys.argv:
        shutil.rmtree(ROOT / COPY, ignore_errors=True)
    else:
        compile_copy(ROOT / COPY)
