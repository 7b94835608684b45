"""Builds and runs the image of deploy/Dockerfile with buildah, on a base made of this machine.

No registry is asked: the base is the Python that runs the tests, with the libraries and the shell
it needs; what pip installs into the image comes from a folder of wheels.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

MISSING = "buildah is not there to build an image (apt-get install buildah)"
NOT_ROOT = "only root can build an image and run it on a root that is read-only"
ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
LEFT_OUT = ("__pycache__", "test", "tests", "site-packages", "idlelib", "tkinter", "*.a")
SHELL = ("sh", "env", "cat", "ls", "id", "touch")
"""What RUN needs, and the tests."""
RUNTIMES = ("libgcc_s.so.1", "libstdc++.so.6", "libpthread.so.0", "librt.so.1", "libm.so.6")
MEMORY = Path("/dev/shm")
"""Where a build is not slowed down by a busy disk."""
ROOM = 2 * 2**30
"""Bytes a build may need, with a margin."""


class Builder:
    """buildah with a storage of its own, gone at the end of `with`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._buildah = ["buildah", "--storage-driver", "vfs", "--root", str(folder / "storage")]
        self._buildah += ["--runroot", str(folder / "run")]

    def __call__(self, *arguments: str | Path) -> str:
        done = subprocess.run(
            [*self._buildah, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"buildah {arguments[0]} failed:\n{done.stdout}{done.stderr}"
        return done.stdout.strip()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self("rm", "--all")
        self("rmi", "--all", "--force")
        shutil.rmtree(self.folder)

    def make_base(self, wheels: Path) -> str:
        """An image to build from, in which pip finds its packages in `wheels`."""
        container = self("from", "scratch")
        assemble(Path(self("mount", container)))
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PIP_FIND_LINKS": str(wheels),
            "PIP_NO_INDEX": "1",
        }
        for name, value in environment.items():
            self("config", "--env", f"{name}={value}", container)
        self("commit", "--quiet", "--rm", container, "localhost/base")
        return "localhost/base"

    def build(self) -> "Image":
        """The image, by the Dockerfile as it is."""
        wheels = self.folder / "wheels"
        download(wheels)
        base = self.make_base(wheels)
        bases = re.findall(r"(?m)^ARG (\w+)=python:", DOCKERFILE.read_text())
        arguments = [word for name in bases for word in ("--build-arg", f"{name}={base}")]
        self(
            *("bud", "--quiet", "--isolation", "chroot", "--pull-never", "--format", "docker"),
            *("--volume", f"{wheels}:{wheels}:ro", *arguments),
            *("--tag", "localhost/guardproxy", "--file", DOCKERFILE, ROOT),
        )
        return Image(self, "localhost/guardproxy")


def scratch() -> Path:
    """A folder for the build; in memory if there is room, for images are copied several times."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM
    return Path(tempfile.mkdtemp(prefix="guardproxy-image-", dir=MEMORY if roomy else None))


def download(wheels: Path) -> None:
    """What pip will want in the image: what the guard needs, and what builds it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    needed += project["project"]["optional-dependencies"]["watch"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(wheels), *needed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Image:
    """What was built, as its root file system and how it wants to be run."""

    def __init__(self, builder: Builder, name: str) -> None:
        told = json.loads(builder("inspect", "--type", "image", name))["Docker"]["config"]
        self.config: dict[str, Any] = told
        self.root = Path(builder("mount", builder("from", "--pull-never", name)))

    @property
    def entry(self) -> list[str]:
        return [*self.config["Entrypoint"], *self.config["Cmd"]]

    def command(self, *words: str) -> list[str]:
        """Runs this in the image as its user, with a root that nobody can write to.

        The process keeps its pid all the way, so that signals reach it.
        """
        root = shlex.quote(str(self.root))
        script = f"mount --bind {root} {root} && mount -o remount,bind,ro {root} && "
        script += f"mount --bind /dev {root}/dev && "  # as every container has it
        script += f"exec setpriv --no-new-privs chroot --userspec={self.config['User']} {root} "
        return ["unshare", "--mount", "sh", "-c", script + shlex.join(words)]

    @property
    def environment(self) -> dict[str, str]:
        return dict(pair.split("=", 1) for pair in self.config["Env"])

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            env=self.environment | {"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            check=False,
        )


def libraries(programs: Iterable[Path]) -> set[Path]:
    """Every shared object that these load, and the loader itself."""
    told = subprocess.run(
        ["ldd", *map(str, programs)], capture_output=True, text=True, check=False
    ).stdout
    return {Path(found) for found in re.findall(r"(/\S+) \(0x", told)}


def runtimes(libc: Path) -> list[Path]:
    """What stands beside the C library in every image, and compiled wheels count on."""
    return [libc.with_name(name) for name in RUNTIMES if libc.with_name(name).exists()]


def assemble(folder: Path) -> None:
    """A root file system with Python, a shell and nothing else."""
    prefix = Path(sys.base_prefix)
    stdlib = Path(os.__file__).parent
    programs = [Path(shutil.which(name) or name).resolve() for name in SHELL]
    python = Path(os.path.realpath(sys.executable))
    copy_tree(stdlib, folder)
    for extra in (prefix / "include", python.parent):
        if extra.is_relative_to(prefix) and prefix != Path("/usr"):
            copy_tree(extra, folder)
    needed = libraries([python, *programs, *(stdlib / "lib-dynload").glob("*.so")])
    [libc] = [library for library in needed if library.name == "libc.so.6"]
    for file in {python, *programs, *needed, *runtimes(libc)}:
        put(file, folder)
    for name in SHELL:
        link(folder / "bin" / name, Path(shutil.which(name) or name).resolve())
    for name in ("python3", f"python3.{sys.version_info.minor}"):
        link(folder / "usr/local/bin" / name, python)
    for name in ("tmp", "proc", "sys", "dev", "etc", "root", "run"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "tmp").chmod(0o1777)
    (folder / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")


def copy_tree(source: Path, folder: Path) -> None:
    target = folder / source.relative_to("/")
    leave = shutil.ignore_patterns(*LEFT_OUT)
    shutil.copytree(source, target, symlinks=True, ignore=leave, dirs_exist_ok=True)


def put(file: Path, folder: Path) -> None:
    target = folder / file.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        shutil.copy2(file, target)


def link(name: Path, target: Path) -> None:
    name.parent.mkdir(parents=True, exist_ok=True)
    if not name.is_symlink() and not name.exists():
        name.symlink_to(target)
