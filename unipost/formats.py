"""Files of rows read as mappings, each with the place it came from.

`Record` pairs a place (`data.jsonl:17`) with the row, or with the reason why there is
none. Formats: .jsonl and .ndjson (one object per line), .json (a list of objects),
.parquet, and a folder written by `datasets.Dataset.save_to_disk`.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class DataError(ValueError):
    """What is wrong in the data: file, line and reason, one line per bad row."""


def summary(bad: Sequence[str], count: int) -> str:
    """One bad row as it is; of more, the share, the first five and a count.

    Where all rows are bad for one reason, that is said once.
    """
    if len(bad) == 1:
        return bad[0]
    if len(bad) == count and len({line.partition(": ")[2] for line in bad}) == 1:
        return f"{bad[0]}; so in all {count} rows"
    more = [f"... and {len(bad) - 5} more"] if len(bad) > 5 else []
    return "\n".join([f"{len(bad)} of {count} rows:", *bad[:5], *more])


class Record(NamedTuple):
    """One row and its place; `problem` says why a row could not be read."""

    place: str
    row: dict[str, Any]
    problem: str = ""


def read_records(path: str | Path) -> Iterator[Record]:
    """The rows of a file or folder in order; raises DataError where none can be read.

    A line of JSONL that cannot be read becomes a Record with a problem: its reader
    decides. Any other format is read whole or not at all.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path)
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    if path.suffix not in _READERS:
        known = ", ".join(_READERS)
        raise DataError(f"{path}: unknown format '{path.suffix}' (reads {known})")
    return _READERS[path.suffix](path)


def data_hash(paths: str | Path | Iterable[str | Path]) -> str:
    """SHA-256 of content: of one file as `sha256sum` prints it, of several by order.

    A folder counts as its files in sorted order, names included.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    files = [f for path in paths for f in _content(Path(path))]
    if not files:
        raise DataError("data_hash: no files")
    digests = [(name, _sha256(file)) for name, file in files]
    if len(digests) == 1:
        return digests[0][1]
    lines = "".join(f"{name} {digest}\n" for name, digest in digests)
    return hashlib.sha256(lines.encode()).hexdigest()


def _content(path: Path) -> list[tuple[str, Path]]:
    if not path.is_dir():
        return [(path.name, path)]
    files = sorted(f for f in path.rglob("*") if f.is_file())
    return [(f.relative_to(path).as_posix(), f) for f in files]


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error


def _jsonl(path: Path) -> Iterator[Record]:
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            place = f"{path}:{number}"
            row, problem = _object(line)
            if problem and not line.endswith(b"\n"):
                problem += "; the file ends inside this line"
            yield Record(place, row, problem)


def _object(line: bytes) -> tuple[dict[str, Any], str]:
    try:
        row = json.loads(line.decode("utf-8").rstrip())
    except UnicodeDecodeError as error:
        return {}, f"not UTF-8 at byte {error.start + 1} of the line"
    except json.JSONDecodeError as error:
        return {}, f"not JSON at column {error.colno}: {error.msg}"
    except RecursionError:
        return {}, "not a row: nested too deeply"
    if not isinstance(row, dict):
        return {}, f"expected an object of columns, got {type(row).__name__}"
    return row, ""


def _json(path: Path) -> Iterator[Record]:
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    if data.lstrip()[:1] != b"[":  # many a .json file holds one object per line
        yield from _jsonl(path)
        return
    try:
        rows = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        where = f"{path}:{error.lineno}: not JSON at column {error.colno}"
        raise DataError(f"{where}: {error.msg}") from error
    yield from _numbered(path, rows)


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: not a Parquet file: {reason}") from error
    yield from _numbered(path, rows)


def _folder(path: Path) -> Iterator[Record]:
    if (path / "dataset_dict.json").exists():
        splits = sorted(p.name for p in path.iterdir() if p.is_dir())
        choices = " or ".join(str(path / split) for split in splits)
        raise DataError(f"{path}: holds splits; write {choices}")
    if not (path / "dataset_info.json").exists():
        raise DataError(f"{path}: not a folder written by Dataset.save_to_disk")
    import datasets

    try:
        rows = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be loaded: {reason}") from error
    yield from _numbered(path, rows)


def _numbered(path: Path, rows: Iterable[Any]) -> Iterator[Record]:
    for number, row in enumerate(rows, start=1):
        place = f"{path} row {number}"
        if isinstance(row, dict):
            yield Record(place, row)
        else:
            problem = f"expected an object of columns, got {type(row).__name__}"
            yield Record(place, {}, problem)


_READERS = {".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".parquet": _parquet}
