"""Two models and a file of prompts, made ready to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unipost.analysis.settings import BUDGET, Analysis
from unipost.data import DataError, Tokens, encode_rows, read_rows
from unipost.formats import read_records
from unipost.loading import Model, load_model, same_tokens
from unipost.rows import Demonstration, Kind, Question, demonstration
from unipost.runs import RunError
from unipost.tokenizer import Tokenizer


class Texts(NamedTuple):
    """N prompts with their tokens.

    tokens  prompts cut to the longest; responses are the file's, empty without
    prompts [N]  as text
    answers [N]  what is right, "" where the file has none
    rows [N]     of the file, for rewards that read other columns
    given   whether the file has responses, graded whether it has answers
    budget  response tokens that may be drawn
    """

    tokens: Tokens
    prompts: list[str]
    answers: list[str]
    rows: list[Mapping[str, Any]]
    given: bool
    graded: bool
    budget: int


def model_folder(option: str, path: Path) -> str:
    """The folder of a model, or of the trained model of a run directory.

    Raises RunError, naming the option, where there is none.
    """
    if not path.is_dir():
        raise RunError(
            f"{option} {path}: no such folder; give that of a model or a run"
        )
    for folder in (path, path / "final"):
        if any((folder / n).exists() for n in ("config.json", "adapter_config.json")):
            return str(folder)
    raise RunError(
        f"{option} {path}: holds no model (no config.json, no final/config.json); give "
        "a folder in the Hugging Face layout or a run directory that is done"
    )


def open_models(base: Path, tuned: Path, asked: Analysis) -> tuple[Model, Model]:
    """Both models. Raises RunError where they do not have the same tokens."""
    folders = model_folder("--base", base), model_folder("--tuned", tuned)
    one, other = (load_model(f, asked.seed, None, asked.compute) for f in folders)
    sizes = [m.config and m.config.vocab_size for m in (one, other)]
    if not same_tokens(one.tokenizer, other.tokenizer):
        problem = "another tokenizer than"
    elif sizes[0] != sizes[1]:
        problem = f"a vocabulary of {sizes[1]} entries, not {sizes[0]} as"
    else:
        return one, other
    raise RunError(
        f"--tuned {tuned}: has {problem} --base {base}, so their probabilities are of "
        "different things; give two models with the same tokens"
    )


def open_texts(path: str, models: Sequence[Model], asked: Analysis) -> Texts:
    """The prompts of a file. Raises DataError for the file, ValueError for lengths."""
    tokenizer = models[0].tokenizer
    kind = asked.kind or _kind(path, asked.columns)
    rows = read_rows(
        path,
        kind,
        asked.columns,
        asked.on_bad_row,
        tokenizer,
        wording=asked.wording,
    ).rows[: asked.limit]
    room = _positions(models)
    longest = asked.prompt_length or room - 1
    budget = asked.response_length or min(BUDGET, room - 1)
    given = kind == "demonstrations" or any(_solved(row) for row in rows)
    asking = [
        demonstration(r) if given and isinstance(r, Question) else r for r in rows
    ]
    tokens = _cut(encode_rows(tokenizer, asking, longest, budget, asked.too_long))
    left = room - tokens.prompt.shape[1]
    if left < (asked.response_length or tokens.response.shape[1]) or left < 1:
        raise ValueError(
            f"response_length: the prompts have up to {tokens.prompt.shape[1]} tokens "
            f"and the models {room} positions; write response_length <= {left}"
        )
    kept = [rows[i] for i in tokens.index]
    return Texts(
        tokens=tokens,
        prompts=[_prompt(tokenizer, row, i, tokens) for i, row in enumerate(kept)],
        answers=[getattr(row, "answer", "") for row in kept],
        rows=[getattr(row, "row", {}) for row in kept],
        given=given,
        graded=kind == "questions",
        budget=min(budget, left),
    )


def _kind(path: str, columns: Mapping[str, str]) -> Kind:
    """What the rows of a file are, by the columns of the first that can be read."""
    record = next((r for r in read_records(path) if not r.problem), None)
    if record is None:
        raise DataError(f"{path}: no rows")

    def has(name: str) -> bool:
        return columns.get(name, name) in record.row

    if has("answer"):
        return "questions"
    if has("completion") or has("messages"):
        return "demonstrations"
    return "prompts"


def _solved(row: Any) -> bool:
    return isinstance(row, Question) and row.demonstration is not None


def _positions(models: Sequence[Model]) -> int:
    return min(m.config.max_position_embeddings for m in models if m.config is not None)


def _cut(tokens: Tokens) -> Tokens:
    """Without the columns that no row uses, one response column at least."""
    prompt = max(1, int(tokens.prompt_mask.sum(1).max()))
    response = max(1, int(tokens.response_mask.sum(1).max()))
    return tokens._replace(
        prompt=tokens.prompt[:, -prompt:],
        prompt_mask=tokens.prompt_mask[:, -prompt:],
        response=tokens.response[:, :response],
        response_mask=tokens.response_mask[:, :response],
    )


def _prompt(
    tokenizer: Tokenizer, row: Question | Demonstration, i: int, tokens: Tokens
) -> str:
    if isinstance(row.prompt, str):
        return row.prompt
    return tokenizer.decode(tokens.prompt[i][tokens.prompt_mask[i]].tolist())
