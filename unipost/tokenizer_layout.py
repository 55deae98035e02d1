"""The files of a tokenizer in the Hugging Face layout."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

CONFIG = "tokenizer_config.json"
GENERATION = "generation_config.json"
TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, one line that names the file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        where = f"{path}: not JSON at line {error.lineno}, column {error.colno}"
        raise ValueError(f"{where}: {error.msg}; copy the file again") from error
    if not isinstance(content, dict):
        got = type(content).__name__
        raise ValueError(f"{path}: holds a {got}, not the object of a tokenizer")
    return content


def write_tokenizer(
    folder: str | Path, content: Mapping[str, Any], names: Mapping[str, str]
) -> None:
    """Write tokenizer.json with `content` and the config that names its tokens.

    `names` are those of the special tokens by role, {"eos_token": "<eos>"}. The folder
    is made where it does not exist.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **names,
    }
    for name, value in ((TOKENIZER, content), (CONFIG, settings)):
        text = json.dumps(value, indent=2, ensure_ascii=False)
        (folder / name).write_text(text + "\n", encoding="utf-8")


def tokenizer_object(
    specials: Iterable[tuple[str, int]],
    pre_tokenizer: Mapping[str, Any],
    decoder: Mapping[str, Any],
    model: Mapping[str, Any],
) -> dict[str, Any]:
    """tokenizer.json of these parts; special tokens are found in text as they stand."""
    added = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token, index in specials
    ]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": dict(pre_tokenizer),
        "post_processor": None,
        "decoder": dict(decoder),
        "model": dict(model),
    }
