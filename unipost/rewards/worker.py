"""The process in which rewards with a time limit are called. Started by `Sandbox`.

It reads requests from its standard input and answers on its standard output, each a
pickle of plain data behind its length. What a reward prints goes to standard error.
It is run as a file, `python -P .../worker.py`, so that neither the library nor jax is
loaded for it.
"""

from __future__ import annotations

import faulthandler
import functools
import importlib
import os
import pickle
import signal
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

PACKAGE = Path(__file__).resolve().parent
START_LIMIT = 60.0
"""Seconds for the import of what a reward needs."""
SLACK = 2.0
"""Seconds beyond its limit at which a worker ends itself, if nobody has ended it."""


def main() -> None:
    """Answer requests until the parent closes the pipe or is gone."""
    _outlive_sigterm()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # a reward may read and print: neither may meet the messages
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    while (message := _receive(requests)) is not None:
        for reply in _answers(pickle.loads(message), null):
            body = pickle.dumps(reply)
            replies.write(len(body).to_bytes(8, "big") + body)
            replies.flush()


def _outlive_sigterm() -> None:
    """Leave SIGTERM to the parent: a scheduler sends it to every process of a job.

    The parent takes its step to the end, and a reward that died would be another
    number. What a reward forks ends as always.
    """
    own = os.getpid()

    def heard(number: int, _) -> None:
        if os.getpid() != own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, heard)


def _receive(stream: BinaryIO) -> bytes | None:
    """The next message; None when the parent is gone."""
    head = stream.read(8)
    if len(head) < 8:
        return None
    return stream.read(int.from_bytes(head, "big"))


def _answers(request: dict[str, Any], null: int) -> Iterator[tuple[str, Any]]:
    """("ready", None) once the reward is imported, then ("done", result) per call.

    ("failed", why) stands for either.
    """
    _arm(START_LIMIT, null)
    try:
        sys.path[:] = request["path"]
        for module in request["preload"]:
            importlib.import_module(module)
        run = _runner(request)
        yield "ready", None
        for seconds, arguments in request["calls"]:
            _arm(seconds, null)
            try:
                yield "done", run(*arguments)
            except BaseException as error:  # whatever a reward may raise
                yield "failed", _library("calls").reason(error)
    except BaseException as error:
        yield "failed", _library("calls").reason(error)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _arm(seconds: float, null: int) -> None:
    """End this process SLACK after `seconds`, even if it never comes back.

    The parent ends it at the limit; this is for a parent that is gone. It needs
    neither the interpreter's lock nor a signal, which a reward may hold or take.
    """
    faulthandler.dump_traceback_later(seconds + SLACK, exit=True, file=null)


def _runner(request: dict[str, Any]) -> Callable[..., tuple]:
    """What is called with the arguments of every call."""
    if request["scorer"] is not None:
        scorer = pickle.loads(request["scorer"])
        return functools.partial(_scored, scorer)
    module, name = request["target"]
    options = pickle.loads(request["options"])
    own = module.startswith("unipost.rewards.")
    found = (
        _library(module.rpartition(".")[2]) if own else importlib.import_module(module)
    )
    for part in name.split("."):
        found = getattr(found, part)
    call = _library("calls").call
    return lambda response, answer: tuple(call(found, response, answer, options))


def _scored(scorer: Any, *samples: tuple) -> tuple:
    """The Grades of one group, as a tuple of plain data and arrays."""
    shown = [_library("sample").Sample(*fields) for fields in samples]
    return tuple(_library("grades").checked(scorer.score(shown), shown))


@functools.cache
def _library(name: str) -> Any:
    """A module of the library's rewards, without the packages that it is in.

    Importing those would load all of the library. A reward that has done so has the
    module already.
    """
    full = f"unipost.rewards.{name}"
    if full in sys.modules:
        return sys.modules[full]
    kept = _loaded()
    for package, path in {
        "unipost": PACKAGE.parent,
        "unipost.rewards": PACKAGE,
    }.items():
        bare: Any = types.ModuleType(package)
        bare.__path__ = [str(path)]
        sys.modules[package] = bare
    try:
        return importlib.import_module(full)
    finally:
        for module in _loaded():
            del sys.modules[module]
        sys.modules.update(kept)


def _loaded() -> dict[str, types.ModuleType]:
    return {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "unipost"}


if __name__ == "__main__":
    main()
