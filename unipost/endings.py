"""How one of several processes fails: it says so under its number and ends at once.

jax's own exit waits minutes for the processes that go on. They notice by themselves:
their next exchange fails where the connection closes, or, in a collective that knows no
connection, jax ends them when no heartbeat has come for 100 s.
"""

from __future__ import annotations

import os
import sys
import time
from traceback import print_exception

from unipost import processes
from unipost.launch import NotMet

GRACE = 2.0
"""Seconds in which the others can hear of an error before the first process ends."""
LOST = ("closed by peer", "reset by peer", "heartbeat", "coordination", "NCCL")
"""What jax's errors hold after another process has ended."""


EXPECTED = (ValueError, RuntimeError, OSError)
"""Errors of use, which are told in one line."""


def told(error: Exception, traceback: bool) -> bool:
    """Print an error, in one line or with its `traceback`; False: it is to be raised.

    Of several processes each prints its own; one that all of them raise, the first.
    """
    several = _several(error)
    plain = isinstance(error, EXPECTED) and not traceback
    if not several and not plain:
        return False
    if processes.TOLD in getattr(error, "__notes__", ()):
        return True
    stream = sys.__stderr__ if several else sys.stderr
    if not plain:
        print_exception(error, file=stream)
    print(f"unipost: {_where(error)}{message(error)}", file=stream, flush=True)
    return True


def message(error: BaseException) -> str:
    """The error, or what it means that another process has gone."""
    lost = _lost(error)
    if lost is None or not _several(error):
        return str(error)
    return (
        f"another process has ended ({lost}); its own output says why. All are to be "
        "started again: the run goes on from its last checkpoint"
    )


def leave(error: BaseException, code: int) -> int:
    """`code` to exit with; in one of several processes it does not return."""
    if not _several(error):
        return code
    # the first process is where the others hear from each other
    time.sleep(0.0 if isinstance(error, NotMet) or processes.index() else GRACE)
    for stream in (sys.stdout, sys.stderr, sys.__stderr__):
        if stream is not None:
            stream.flush()
    os._exit(code)


def _several(error: BaseException) -> bool:
    return isinstance(error, NotMet) or processes.count() > 1


def _where(error: BaseException) -> str:
    """`process 3: `, which an error of a meeting says itself."""
    if isinstance(error, NotMet) or processes.count() == 1:
        return ""
    return f"process {processes.index()}: "


def _lost(error: BaseException) -> str | None:
    """The first line of an error of jax's about another process, None: it is other."""
    seen: BaseException | None = error
    while seen is not None:
        line = str(seen).strip().partition("\n")[0]
        if any(word in str(seen) for word in LOST):
            return line[:200]
        seen = seen.__cause__ or seen.__context__
    return None
