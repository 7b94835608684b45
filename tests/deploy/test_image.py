"""The image of deploy/Dockerfile, built and run: as nobody, on a root nobody can write to."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.image import MISSING, NOT_ROOT, Builder, Image, scratch
from tests.integration.guard import READY

pytestmark = [
    pytest.mark.skipif(shutil.which("buildah") is None, reason=MISSING),
    pytest.mark.skipif(os.geteuid() != 0, reason=NOT_ROOT),
    pytest.mark.timeout(400),  # the first test waits for the build
]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with Builder(scratch()) as builder:
        yield builder.build()


@pytest.fixture
def guard(image: Image) -> Iterator[subprocess.Popen[str]]:
    """What the image runs by itself, but for its port."""
    with subprocess.Popen(
        image.command(*image.entry),
        env={**os.environ, **image.environment, "GUARDPROXY_LISTEN_PORT": "0"}
        | {"PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def test_it_starts_answers_and_stops(image: Image, guard: "subprocess.Popen[str]") -> None:
    assert guard.stdout is not None
    found = READY.search(guard.stdout.readline())
    assert found, guard.stderr.read() if guard.stderr else ""
    checked = image.run(*image.config["Healthcheck"]["Test"][1:], f"127.0.0.1:{found['port']}")
    assert checked.returncode == 0, checked.stderr
    status = Path(f"/proc/{guard.pid}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == fields["Gid"].split() == ["65532"] * 4
    assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0
    assert fields["NoNewPrivs"] == "1"
    guard.send_signal(getattr(signal, image.config["StopSignal"]))
    assert guard.wait(20) == 0


def test_nobody_can_write_there(image: Image) -> None:
    for place in ("/", "/tmp", "/opt/guardproxy"):
        tried = image.run("touch", f"{place}/file")
        assert tried.returncode != 0
        assert "Read-only file system" in tried.stderr


def test_it_can_install_nothing(image: Image) -> None:
    assert image.run("/opt/guardproxy/bin/python", "-m", "pip").returncode != 0
    assert not [name for name in os.listdir(image.root / "opt/guardproxy/bin") if "pip" in name]


def test_everything_is_compiled(image: Image) -> None:
    """Nothing could be written beside it at its first import."""
    package = next((image.root / "opt/guardproxy/lib").glob("python3*/site-packages/guardproxy"))
    for source in package.rglob("*.py"):
        assert list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")), source


def test_the_command_line_is_there(image: Image) -> None:
    told = image.run(*image.config["Entrypoint"], "check-config")
    assert told.returncode == 0, told.stderr
    assert "pool.mode" in told.stdout
