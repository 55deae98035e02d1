"""Write docs/papers.md: every paper with its objective, its tests, and what was found.

    python docs/make_papers.py

The papers are docs/papers/*.yaml; our results are read from paper_figs/data, printed
numbers from paper_figs/data/published. What is not stored is "not run yet".
"""

from __future__ import annotations

import csv
import functools
import inspect
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from unipost.analysis.statistics import verdict as decided
from unipost.paper_figures import parts
from unipost.presets import FAMILIES

DOCS = Path(__file__).parent
ROOT = DOCS.parent
DATA = ROOT / "paper_figs" / "data"
NOTE = "<!-- written by docs/make_papers.py from docs/papers/*.yaml -->\n"
NOT_RUN = "not run yet"
GALLERY = ROOT / "paper_figs" / "gallery"
FIGURES = {"quickstart_results": "quickstart_methods"}
RUN = (
    "rl_methods",
    "luffy_hard",
    "pair_losses",
    "reward_losses",
    "demonstration_losses",
)
KEYS = {
    *("name", "paper", "source", "says", "objective", "checks", "ours", "published"),
    *("differs", "figures"),
}
PARTS = {
    "analyses": "What training does",
    "mixing": "Demonstrations and RL",
    "rewards": "RL on policy",
    "off_policy": "RL off policy",
    "preferences": "Preferences",
    "demonstrations": "Demonstrations",
}
INTRODUCTION = """\
Every paper with its objective as a config, the tests that its formula or its numbers
must pass, what was found here and what it prints itself. Our numbers are means with 95%
intervals over seeds and items, of models of 75 to 300 thousand parameters, and hold
for one base (`_base1`: for a second one); printed ones are other models on other data.
Accuracies are in percent, gains and differences in points. Verdicts are decided by the
rules in the studies' files and can be decided again: `unipost verdicts
paper_figs/data/NAME.json`. The figures are
in [the gallery](../paper_figs/README.md).
"""

Entry = Mapping[str, Any]


def entries() -> dict[str, list[Entry]]:
    """{part: papers}, in the order of the page. Raises ValueError for unknown keys."""
    found = {}
    for part in PARTS:
        file = DOCS / "papers" / f"{part}.yaml"
        found[part] = yaml.safe_load(file.read_text())
        for entry in found[part]:
            if unknown := set(entry) - KEYS:
                raise ValueError(f"{file}: {entry['name']}: {', '.join(unknown)}")
    return found


def page() -> str:
    """docs/papers.md."""
    lines = ["# Papers", "", NOTE, INTRODUCTION]
    found = entries()
    lines += [
        "| paper | objective | found here | figures |",
        "| --- | --- | --- | --- |",
    ]
    for part in found.values():
        lines += [_row(entry) for entry in part]
    for part, title in PARTS.items():
        lines += ["", f"## {title}", ""]
        for entry in found[part]:
            lines += _section(entry)
    lines += ["", "## Presets without a study", "", *_others(found)]
    return "\n".join(lines) + "\n"


def _row(entry: Entry) -> str:
    told = [ours(item) for item in entry["ours"]]
    counts = [verdict for _, verdict, _ in sum(told, []) if verdict]
    words = ("supported", "not supported", "inconclusive", NOT_RUN)
    kinds = [f"{counts.count(w)} {w}" for w in words if w in counts] or [NOT_RUN]
    figures = len(entry.get("figures", ()))
    name = entry["name"]
    return (
        f"| [{name}](#{_anchor(name)}) | `{entry['objective']['name']}` | "
        f"{', '.join(kinds)} | {figures or ''} |"
    )


def _anchor(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _section(entry: Entry) -> list[str]:
    objective = yaml.safe_dump(
        dict(entry["objective"]), default_flow_style=True, sort_keys=False, width=80
    ).strip()
    lines = [
        f"### {entry['name']}",
        "",
        f"{_source(entry)}. {entry['says'].strip()}",
        "",
    ]
    lines += ["```yaml", f"objective: {objective}", "```", ""]
    checks = "; ".join(f"`{check}`" for check in entry["checks"])
    lines += [f"- Checked by {checks}"]
    told = sum((ours(item) for item in entry["ours"]), [])
    lines += [f"- Here: {text}" for text, _, _ in told] or [f"- Here: {NOT_RUN}"]
    lines += [f"- Printed: {printed(item)}" for item in entry["published"]]
    lines += (
        [] if entry["published"] else ["- Printed: no number that fits or was read"]
    )
    lines += [f"- What differs: {entry['differs'].strip()}"]
    if entry.get("figures"):
        links = (f"[{n}](../paper_figs/README.md#{n})" for n in entry["figures"])
        lines += [f"- Figures: {', '.join(links)}"]
    return [*lines, ""]


def _source(entry: Entry) -> str:
    paper = entry["paper"]
    return f"[{paper}](https://arxiv.org/abs/{paper})" if paper else entry["source"]


def printed(item: Entry) -> str:
    """A row of a printed table, with its columns, unit and where it stands."""
    tree = json.loads((DATA / "published" / f"{item['file']}.json").read_text())
    table = tree["tables"][item["table"]]
    rows = [item["row"]] if "row" in item else list(table["rows"])
    told = []
    for row in rows:
        pairs = zip(table["columns"], table["rows"][row], strict=True)
        told.append(f"{row}: {', '.join(f'{name} {value:g}' for name, value in pairs)}")
    model = f", {table['model']}" if "model" in table else ""
    where = f"{tree['paper']}, {table['item']}{model}; {table['read']}"
    return f"{'; '.join(told)} ({table['unit']}; {where})"


def ours(item: Entry) -> list[tuple[str, str, str]]:
    """(text, verdict, name) of each result that an item names; not run yet without."""
    if "figure" in item:
        return _figure(item["figure"])
    name = item.get("study") or item["pipeline"]
    if not (DATA / f"{name}.json").exists():
        what = item.get("claims") or item.get("of") or [item.get("arm", "")]
        listed = "" if what == "all" else f" ({', '.join(what)})"
        return [(f"`{name}`{listed}: {NOT_RUN}", NOT_RUN, name)]
    if "pipeline" in item:
        return _compared_stages(name, *item["of"])
    if "claims" in item:
        return _claims(name, item["claims"])
    first, second = item["of"] if "of" in item else (item["arm"], "")
    for row in _drawn(name):
        if (row["arm"], row.get("against", "")) == (first, second):
            mean, low, high = (float(row[f"gain_{k}"]) for k in ("mean", "low", "high"))
            verdict = decided(low, high)
            value = f"{mean:+.1f} [{low:.1f}, {high:.1f}]"
            kind = "" if second else "gain "
            text = f"{row['title']} in `{name}`: {kind}{value}, {verdict}"
            return [(text, verdict, name)]
    raise ValueError(f"{name}: no number of {first} {second}")


def _claims(name: str, claims: Iterable[str] | str) -> list[tuple[str, str, str]]:
    stored = json.loads((DATA / f"{name}.json").read_text()).get("claims") or {}
    chosen = list(stored) if claims == "all" else claims
    told = []
    for claim in chosen:
        if claim not in stored:
            told.append((f"`{name}`, {claim}: {NOT_RUN}", NOT_RUN, name))
            continue
        found = stored[claim]["found"]
        _, mean, low, high = found["effects"][0][:4]
        ends = ", ".join("-" if x is None else f"{x:.3g}" for x in (low, high))
        interval = "" if low is None and high is None else f" [{ends}]"
        value = "no number" if mean is None else f"{mean:.3g}{interval}"
        unit = f" {found['unit']}" if found.get("unit") else ""
        says = stored[claim]["says"].strip().rstrip(".")
        text = f"{says}: {value}{unit}, **{found['verdict']}** (`{name}`, {claim})"
        told.append((text, found["verdict"], name))
    return told


def _compared_stages(name: str, first: str, second: str) -> list[tuple[str, str, str]]:
    for entry in json.loads((DATA / f"{name}.json").read_text())["comparisons"]:
        if (entry["first"], entry["second"]) == (first, second):
            mean, low, high = (100 * x for x in entry["difference"])
            value = f"{mean:+.1f} [{low:.1f}, {high:.1f}]"
            text = f"{first} minus {second} in `{name}`, {entry['metric']}: {value}"
            return [(f"{text}, {entry['verdict']}", entry["verdict"], name)]
    raise ValueError(f"{name}: no comparison of {first} with {second}")


def _figure(name: str) -> list[tuple[str, str, str]]:
    _, gallery = parts(ROOT / "paper_figs")
    said = gallery.decided(name)
    verdict = re.match("not supported|supported|inconclusive", said)
    return [(f"`{name}`: {said}", verdict[0] if verdict else "", name)]


@functools.lru_cache
def _drawn(name: str) -> list[dict[str, str]]:
    """The numbers of the study's figure, as they are committed with the gallery."""
    figure = FIGURES.get(name, name)
    with (GALLERY / f"{figure}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _ran(preset: str) -> str:
    """Where a preset is an arm, and what it gained there; not run yet without."""
    for study in RUN:
        if not (DATA / f"{study}.json").exists():
            continue
        for row in _drawn(study):
            if row["arm"] == preset and row.get("gain_mean"):
                ((text, _, _),) = ours({"study": study, "arm": preset})
                return text.partition(" in ")[2]
    return NOT_RUN


def _others(found: Mapping[str, list[Entry]]) -> list[str]:
    """A table of the presets that no paper above has as its objective."""
    named = {entry["objective"]["name"] for part in found.values() for entry in part}
    lines = [
        "| preset | family | what it is | found here |",
        "| --- | --- | --- | --- |",
    ]
    for family, presets in FAMILIES.items():
        for name, make in presets.items():
            if name not in named:
                doc = (inspect.getdoc(make) or "").split("\n")[0].replace("|", "\\|")
                page = f"[{name}]({family}.md#{name})"
                lines.append(f"| {page} | {family} | {doc} | {_ran(name)} |")
    note = "Each is checked against its formula in float64 (`tests/test_formulas.py`, "
    return [note + "`tests/test_papers.py`, `tests/test_mixing.py`).", "", *lines]


if __name__ == "__main__":
    (DOCS / "papers.md").write_text(page())
