"""Several processes of one machine, each with devices of its own, for tests."""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TESTS = Path(__file__).parent


def free_port(low: int = 1024) -> int:
    """A port of at least `low` that nobody listens on.

    Whoever asks at the same time starts elsewhere: a port is taken only when used.
    """
    start = random.SystemRandom().randrange(low, 65536)
    for port in [0, *range(start, 65536), *range(low, start)]:
        with socket.socket() as found:
            try:
                found.bind(("127.0.0.1", port))
            except OSError:
                continue
            number = found.getsockname()[1]
        if number >= low:
            return number
    raise AssertionError("no port is free")


def environ_of(devices: int, **more: str) -> dict[str, str]:
    """The environment of a process with so many devices."""
    flags = [x for x in os.environ["XLA_FLAGS"].split() if "device_count" not in x]
    flags.append(f"--xla_force_host_platform_device_count={devices}")
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    own = {"XLA_FLAGS": " ".join(flags), "PYTHONPATH": os.pathsep.join(paths)}
    return os.environ | own | more


def slurm(number: int, process: int) -> dict[str, str]:
    """What srun says to one of `number` tasks on this machine, but for the job's id."""
    return {
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": str(number),
        "SLURM_STEP_TASKS_PER_NODE": str(number),
        "SLURM_NTASKS": str(number),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
        "SLURM_NODEID": "0",
    }


def begun(arguments: Sequence[str], environs: Sequence[dict[str, str]]) -> list:
    """One Python process for each environment."""
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environ in environs
    ]


def command(process: int, number: int, port: int) -> list[str]:
    """The options of one of several processes that are started by hand."""
    where = ["--coordinator", f"127.0.0.1:{port}"]
    return [*where, "--process-id", str(process), "--num-processes", str(number)]


def run_many(
    arguments: Sequence[str], number: int, devices: int, **environ: str
) -> list:
    """`unipost run` with `arguments` in so many processes, not waited for."""
    port, found = free_port(), []
    for process in range(number):
        options = command(process, number, port) if number > 1 else []
        whole = ["-m", "unipost", "run", *arguments, *options]
        found += begun(whole, [environ_of(devices, **environ)])
    return found


def ended(processes: Sequence, seconds: float = 560) -> list[tuple[int, str, str]]:
    """(code, stdout, stderr) of each, without what gloo says; all are gone after it."""
    # all at once: one whose pipe is full waits, and the others wait for it
    with ThreadPoolExecutor(len(processes)) as pool:
        try:
            found = list(pool.map(lambda x: x.communicate(timeout=seconds), processes))
        finally:
            for process in processes:
                process.kill()
    codes = [process.returncode for process in processes]
    pairs = zip(codes, found, strict=True)
    return [
        (code, _without_gloo(out), _without_gloo(err)) for code, (out, err) in pairs
    ]


def _without_gloo(text: str) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(x for x in lines if "[Gloo]" not in x and "peer ranks" not in x)
