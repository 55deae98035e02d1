"""Messages to and from a worker process, none of which may wait for ever."""

from __future__ import annotations

import os
import pickle
import selectors
import subprocess
import time
from typing import Any

_CHUNK = 1 << 16


class Pipes:
    """The pipes of a worker process, each message behind its length in 8 bytes.

    Both ends may be slow or gone: nothing waits beyond its seconds (TimeoutError), and
    a closed pipe or a message that cannot be read is EOFError.
    """

    def __init__(self, process: subprocess.Popen[bytes]):
        if process.stdin is None or process.stdout is None:
            raise ValueError("worker: it has no pipes")
        self._to, self._from = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(self._to, False)
        os.set_blocking(self._from, False)
        self._read = bytearray()

    def send(self, body: bytes, seconds: float) -> None:
        """Write one message."""
        left = memoryview(len(body).to_bytes(8, "big") + body)
        end = time.monotonic() + seconds
        while left:
            _wait(self._to, selectors.EVENT_WRITE, end, seconds)
            try:
                left = left[os.write(self._to, left[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise EOFError("the worker process died") from error

    def reply(self, seconds: float) -> tuple[str, Any]:
        """The next message, a pair."""
        end = time.monotonic() + seconds
        head = int.from_bytes(self._exactly(8, end, seconds), "big")
        body = self._exactly(head, end, seconds)
        try:
            kind, value = pickle.loads(body)
        except Exception as error:  # a reward has written to the pipe
            raise EOFError("the worker process answered nonsense") from error
        return str(kind), value

    def _exactly(self, count: int, end: float, seconds: float) -> bytes:
        while len(self._read) < count:
            _wait(self._from, selectors.EVENT_READ, end, seconds)
            try:
                more = os.read(self._from, _CHUNK)
            except BlockingIOError:
                continue
            if not more:
                raise EOFError("the worker process died")
            self._read += more
        taken = bytes(self._read[:count])
        del self._read[:count]
        return taken


def _wait(file: int, event: int, end: float, seconds: float) -> None:
    """Wait until a pipe can be read or written. Raises TimeoutError at `end`."""
    with selectors.DefaultSelector() as selector:
        selector.register(file, event)
        if not selector.select(max(0.0, end - time.monotonic())):
            raise TimeoutError(f"it took longer than its {seconds:g} s")
