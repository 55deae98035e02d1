"""adapter_config.json of PEFT: which modules have an adapter, of which rank."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

LM_HEAD = "lm_head"
ALL = "all-linear"
# Fields that are read, and fields that change nothing in what the model computes:
# records, settings of training, and settings of parts that are off.
READ = {"r", "lora_alpha", "use_rslora", "target_modules", "exclude_modules"}
READ |= {"rank_pattern"}
RECORDS = {
    "auto_mapping",
    "base_model_name_or_path",
    "inference_mode",
    "layers_pattern",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "task_type",
}
# Values of fields that are neither off nor empty but mean nothing special. Other
# initial values (PiSSA, LoftQ) come with a base of their own.
PLAIN = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    "init_lora_weights": (True, "gaussian", "orthogonal"),
}


@dataclass(frozen=True)
class Request:
    """What a file asks for: `ranks` of the adapted modules, by name in a layer."""

    rank: int
    alpha: float
    rslora: bool
    ranks: dict[str, int]


def read_request(
    fields: Mapping[str, Any], path: Path, modules: Mapping[str, tuple[str, ...]]
) -> Request:
    """What adapter_config.json asks for.

    modules: names of each linear module in all layers, by its name within a layer.
    target_modules may be a list of names or their ends, a regular expression, or
    "all-linear". Raises ValueError, naming the file and the field, for every kind of
    adapter that is not a plain LoRA, the same in all layers.
    """
    if fields.get("peft_type") != "LORA":
        _refuse(path, "peft_type", fields.get("peft_type"), "'LORA'")
    for name, value in fields.items():
        off = value is None or value is False or value in ("", [], {})
        plain = value in PLAIN.get(name, ())
        if name not in READ | RECORDS and not (off or plain):
            allowed = " or ".join(map(repr, PLAIN.get(name, ())))
            _refuse(path, name, value, allowed or "an adapter without it")
    rank, alpha = fields.get("r", 8), fields.get("lora_alpha", 8)
    if not isinstance(rank, int) or rank < 1:
        _refuse(path, "r", rank, "a positive integer")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or alpha <= 0:
        _refuse(path, "lora_alpha", alpha, "a number > 0")
    ranks = {}
    for name, places in modules.items():
        found = [_rank(fields, path, place, rank) for place in places]
        if len(set(found)) > 1:
            _refuse_layers(fields, path, name)
        if found[0]:
            ranks[name] = found[0]
    if not ranks:
        known = ", ".join(modules)
        _refuse(
            path, "target_modules", fields.get("target_modules"), f"some of {known}"
        )
    return Request(rank, float(alpha), bool(fields.get("use_rslora")), ranks)


def _rank(fields: Mapping[str, Any], path: Path, name: str, usual: int) -> int:
    """The rank of one module's adapter, 0 where it has none."""
    targets, left_out = fields.get("target_modules"), fields.get("exclude_modules")
    try:
        if left_out and _listed(left_out, name) or not _listed(targets, name):
            return 0
        for pattern, rank in (fields.get("rank_pattern") or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", name):
                return rank
    except re.error as error:
        raise ValueError(f"{path}: target_modules is not readable: {error}") from error
    return usual


def _listed(names: str | list[str] | None, name: str) -> bool:
    """Whether PEFT's way of naming modules means the one called `name`."""
    if isinstance(names, str):
        if names.lower() == ALL:
            return name != LM_HEAD
        return re.fullmatch(names, name) is not None
    return any(name == end or name.endswith(f".{end}") for end in names or ())


def _refuse(path: Path, name: str, value: object, only: str) -> NoReturn:
    raise ValueError(f"{path}: {name} = {value!r} is not supported; only {only} is")


def _refuse_layers(fields: Mapping[str, Any], path: Path, module: str) -> NoReturn:
    name = "rank_pattern" if fields.get("rank_pattern") else "target_modules"
    raise ValueError(
        f"{path}: {name} treats {module} of some layers unlike that of others; adapt "
        "it alike in every layer"
    )
