"""Whether there are several processes, as launchers say it, and what is refused."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from many_processes import begun, command, ended, environ_of, free_port, slurm

from unipost import processes
from unipost.cli import main
from unipost.launch import Meeting, asked, detected, several_tpu_hosts, tasks_here

SRUN = {"SLURM_JOB_ID": "7"} | slurm(2, 1)
ALLOCATION = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}
MPI = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3"}


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        (ALLOCATION | {"SLURM_LOCALID": "0", "SLURM_JOB_NODELIST": "a[1-8]"}, None),
        # salloc's own shell is a step of one task, whose job has eight
        (SRUN | ALLOCATION | {"SLURM_STEP_NUM_TASKS": "1"}, None),
        (SRUN, (None, None, 2)),
        (SRUN | MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (SRUN | MPI, (None, 3, 4)),
        (MPI | {"JAX_COORDINATOR_ADDRESS": "h:1"}, ("h:1", 3, 4)),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_SKIP_MDS_QUERY": "1"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_WORKER_ID": "1"}, (None, None, None)),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, (None, None, None)),
        ({"MEGASCALE_NUM_SLICES": "2"}, (None, None, None)),
    ],
)
def test_an_environment_says_whether_there_are_several(environ, found):
    meeting = detected(environ)
    if found is None:
        assert meeting is None
    else:
        assert meeting is not None
        assert (meeting.coordinator, meeting.process, meeting.processes) == found


def test_options_win_and_the_environment_fills_in():
    assert asked(None, None, None, {}) is None
    assert asked("h:1", 0, 2, SRUN) == Meeting("h:1", 0, 2)
    filled = asked("h:1", None, None, SRUN)
    assert filled == Meeting("h:1", None, 2, "SLURM job 7")
    address = {"JAX_COORDINATOR_ADDRESS": "h:2"}
    assert asked(None, 1, 2, address) == Meeting("h:2", 1, 2)


def test_an_address_alone_says_too_little():
    with pytest.raises(ValueError, match="JAX_COORDINATOR_ADDRESS is set; write"):
        asked(None, None, None, {"JAX_COORDINATOR_ADDRESS": "h:2"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--coordinator h", "--coordinator: 'h'; write HOST:PORT"),
        ("--coordinator h:99999", "--coordinator: 'h:99999'; write HOST:PORT"),
        ("--process-id 1", "--coordinator and --num-processes: missing"),
        ("--coordinator h:1 --num-processes 2", "--process-id: missing"),
        (
            "--coordinator h:1 --process-id 2 --num-processes 2",
            "--process-id: 2; write 0 to 1",
        ),
        ("--num-processes 0", "--num-processes: 0; write 1 or more"),
        ("--meet-within 0", "--meet-within: 0.0; write seconds > 0"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message, capsys, monkeypatch):
    for name in (*SRUN, *MPI, "JAX_COORDINATOR_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert main(["run", "no.yaml", *options.split()]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"unipost: {message}")
    assert said.count("\n") == 1


@contextlib.contextmanager
def metadata(text: str | None):
    """A metadata server of a Cloud TPU with these endpoints; None: of another VM."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            known = text is not None and self.path.endswith("worker-network-endpoints")
            self.send_response(200 if known else 404)
            self.end_headers()
            self.wfile.write((text or "").encode() if known else b"")

        def log_message(self, format, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    server.shutdown()


def test_a_tpu_vm_asks_its_metadata():
    for text, several in (("a", False), ("x:y:10.0.0.1,x:y:10.0.0.2", True)):
        with metadata(text) as environ:
            assert several_tpu_hosts(environ) is several
            assert not several_tpu_hosts(environ | {"TPU_SKIP_MDS_QUERY": "1"})
    with metadata(None) as environ:
        assert not several_tpu_hosts(environ)
    assert not several_tpu_hosts({"GCE_METADATA_IP": f"127.0.0.1:{free_port()}"})


def test_tasks_of_a_node_are_counted():
    step = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1"}
    counts = [tasks_here(step | {"SLURM_NODEID": str(i)}) for i in range(4)]
    assert counts == [4, 4, 3, 1]
    assert tasks_here(MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}) == 2
    assert tasks_here({}) is None


def test_one_process_is_all_and_the_first():
    assert (processes.count(), processes.index()) == (1, 0)
    assert processes.on_first(lambda: {"a": 1}) == {"a": 1}
    assert processes.everyones(lambda: 2) == [2]
    assert processes.split(7) == slice(0, 7)
    processes.barrier("here")
    with pytest.raises(KeyError):
        processes.on_first(lambda: {}["a"])


def test_shares_have_no_gap_and_no_overlap(monkeypatch):
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(processes, "count", lambda count=count: count)
        for size in (0, 1, 5, 16, 17):
            parts = [processes.split(size, i) for i in range(count)]
            places = [i for part in parts for i in range(part.start, part.stop)]
            assert places == list(range(size))
            lengths = [part.stop - part.start for part in parts]
            assert max(lengths) - min(lengths) <= 1


def test_a_process_that_nobody_meets_gives_up():
    """In time and in one line, where jax by itself aborts with a stack trace."""
    options = ["-m", "unipost", "run", "no.yaml", "--meet-within", "2"]
    started = []
    for process in (0, 1):
        whole = [*options, *command(process, 2, free_port())]
        started += begun(whole, [environ_of(1)])
    (first, second) = ended(started, 60)
    assert (first[0], second[0]) == (2, 2)
    assert first[2].startswith("unipost: process 0: not all 2 processes came to 127.")
    assert second[2].startswith("unipost: process 1: no coordinator at 127.0.0.1:")
    assert first[2].count("\n") == second[2].count("\n") == 1
