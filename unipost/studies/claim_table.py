"""The claims of a study as a table, from its results alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unipost.tables import markdown

HEADS = ["effect", "found", "claimed", "paired p", "verdict", "seeds", "items"]


def cells(claim: Mapping[str, Any]) -> list[str]:
    """What a table says of one claim of results.json: `HEADS`."""
    found = claim["found"]
    label, *numbers, lower, upper = found["effects"][0]
    unit = found["unit"]
    items = found["items"] or "-"
    return [
        label or found["text"],
        interval(numbers, unit),
        claimed(lower, upper, unit),
        p_text(found.get("paired")),
        found["verdict"],
        str(found["seeds"]),
        str(items),
    ]


def interval(numbers: list[float | None], unit: str) -> str:
    """`+3.1 [1.2, 5.0] points`; `-` for what is not known."""
    mean, low, high = (number(x, unit) for x in numbers)
    sign = "+" if unit == "points" and not mean.startswith("-") else ""
    return f"{sign}{mean} [{low}, {high}] {unit}".rstrip()


def claimed(lower: float | None, upper: float | None, unit: str) -> str:
    """`> 0 points`, `< 2`, or `within -2 to 2 points`."""
    low, high = (f"{x:g}" if x is not None else "" for x in (lower, upper))
    if low and high:
        return f"within {low} to {high} {unit}".rstrip()
    return (f"> {low} {unit}" if low else f"< {high} {unit}").rstrip()


def number(value: float | None, unit: str) -> str:
    """One decimal of points and percent, three digits of the rest."""
    if value is None:
        return "-"
    if unit.startswith(("points", "%")):
        return f"{round(value, 1) + 0.0:.1f}"
    return f"{value:.3g}"


def p_text(p: float | None) -> str:
    """`0.031`, `<0.001`, or `-`."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def claims_text(results: Mapping[str, Any]) -> list[str]:
    """The table of the claims and what each of them says; nothing without claims."""
    claims = results.get("claims") or {}
    if not claims:
        return []
    rows = []
    for name, claim in claims.items():
        published = claim["published"] or "-"
        rows.append([name, *cells(claim), published])
    said = [_said(name, claim) for name, claim in claims.items()]
    return [
        markdown(["claim", *HEADS, "published"], rows),
        "\n".join(said),
        _rule(claims),
    ]


def _said(name: str, claim: Mapping[str, Any]) -> str:
    found = claim["found"]
    source = ", ".join(part for part in (claim["paper"], claim["item"]) if part)
    text = f"- {name}: {claim['says'].strip().rstrip('.')}"
    text += f" ({source})." if source else "."
    if len(found["effects"]) > 1:
        text += f" The table has the weakest of {len(found['effects'])}."
    text += f" {found['verdict'].capitalize()}"
    text += f": {found['note']}." if found["note"] else "."
    if found["censored"]:
        text += f" Never reaches the accuracy: {', '.join(found['censored'])}."
    if claim["registered"] == "after the run":
        text += " Written after the run: exploratory."
    elif claim["status"] == "exploratory":
        text += " Exploratory."
    return text


def _rule(claims: Mapping[str, Any]) -> str:
    counted = sum(c["found"]["holm"] is not None for c in claims.values())
    return (
        "Supported: the interval lies wholly on the claimed side; not supported: on "
        "the other; inconclusive: on both. Intervals are 95%, for equality 90%, over "
        f"seeds and items, corrected (Holm) for {counted} confirmatory claims. p is of "
        "the sign-flip test of no difference, over items, without items over seeds."
    )
