"""Which layers see a window and which rotate, in config.json."""

from __future__ import annotations

from typing import Any

from unipost.hf.families import Family
from unipost.hf.fields import Reader
from unipost.hf.rope import FULL, SLIDING
from unipost.model.config import ModelConfig

NAMES = {FULL: "full", SLIDING: "sliding"}


def read_windows(reader: Reader, layers: int) -> dict[str, Any]:
    """layer_types, sliding_window and no_rope_layers of ModelConfig."""
    rule, still = reader.family.windows, _no_rope_layers(reader, layers)
    window = _window(reader)
    usual = _usual(reader, rule, layers, window, still)
    stated = reader.stated("layer_types")
    types = usual if stated is None else _stated(reader, stated, layers)
    if rule in ("none", "every") and types != usual:
        what = "absent, or what sliding_window says,"
        reader.refuse("layer_types", stated, what)
    if "sliding" not in types:
        return {"no_rope_layers": still}
    if window is None:
        what = "full_attention where no sliding window is on"
        reader.refuse("layer_types", list(stated or types), what)
    return {"no_rope_layers": still, "layer_types": types, "sliding_window": window}


def _window(reader: Reader) -> int | None:
    """Tokens that windowed layers see, None for no window."""
    rule, switch = reader.family.windows, reader.family.switch
    if rule == "none":
        reader.only("sliding_window", ())
        return None
    value = reader.get("sliding_window")
    on = reader.flag("use_sliding_window") if switch else True
    if not on or value is None:
        if rule == "every" and switch:
            reader.get("max_window_layers")
        return None
    if rule in ("alternate", "pattern"):
        reader.only("sliding_window_size", (value,))
    return reader.size("sliding_window")


def _stated(reader: Reader, stated: Any, layers: int) -> tuple[str, ...]:
    """The `layer_types` of the file, in the words of ModelConfig."""
    known = isinstance(stated, list) and all(kind in NAMES for kind in stated)
    if not known or len(stated) != layers:
        what = f"a list of {FULL!r} and {SLIDING!r}, one for each of {layers} layers,"
        reader.refuse("layer_types", stated, what)
    return tuple(NAMES[kind] for kind in stated)


def _usual(
    reader: Reader,
    rule: str,
    layers: int,
    window: int | None,
    still: tuple[int, ...],
) -> tuple[str, ...]:
    """The types of layers where the file has no `layer_types`."""
    first = reader.size_or_zero("max_window_layers") if rule == "upper" else 0
    period = reader.size("sliding_window_pattern") if rule == "pattern" else 2
    chosen = {
        "none": (),
        "every": range(layers),
        "upper": range(first, layers),
        "alternate": range(0, layers, 2),
        "pattern": [i for i in range(layers) if (i + 1) % period],
        "unrotated": still,
    }[rule]
    # in Gemma 2 and 3 the window is no switch: without one such a file is an error
    on = window is not None or rule in ("alternate", "pattern")
    seen = set(chosen) if on else set()
    return tuple("sliding" if i in seen else "full" for i in range(layers))


def _no_rope_layers(reader: Reader, layers: int) -> tuple[int, ...]:
    """Layers without rotation: 0 in `no_rope_layers`, else every n-th."""
    if reader.family.windows != "unrotated":
        return ()
    period = reader.size("no_rope_layer_interval")
    stated = reader.stated("no_rope_layers")
    if stated is None:
        stated = [int((i + 1) % period != 0) for i in range(layers)]
    short = not isinstance(stated, list) or len(stated) < layers
    if short or not all(rotates in (0, 1) for rotates in stated):
        what = f"a list of 1 (rotates) and 0, one for each of {layers} layers,"
        reader.refuse("no_rope_layers", stated, what)
    return tuple(i for i in range(layers) if not stated[i])


def write_windows(config: ModelConfig, family: Family) -> dict[str, Any]:
    """The fields of config.json for windows and layers without rotation."""
    layers, window = config.num_hidden_layers, config.sliding_window
    types = [FULL if size is None else SLIDING for size in config.windows]
    fields: dict[str, Any] = {}
    if family.windows == "none":
        return fields
    if family.switch:
        fields["use_sliding_window"] = window is not None
    fields["sliding_window"] = window
    if family.windows in ("alternate", "pattern") and window is None:
        # transformers builds the mask of a window that no layer uses
        fields["sliding_window"] = config.max_position_embeddings
    if family.windows != "every":
        fields["layer_types"] = types
    if family.windows == "upper":
        above = types.index(SLIDING) if SLIDING in types else layers
        fields["max_window_layers"] = above
    if family.windows == "unrotated":
        rotates = [int(kind != "none") for kind in config.rotations]
        fields["no_rope_layers"] = rotates
    return fields
