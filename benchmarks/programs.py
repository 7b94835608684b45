"""Starts and ends the programs of a run, as another user where they refuse to be root's."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
START_DEADLINE = 30.0


class RunError(Exception):
    """A program of the run is missing or did not do its part; the text says what to do."""


def unprivileged() -> str | None:
    """Who runs what refuses root: None when we are not root, and may stay who we are."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def identity() -> dict[str, Any]:
    """Popen's arguments that make a child unprivileged."""
    user = unprivileged()
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def give_away(path: Path) -> None:
    """Hand a directory or file over to the unprivileged user."""
    user = unprivileged()
    if user is not None:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def run(*argv: str | Path, env: dict[str, str] | None = None, demoted: bool = False) -> str:
    """Run a program to its end and return what it printed; RunError when it failed."""
    done: subprocess.CompletedProcess[str] = subprocess.run(
        [str(arg) for arg in argv],
        env={**os.environ, **(env or {})},
        cwd="/" if demoted else None,
        capture_output=True,
        text=True,
        check=False,
        **(identity() if demoted else {}),
    )
    if done.returncode:
        raise RunError(f"{argv[0]} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


@contextmanager
def running(
    argv: list[str | Path],
    log: Path,
    *,
    demoted: bool = False,
    stdout: int | None = None,
    env: dict[str, str] | None = None,
    cwd: Path = ROOT,
) -> Iterator[subprocess.Popen[str]]:
    """A program in the foreground, ended when the block is left; its words go to `log`."""
    with log.open("w") as sink:
        program = subprocess.Popen(
            [str(arg) for arg in argv],
            cwd="/" if demoted else cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=sink if stdout is None else stdout,
            stderr=sink,
            text=True,
            **(identity() if demoted else {}),
        )
        try:
            yield program
        finally:
            end(program)


def end(program: subprocess.Popen[str]) -> None:
    """SIGINT: the one signal with which all of them stop in order once their clients are gone."""
    close(program.stdout)
    if program.poll() is None:
        program.send_signal(signal.SIGINT)
    try:
        program.wait(10)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()


def close(stream: IO[str] | None) -> None:
    if stream is not None:
        stream.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], bool], program: subprocess.Popen[str], log: Path) -> None:
    """Wait for a program that was just started; RunError with its last words if it ends."""
    deadline = time.monotonic() + START_DEADLINE
    while not ready():
        if program.poll() is not None or time.monotonic() > deadline:
            raise RunError(f"{program.args!r} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
