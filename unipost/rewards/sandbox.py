"""Time limits that hold: rewards called in a process of their own.

A reward may loop in a C function, exit, or crash, and no thread or signal of this
process can stop that; the worker process is killed instead, and started anew.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unipost.rewards.pipes import Pipes
from unipost.rewards.worker import START_LIMIT

PATIENCE = 16
"""So many calls in a row that each end the worker end their batch too."""
WORKER = Path(__file__).with_name("worker.py")


@dataclass(frozen=True)
class Task:
    """What the worker calls: a function by its module and name, or a pickled scorer.

    `options` are a function's keyword arguments, pickled. `preload` names modules to
    import before the first call, outside its time limit.
    """

    target: tuple[str, str] = ("", "")
    options: bytes = b""
    preload: tuple[str, ...] = ()
    scorer: bytes | None = None


class Call(NamedTuple):
    """Arguments of one call and how many seconds it may take."""

    seconds: float
    arguments: tuple


class Sandbox:
    """A worker process that is started when it is first needed, and again if it dies.

    One caller at a time: a second one waits.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._end: Callable[[], object] = lambda: None
        self._lock = threading.Lock()

    def run(self, task: Task, calls: Sequence[Call]) -> list[tuple | str]:
        """Per call its result, or the reason why there is none."""
        results: list[tuple | str] = []
        failures = 0  # in a row
        with self._lock:
            while len(results) < len(calls):
                before = len(results)
                try:
                    problem = self._some(task, calls[before:], results)
                except BaseException:  # Ctrl-C: what the worker still says is stale
                    self._end()
                    raise
                if problem is None:
                    break
                failures = failures + 1 if len(results) == before else 1
                results.append(problem)
                if problem.startswith(_START) or failures == PATIENCE:
                    rest = problem if failures < PATIENCE else _HOPELESS
                    results += [rest] * (len(calls) - len(results))
        return results

    def close(self) -> None:
        """End the worker, and what it has started."""
        with self._lock:
            self._process = None
            self._end()

    def _some(
        self, task: Task, calls: Sequence[Call], results: list[tuple | str]
    ) -> str | None:
        """Append results until one call fails for good; None when all are there."""
        process, kept = self._started()
        request = {
            "path": sys.path,
            "target": task.target,
            "options": task.options,
            "preload": task.preload,
            "scorer": task.scorer,
            "calls": [tuple(call) for call in calls],
        }
        pipes = Pipes(process)
        try:
            pipes.send(pickle.dumps(request), START_LIMIT)
            kind, value = pipes.reply(START_LIMIT)
        except (TimeoutError, EOFError) as error:
            problem = self._kill(error)
            # what an earlier call left behind may have ended the worker just now
            return self._some(task, calls, results) if kept else f"{_START}: {problem}"
        if kind == "failed":
            return f"{_START}: {value}"
        for call in calls:
            try:
                kind, value = pipes.reply(call.seconds)
            except (TimeoutError, EOFError) as error:
                return self._kill(error)
            results.append(tuple(value) if kind == "done" else str(value))
        return None

    def _started(self) -> tuple[subprocess.Popen[bytes], bool]:
        """The worker, and whether it has been asked before."""
        if self._process is not None and self._process.poll() is None:
            return self._process, True
        self._end()
        # a reward that imports jax must not take the accelerator of this process
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._process)
        return self._process, False

    def _kill(self, error: Exception) -> str:
        """End the worker; why, with how it had ended by itself, if it had."""
        process, self._process = self._process, None
        fate = _fate(process) if process and isinstance(error, EOFError) else ""
        self._end()
        return f"{error}{fate}"


_START = "the reward cannot be started"
_HOPELESS = f"not asked, since {PATIENCE} calls in a row ended the worker process"


def _fate(process: subprocess.Popen[bytes]) -> str:
    """How a process ended by itself."""
    try:
        code = process.wait(1.0)
    except subprocess.TimeoutExpired:  # it has only closed its pipe
        return ""
    return f" with exit status {code}" if code >= 0 else f" of signal {-code}"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a worker with everything in its session, and wait for it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
