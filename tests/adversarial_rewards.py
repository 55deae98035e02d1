"""Rewards that misbehave, each by what its response asks for."""

import ctypes
import math
import os
import re
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np


def _loop():
    while True:
        pass


def _noise():
    print("printed")
    print("to the error output", file=sys.stderr)
    os.write(1, b"\x00" * 64)
    return 5.0


BAD = {
    "raise": lambda: 1 / 0,
    "quit": lambda: sys.exit(3),
    "interrupt": lambda: (_ for _ in ()).throw(KeyboardInterrupt),
    "memory": lambda: (_ for _ in ()).throw(MemoryError),
    "read": lambda: float(input()),
    "none": lambda: None,
    "text": lambda: "1.0",
    "array": lambda: np.ones(1),
    "complex": lambda: 1j,
    "nan": lambda: math.nan,
    "inf": lambda: -math.inf,
    "huge": lambda: 1e300,
    "digits": lambda: 10**400,
}
GOOD = {
    "bool": (lambda: True, 1.0),
    "float32": (lambda: np.float32(0.25), 0.25),
    "scalar": (lambda: np.array(0.5), 0.5),
    "edge": (lambda: -1e6, -1e6),
    "noise": (_noise, 5.0),
}
FATAL = {
    "loop": (_loop, "it took longer than its 0.6 s"),
    "C": (lambda: re.match("(a+)+$", "a" * 60 + "b"), "it took longer than its 0.6 s"),
    "sleep": (lambda: time.sleep(1000), "it took longer than its 0.6 s"),
    "exit": (lambda: os._exit(7), "the worker process died with exit status 7"),
    "crash": (lambda: ctypes.string_at(0), "the worker process died of signal 11"),
    "kill": (lambda: os.kill(os.getpid(), 9), "the worker process died of signal 9"),
}


def moody(response, answer, scale=1.0):
    """The length of the response times `scale`, unless it names something worse."""
    for kind in (BAD, {k: v[0] for k, v in {**GOOD, **FATAL}.items()}):
        if response in kind:
            return kind[response]()
    return scale * len(response)


def grudge(response, answer):
    """Ends its process a moment after it has answered."""
    threading.Timer(0.3, os._exit, (1,)).start()
    return 1.0


def process(response, answer):
    """The id of the process that it runs in."""
    return float(os.getpid()) % 1e6


def modules(response, answer):
    """How many of the named modules are loaded where it runs."""
    return float(sum(name in sys.modules for name in response.split()))


@dataclass(frozen=True)
class Longest:
    """1 for the longest response of every group, by `shift` too high."""

    shift: float = 0.0

    def score(self, samples):
        for sample in samples:
            if sample.response in FATAL or sample.response in BAD:
                moody(sample.response, "")
        best = {}
        for s in samples:
            best[s.group] = max(best.get(s.group, 0), s.tokens)
        return [self.shift + float(s.tokens == best[s.group]) for s in samples]
