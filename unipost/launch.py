"""Starting: several processes meet before jax computes anything.

By hand every process is told where the first one is, its own number and how many there
are. Under SLURM (srun), Open MPI (mpirun) and on the hosts of a TPU, jax finds that out
by itself; here it is only decided whether there are several processes at all. A shell
inside a SLURM allocation is one process, whatever the allocation holds.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unipost import processes
from unipost.runs import RunError

LIMIT = 300.0
"""Seconds within which all processes must have met."""
ADDRESS = "JAX_COORDINATOR_ADDRESS"
OPTIONS = "the options"
BY_HAND = "--coordinator HOST:PORT --process-id I --num-processes N"


class NotMet(RunError):
    """Processes that did not meet; jax is of no use after it, end the process."""


@dataclass(frozen=True)
class Meeting:
    """Where and as what a process meets the others; None: jax finds it out.

    by  what says that there are several
    """

    coordinator: str | None = None
    process: int | None = None
    processes: int | None = None
    by: str = OPTIONS


def start(
    coordinator: str | None = None,
    process: int | None = None,
    number: int | None = None,
    limit: float = LIMIT,
) -> int:
    """Meet the other processes, where there are any; returns how many there are.

    Before any computation with jax; nothing happens where they have met already.
    Without arguments the environment says whether there are several (`detected`).
    Raises ValueError for arguments that do not fit, and NotMet where the processes have
    not met within `limit` seconds.
    """
    if processes.count() > 1:
        return processes.count()
    meeting = asked(coordinator, process, number, os.environ)
    if meeting is None or meeting.processes == 1:
        return 1
    _meet(meeting, limit)
    _free_devices(os.environ)
    return processes.count()


def asked(
    coordinator: str | None,
    process: int | None,
    number: int | None,
    environ: Mapping[str, str],
) -> Meeting | None:
    """How the processes meet; None: there is only this one.

    What is not given is what the environment says. Raises ValueError, one line.
    """
    _check(coordinator, process, number)
    found = detected(environ)
    given = {"coordinator": coordinator, "process": process, "processes": number}
    given = {name: value for name, value in given.items() if value is not None}
    if not given and (found is not None or ADDRESS not in environ):
        return found
    if coordinator is None and ADDRESS in environ:
        given["coordinator"] = environ[ADDRESS]
    if found is None and len(given) < 3:
        options = "--coordinator", "--process-id", "--num-processes"
        values = given.get("coordinator"), process, number
        missing = [o for o, x in zip(options, values, strict=True) if x is None]
        why = f"; {ADDRESS} is set" if ADDRESS in environ else ""
        raise ValueError(
            f"{' and '.join(missing)}: missing, and nothing in the environment says "
            f"it{why}; write {BY_HAND}"
        )
    base = vars(found) if found is not None and len(given) < 3 else {}
    return Meeting(**{**base, **given})


def _check(coordinator: str | None, process: int | None, number: int | None) -> None:
    if coordinator is not None:
        host, _, port = coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"--coordinator: {coordinator!r}; write HOST:PORT")
    if number is not None and number < 1:
        raise ValueError(f"--num-processes: {number}; write 1 or more")
    if process is not None and not 0 <= process < (number or process + 1):
        raise ValueError(
            f"--process-id: {process}; write 0 to {(number or 1) - 1}, a number for "
            "each process"
        )


def detected(environ: Mapping[str, str]) -> Meeting | None:
    """What a launcher says in the environment; None: that there is one process.

    Open MPI before SLURM, as mpirun starts its daemons with srun.
    """
    if "OMPI_COMM_WORLD_SIZE" in environ:
        number = int(environ["OMPI_COMM_WORLD_SIZE"])
        return _open_mpi(number, environ) if number > 1 else None
    number = int(environ.get("SLURM_STEP_NUM_TASKS", 1))
    if number > 1:
        job = environ.get("SLURM_JOB_ID")
        return Meeting(processes=number, by=f"SLURM job {job}")
    hosts = environ.get("TPU_PROCESS_ADDRESSES") or environ.get("TPU_WORKER_HOSTNAMES")
    slices = int(environ.get("MEGASCALE_NUM_SLICES", 1))
    several = slices > 1 or (hosts and "," in hosts)
    if several or (_has_chips(environ) and several_tpu_hosts(environ)):
        return Meeting(by="the TPU's hosts")
    return None


def _open_mpi(number: int, environ: Mapping[str, str]) -> Meeting:
    # from version 5 on it does not say where the launcher is
    own = int(environ["OMPI_COMM_WORLD_RANK"]), number
    place = environ.get(ADDRESS)
    if "OMPI_MCA_orte_hnp_uri" in environ:
        return Meeting(place, *own, by="Open MPI")
    return Meeting(place, *own, by="Open MPI 5, which names no address")


def _has_chips(environ: Mapping[str, str]) -> bool:
    """Whether TPU chips and their library may be here."""
    from importlib.util import find_spec

    chips = [*Path("/dev").glob("accel*"), *Path("/dev/vfio").glob("[0-9]*")]
    library = "TPU_LIBRARY_PATH" in environ or find_spec("libtpu") is not None
    return bool(chips) and library


def several_tpu_hosts(environ: Mapping[str, str]) -> bool:
    """Whether this is one of several hosts of a Cloud TPU, by its metadata server."""
    if "TPU_SKIP_MDS_QUERY" in environ:
        return False
    import urllib.request

    host = environ.get("GCE_METADATA_IP", "metadata.google.internal")
    place = "computeMetadata/v1/instance/attributes/worker-network-endpoints"
    headers = {"Metadata-Flavor": "Google"}
    request = urllib.request.Request(f"http://{host}/{place}", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return b"," in answer.read()
    except OSError:  # no Cloud TPU, or no metadata of one
        return False


def _meet(meeting: Meeting, limit: float) -> None:
    """`jax.distributed.initialize`, which by itself aborts the process at its limit."""
    import jax

    failed: list[Exception] = []
    by_launcher = meeting.by != OPTIONS

    def work() -> None:
        try:
            jax.distributed.initialize(
                meeting.coordinator,
                meeting.processes,
                meeting.process,
                cluster_detection_method=None if by_launcher else "deactivate",
                initialization_timeout=int(limit) + 60,
            )
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    if thread.is_alive():
        raise NotMet(_not_met(meeting, limit))
    if failed:
        reason = str(failed[0]).splitlines()[0]
        raise NotMet(
            f"several processes by {meeting.by}, but they cannot meet ({reason}); "
            f"write {BY_HAND}"
        ) from failed[0]


def _not_met(meeting: Meeting, limit: float) -> str:
    place = meeting.coordinator or os.environ.get(ADDRESS)
    who = "" if meeting.process is None else f"process {meeting.process}: "
    waited = f"within {limit:.0f} s"
    if place is None:
        return f"{who}the processes by {meeting.by} have not met {waited}"
    if meeting.process != 0 and not _reachable(place):
        return (
            f"{who}no coordinator at {place} {waited}; start process 0 on that host, "
            "or write another --coordinator that all hosts reach"
        )
    return (
        f"{who}not all {meeting.processes or ''} processes came to {place} {waited}; "
        "start each with a --process-id of its own"
    )


def _reachable(place: str) -> bool:
    host, _, port = place.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except OSError:
        return False


def _free_devices(environ: Mapping[str, str]) -> None:
    """All GPUs of a node for a process that has the node to itself.

    Under SLURM and Open MPI jax takes the GPU of the process's number on its node, even
    where there is one process on it, or one GPU that it may see.
    """
    import jax

    seen = environ.get("CUDA_VISIBLE_DEVICES", "")
    one_seen = bool(seen) and "," not in seen
    if "JAX_LOCAL_DEVICE_IDS" in environ or not (one_seen or tasks_here(environ) == 1):
        return
    for name in ("jax_cuda_visible_devices", "jax_rocm_visible_devices"):
        jax.config.update(name, "all")


def tasks_here(environ: Mapping[str, str]) -> int | None:
    """Processes on this node, None where no launcher says it.

    SLURM writes 4(x2),3 for two nodes with 4 and one with 3.
    """
    if "OMPI_COMM_WORLD_LOCAL_SIZE" in environ:
        return int(environ["OMPI_COMM_WORLD_LOCAL_SIZE"])
    text = environ.get("SLURM_STEP_TASKS_PER_NODE")
    if text is None or "SLURM_NODEID" not in environ:
        return None
    each: list[int] = []
    for part in text.split(","):
        size, _, times = part.partition("(x")
        each += [int(size)] * int(times.rstrip(")") or 1)
    return each[int(environ["SLURM_NODEID"])]


def add_options(parser: argparse.ArgumentParser) -> None:
    """--coordinator and the rest, for starting several processes by hand."""
    group = parser.add_argument_group(
        "several processes",
        "start the same command in each; SLURM (srun), Open MPI and the hosts of a TPU "
        "need none of these",
    )
    group.add_argument(
        "--coordinator", metavar="HOST:PORT", help="of process 0, a free port"
    )
    group.add_argument(
        "--process-id", type=int, metavar="I", help="of this process, from 0"
    )
    group.add_argument("--num-processes", type=int, metavar="N", help="of all")
    group.add_argument(
        "--meet-within",
        type=float,
        default=LIMIT,
        metavar="SECONDS",
        help="after which a process gives up waiting (default: 300)",
    )


def begin(options: argparse.Namespace) -> None:
    """`start` by the options of a command that has them; others print nothing."""
    if not hasattr(options, "coordinator"):
        return
    found = options.coordinator, options.process_id, options.num_processes
    if not options.meet_within > 0:
        raise ValueError(f"--meet-within: {options.meet_within}; write seconds > 0")
    start(*found, options.meet_within)
    if not processes.is_first():
        # errors are told by `unipost.endings`
        nowhere: Any = open(os.devnull, "w")
        sys.stdout = sys.stderr = nowhere
