"""Signals and an unread standard error: what the guard does with them while clients work."""

import fcntl
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.conftest import NewGuard
from tests.integration.guard import READY, ROOT, Guard
from tests.integration.places import PASSWORDS
from tests.integration.postgres import Postgres
from tests.integration.queueing import Waiter, held
from tests.integration.whole import USER, last_error, pool


@pytest.fixture(scope="module")
def pg() -> Iterator[Postgres]:
    """A cluster that no other file's guards have sessions on."""
    with Postgres("system") as cluster:
        yield cluster


def send(guard: Guard, number: int) -> None:
    guard.process.send_signal(number)


def test_usr1_pauses_and_usr2_resumes(guard: NewGuard, pg: Postgres) -> None:
    running = guard(pool=pool("transaction", 2))
    with Waiter(running, USER) as client:
        client.query("select 1")
        client.read_until(b"Z")
        send(running, signal.SIGUSR1)
        running.wait_for_log(" paused ")
        assert pg.count_sessions() == 0
        client.ask()
        send(running, signal.SIGUSR1)
        running.wait_for_log("signal_declined signal=SIGUSR1")
        assert pg.count_sessions() == 0
        send(running, signal.SIGUSR2)
        assert client.served()
        send(running, signal.SIGUSR2)
        running.wait_for_log("signal_declined signal=SIGUSR2")
    assert running.terminate() == 0


@pytest.mark.parametrize("number", [signal.SIGALRM, signal.SIGPROF, signal.SIGRTMIN + 3])
def test_what_means_nothing_harms_nobody(guard: NewGuard, number: int) -> None:
    running = guard()
    with held(running, USER) as client:
        send(running, number)
        running.wait_for_log(r" signal signal=\S+ action=ignored")
        client.query("select 1")
        assert client.served()


def test_quit_ends_at_once(guard: NewGuard) -> None:
    running = guard(timeouts={"shutdown_timeout": "60s", "min_sigterm_delay": "60s"})
    with Waiter(running, USER) as client:
        client.query("begin")
        client.read_until(b"Z")
        send(running, signal.SIGQUIT)
        assert last_error(client) == "57P01"
    assert running.wait() == 4


def test_in_the_background_of_a_script_ctrl_c_is_not_for_us(pg: Postgres) -> None:
    """`trap ''` is what a shell without job control does to its background programs."""
    prefix = ["/bin/sh", "-c", "trap '' INT QUIT HUP; exec \"$@\"", "sh"]
    with Guard(pg, prefix=prefix) as running:
        running.wait_for_log("signal_shielded signal=SIGQUIT")
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
            send(running, number)
        running.wait_for_log(" reloaded ")
        with held(running, USER):
            pass
        assert running.terminate() == 0


def test_a_storm_of_hang_ups_holds_up_nobody(guard: NewGuard) -> None:
    """Each is 2 ms behind the one before; a reload takes longer than that."""
    running = guard()
    with running.connect(USER) as client:
        over = threading.Event()

        def storm() -> None:
            for _ in range(300):
                send(running, signal.SIGHUP)
                time.sleep(0.002)
            over.set()

        sender = threading.Thread(target=storm)
        sender.start()
        longest = 0.0
        while not over.is_set():
            began = time.monotonic()
            client.execute("select 1")
            longest = max(longest, time.monotonic() - began)
        sender.join()
    assert longest < 0.5
    running.reload({"pool": {"max_waiting": 77}})
    running.wait_for_log("pool.max_waiting: .* -> 77")
    reloads = [line for line in running.lines if " reloaded " in line]
    assert len(reloads) < 60


def test_reloads_on_the_console_are_one(guard: NewGuard) -> None:
    running = guard(
        auth={"users": {USER: {"password": PASSWORDS[USER]}}}, console={"users": [USER]}
    )
    links = [running.connect(USER, "guardproxy") for _ in range(20)]
    try:
        threads = [threading.Thread(target=link.execute, args=("RELOAD",)) for link in links]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
    finally:
        for link in links:
            link.close()
    assert len([line for line in running.lines if " reloaded " in line]) < 20


def test_a_standard_error_that_nobody_reads(pg: Postgres) -> None:
    """4 kB are full after some twenty logins. The log is whole when somebody reads it again."""
    guard = Guard(pg, {"pool": {"mode": "session"}})
    unread, end = os.pipe()
    fcntl.fcntl(end, fcntl.F_SETPIPE_SZ, 4096)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        guard.command(), stdout=subprocess.PIPE, stderr=end, env=environment, text=True
    )
    os.close(end)
    with process, open(unread, "rb") as log:
        try:
            assert process.stdout is not None
            found = READY.search(process.stdout.readline())
            assert found
            guard.port = int(found["port"])
            for _ in range(100):
                guard.connect(USER).close()
            process.send_signal(signal.SIGTERM)
            lines = log.read().splitlines()
            assert process.wait(15) == 0
        finally:
            process.kill()
            shutil.rmtree(guard.folder)
    assert sum(map(len, lines)) > 2 * 4096
    assert all(re.match(rb"\d{4}-\S+Z [A-Z]+ \w+", line) for line in lines), "whole lines"
    assert lines[-1].split()[1:] == [b"INFO", b"stopped", b"clean=True"]
