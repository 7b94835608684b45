"""Net: a thread that writes log lines to a file descriptor, so that the event loop never waits.

A write to standard error can block: a pipe that is not read, a terminal that is stopped (Ctrl-S), a
disk or network file system that hangs. The event loop puts each line into a bounded queue; this
thread writes them in order.

Why a thread, and not a descriptor that does not block: O_NONBLOCK belongs to the open file
description, which the guard shares with the shell and with other programs of its container; they
would get EAGAIN. Opening /dev/stderr anew fails for sockets (systemd's journal). To ask poll(2)
first leaves a gap in which another program fills the pipe, and says nothing about disks. A thread
works for every kind of descriptor, and the lock of the interpreter is free while it writes.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable
from queue import SimpleQueue

MAX_QUEUED = 1 << 20
"""Bytes of lines that wait to be written; a line beyond them is dropped and counted."""
CLOSE_TIMEOUT = 1.0
"""Seconds that `close` waits for the lines in the queue to be written."""
RETRY = 1.0
"""Seconds between attempts to write to a descriptor that another program made non-blocking."""


class LineWriter:
    """Writes whole lines to `descriptor`, from a thread of its own.

    `notice` makes the line that says how many lines were dropped. Its place among the lines is the
    place of the dropped ones.
    """

    def __init__(self, descriptor: int, notice: Callable[[int], str]) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._notice = notice
        # Each line with the number of lines dropped in front of it; None ends the thread. `put` of
        # a SimpleQueue may be called again from within itself (a finalizer that logs).
        self._queue: SimpleQueue[tuple[int, bytes] | None] = SimpleQueue()
        self._lock = threading.RLock()  # of the two counters below; a finalizer may come back here
        self._queued = 0
        self._unreported = 0
        self._torn = False  # a write failed in the middle of a line
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue one line, without its line feed. Never blocks."""
        data = line.encode(errors="backslashreplace") + b"\n"
        if self._closed:
            self._put_at_once(data)
            return
        with self._lock:
            if self._queued + len(data) > MAX_QUEUED:
                self.dropped += 1
                self._unreported += 1
                return
            lost, self._unreported = self._unreported, 0
            self._queued += len(data)
        self._queue.put((lost, data))

    def close(self, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Write what is queued and end the thread; False if that took longer than `timeout`."""
        self._queue.put(None)
        self._thread.join(timeout)
        self._closed = True
        return not self._thread.is_alive()

    def _put_at_once(self, data: bytes) -> None:
        """Write a last word of the interpreter, if the thread has gone and there is room for it."""
        small = len(data) <= select.PIPE_BUF  # for more poll(2) promises nothing
        if small and not self._thread.is_alive() and self._room(0):
            self._put(data)
        else:
            self.dropped += 1

    # -- in the thread ----------------------------------------------------------------------------

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        unreported = 0
        while (item := self._queue.get()) is not None:
            lost, data = item
            unreported = self._report(unreported + lost)
            written = self._put(data)
            with self._lock:
                self._queued -= len(data)
                if not written:
                    self.dropped += 1
                    unreported += 1
                elif self._queue.empty():  # no line may follow soon that could carry the number
                    unreported += self._unreported
                    self._unreported = 0
            if written and self._queue.empty():
                unreported = self._report(unreported)

    def _report(self, lost: int) -> int:
        """Write how many lines were lost, if any were; return how many are still unreported."""
        if lost and self._put(self._notice(lost).encode(errors="backslashreplace") + b"\n"):
            return 0
        return lost

    def _put(self, data: bytes) -> bool:
        """Write all of it; False if the descriptor fails (no reader, no room on the disk)."""
        rest = memoryview(b"\n" + data if self._torn else data)
        whole = len(rest)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:
                self._room(RETRY)
            except OSError:
                self._torn = self._torn or len(rest) < whole
                return False
        self._torn = False
        return True

    def _room(self, timeout: float) -> bool:
        """Wait until the descriptor takes bytes; False if it does not within so many seconds."""
        room = select.poll()
        room.register(self._descriptor, select.POLLOUT)
        return bool(room.poll(timeout * 1000))
