"""Several processes as one program: who writes, who does what, what all must know.

In a single process nothing here costs anything, not even the import of jax. In several
(`unipost.launch`) every process must call the same functions in the same order.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")
TOLD = "the first process tells of it"
"""The note on an error that every process raises and the first one prints."""
_HEAD, _SHORT = 8, 4096


def count() -> int:
    """The number of processes; 1 until they have met."""
    # asking jax for it would start its devices, after which processes cannot meet
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return 1
    return jax.process_count()


def index() -> int:
    """The number of this process, from 0."""
    return sys.modules["jax"].process_index() if count() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes files and prints."""
    return index() == 0


def check_single(what: str, instead: str) -> None:
    """Raises ValueError where there are several processes: `what` is for one alone.

    In all of them, and the first one tells.
    """
    if count() == 1:
        return
    problem = f"{what}, but there are {count()} processes; {instead}"

    def refuse() -> None:
        raise ValueError(problem)

    on_first(refuse)


def split(size: int, process: int | None = None) -> slice:
    """The part of `size` things in a row that is a process's, by default this one's.

    The parts of all processes follow each other and differ by one in length at most.
    """
    parts, own = count(), index() if process is None else process
    return slice(size * own // parts, size * (own + 1) // parts)


def barrier(name: str) -> None:
    """Wait until every process is here. Raises RuntimeError where one is elsewhere."""
    if count() > 1:
        own = zlib.crc32(name.encode())
        found = _of_each(np.array([own], np.uint32))
        if (found != own).any():
            raise RuntimeError(f"barrier {name!r}: other processes are at another one")


def on_first(fn: Callable[[], T]) -> T:
    """`fn()` as the first process computes it; the others wait for its result.

    An exception of `fn` is raised in all processes, so that none waits for ever. The
    result has to be something that pickles.
    """
    if count() == 1:
        return fn()
    if is_first():
        packed, value, error = _tried(fn)
        _from_first(packed)
    else:
        value, error = pickle.loads(_from_first(b""))
        if error is not None:
            error.add_note(TOLD)
    if error is not None:
        raise error
    return value


def everyones(fn: Callable[[], T]) -> list[T]:
    """What `fn()` gives in each process, by their numbers.

    An exception in any process is raised in all: the first one's.
    """
    if count() == 1:
        return [fn()]
    packed, _, error = _tried(fn)
    each = [pickle.loads(x) for x in _gathered_bytes(packed)]
    if error is not None:
        raise error
    for number, (_, failure) in enumerate(each):
        if failure is not None:
            failure.add_note(f"process {number} tells of it")
            raise failure
    return [found for found, _ in each]


def in_turn(tree: T) -> T:
    """`tree`, once it is there where programs of processes could get out of order.

    On TPU and GPU a device takes one after the other. On CPU two that do not depend on
    each other run at once, and exchanges that meet in another order elsewhere wait for
    each other for ever, or take each other's numbers.
    """
    if count() > 1:
        import jax

        if jax.default_backend() == "cpu":
            jax.block_until_ready(tree)
    return tree


def gathered(tree: Any) -> Any:
    """`tree` with every array whole in host memory, in every process.

    Arrays that this process has whole are only fetched. Of those spread over processes
    one at a time is put together, on every device.
    """
    import jax

    def whole(x: Any) -> Any:
        spread = isinstance(x, jax.Array) and not (
            x.is_fully_addressable or x.is_fully_replicated
        )
        if not spread:
            return x
        laid: Any = x.sharding
        mesh = laid.mesh
        return _whole(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))

    return jax.device_get(jax.tree.map(whole, tree))


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """What is computed inside is this process's own, on its first device.

    With a mesh set, even a sum of two numbers is a program of all its devices, which
    all processes would have to start in the same order.
    """
    jax = sys.modules.get("jax")
    if jax is None or jax.sharding.get_abstract_mesh().empty:
        yield
        return
    no_mesh = jax.sharding.Mesh(np.empty((), object), ())
    with jax.set_mesh(no_mesh):
        yield


def _tried(fn: Callable[[], Any]) -> tuple[bytes, Any, Exception | None]:
    """((value, error) as bytes, value, error) of `fn()`; what does not pickle fails."""
    value, error = None, None
    try:
        value = fn()
        return pickle.dumps((value, None)), value, None
    except Exception as found:
        error = found
    try:
        packed = pickle.dumps((None, error))
        pickle.loads(packed)
    except Exception:  # an exception of a kind that only its own process can make
        packed = pickle.dumps((None, RuntimeError(str(error))))
    return packed, None, error


def _from_first(packed: bytes) -> bytes:
    """The bytes that the first process has. A short message takes one broadcast."""

    def sent(block: bytes, size: int) -> bytes:
        padded = np.zeros(size, np.uint8)
        padded[: len(block)] = np.frombuffer(block, np.uint8)
        return _of_each(padded, _first).tobytes()

    short = sent(len(packed).to_bytes(_HEAD) + packed[: _SHORT - _HEAD], _SHORT)
    length = int.from_bytes(short[:_HEAD])
    rest = packed[_SHORT - _HEAD :]
    if length > _SHORT - _HEAD:
        short += sent(rest, _rounded(length - _SHORT + _HEAD))
    return short[_HEAD : _HEAD + length]


def _gathered_bytes(packed: bytes) -> list[bytes]:
    """The bytes of every process, by their numbers."""
    lengths = _of_each(np.array([len(packed)], np.int32))[:, 0]
    padded = np.zeros(_rounded(int(lengths.max())), np.uint8)
    padded[: len(packed)] = np.frombuffer(packed, np.uint8)
    each = _of_each(padded)
    return [row[:n].tobytes() for row, n in zip(each, lengths, strict=True)]


def _same(x: Any) -> Any:
    return x


def _first(x: Any) -> Any:
    return x[0]


def _of_each(own: np.ndarray, fn: Callable = _same) -> np.ndarray:
    """`fn` of [processes, ...], the `own` of each; all have one shape and dtype."""
    import jax
    from jax.sharding import NamedSharding, PartitionSpec

    mesh = jax.sharding.Mesh(
        np.array(jax.devices()).reshape(count(), -1), ("process", "device")
    )
    rows = NamedSharding(mesh, PartitionSpec("process"))
    shape = (count(), *own.shape)
    each = jax.make_array_from_process_local_data(rows, own[None], shape)
    return _whole(each, NamedSharding(mesh, PartitionSpec()), fn)


def _whole(x: Any, everywhere: Any, fn: Callable = _same) -> np.ndarray:
    """`fn(x)` in host memory, computed on every device of `everywhere`.

    `multihost_utils` waits for the first device alone, while others may still exchange
    when the next program starts: see `in_turn`.
    """
    import jax

    with jax.set_mesh(everywhere.mesh):
        found = in_turn(jax.jit(fn, out_shardings=everywhere)(x))
    return np.asarray(found.addressable_data(0))


def _rounded(size: int) -> int:
    """A power of two of at least `size`: few sizes occur, so few programs."""
    return max(_SHORT, 1 << (size - 1).bit_length())
