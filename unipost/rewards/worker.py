"""The process in which rewards with a time limit are called. Started by `Sandbox`.

    python -P .../unipost/rewards/worker.py

It reads requests from its standard input and answers on its standard output, each a
pickle of plain data behind its length. What a reward prints goes to standard error.
It is run as a file, so that neither the library nor jax is loaded.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

PACKAGE = Path(__file__).resolve().parent
START_LIMIT = 60.0
"""Seconds for the import of the modules of a reward."""
SLACK = 2.0
"""Seconds after its limit at which a worker ends itself, if nobody has ended it."""


def main() -> None:
    """Answer requests until the parent closes the pipe or is gone."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # a reward may read and print: neither may meet the messages
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    sys.path[:] = pickle.loads(receive(requests) or pickle.dumps(sys.path))
    watch = open(os.devnull, "w")
    while (message := receive(requests)) is not None:
        for reply in answers(pickle.loads(message), watch):
            send(replies, pickle.dumps(reply))


def answers(request: dict[str, Any], watch: Any):
    """("ready", problem) once the reward is imported, then a verdict per call."""
    arm(START_LIMIT, watch)
    try:
        run = job(request)
    except BaseException as error:
        yield "ready", library("calls").reason(error)
        return
    yield "ready", ""
    for arguments in request["calls"]:
        arm(request["limit"], watch)
        try:
            reply = run(*arguments)
        except BaseException as error:  # KeyboardInterrupt, and what a reward makes up
            reply = library("calls").failed(error)
        yield tuple(reply)
    faulthandler.cancel_dump_traceback_later()


def arm(seconds: float, watch: Any) -> None:
    """End this process after `seconds` and SLACK, even if it never comes back.

    The parent ends it at the limit; this is for a parent that is gone. It needs
    neither the interpreter's lock nor a signal, which a reward may take.
    """
    faulthandler.dump_traceback_later(seconds + SLACK, exit=True, file=watch)


def job(request: dict[str, Any]) -> Callable[..., tuple]:
    """What is called on every item of `calls`."""
    for module in request["preload"]:
        importlib.import_module(module)
    module = request["module"]
    if module.startswith("unipost.rewards."):
        found = library(module.removeprefix("unipost.rewards."))
    else:
        found = importlib.import_module(module)
    for name in request["name"].split("."):
        found = getattr(found, name)
    calls = library("calls")
    if request["fields"] is None:
        options = request["options"]
        return lambda response, answer: calls.call(found, response, answer, options)
    return library("batches").scoring(found, request["fields"])


def library(module: str) -> Any:
    """A module of the library's rewards, without the packages that it is in."""
    full = f"unipost.rewards.{module}"
    if full in sys.modules:
        return sys.modules[full]
    kept = {n: m for n, m in sys.modules.items() if n.partition(".")[0] == "unipost"}
    for name, path in {"unipost": PACKAGE.parent, "unipost.rewards": PACKAGE}.items():
        bare: Any = types.ModuleType(name)
        bare.__path__ = [str(path)]
        sys.modules[name] = bare
    try:
        return importlib.import_module(full)
    finally:
        for name in [n for n in sys.modules if n.partition(".")[0] == "unipost"]:
            del sys.modules[name]
        sys.modules.update(kept)
