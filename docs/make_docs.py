"""Write the generated pages of docs/ from the objects themselves.

    python docs/make_docs.py            # pages and figures
    python docs/make_docs.py --text     # pages only

One page per family of presets (signature, docstring, formula, status), the divergences,
the estimators of a penalty, the refusals, and the aliases of other libraries.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from family_figures import CURVES, family_figure, made, vocabulary_figure
from make_papers import page as paper_page
from make_readme import replaced

from unipost import penalties, refusals, trl, verl
from unipost.divergences import DIVERGENCES
from unipost.explain import explain, latex, phi_formula, slope_formula
from unipost.mesh import RULES
from unipost.parts import concrete
from unipost.presets import FAMILIES
from unipost.refusals.examples import EXAMPLES as REFUSED

DOCS = Path(__file__).parent
NOTE = "<!-- written by docs/make_docs.py: edit the objects, not this page -->\n"

INTRODUCTIONS = {
    "demonstrations": (
        "Demonstrations",
        "SFT and its relatives: signal 1 on every token of a demonstration. They "
        "differ in the coefficient that a token gets, by its probability or by "
        "its ratio to a reference.",
        "Coefficient of a demonstrated token against its probability.",
    ),
    "preferences": (
        "Preferences",
        "A chosen and a rejected response. The implicit reward of each is beta "
        "f'(u), u the ratio to the reference of the whole response; the link "
        "compares the two. Where it sees their difference only, the normaliser of "
        "the f-regularised optimum cancels and any admissible divergence will do.",
        "Coefficients of the chosen and of the rejected response against the "
        "log-ratio of that response, the other one being at the reference. One token "
        "each, defaults of the presets; an axis is cut at six times its middle "
        "value.",
    ),
    "rewards": (
        "Rewards, on policy",
        "Policy gradients: the signal is an advantage, the implicit reward is log "
        "pi or the importance ratio minus 1 (the Pearson score), and the link "
        "decides what happens as the policy moves away from the snapshot `old`.",
        "Coefficient of a token against log(pi/old), for A = 1 and A = -1; the KL "
        "term left out. An axis is cut at six times its middle value.",
    ),
    "off_policy": (
        "Rewards, off policy",
        "Data that the policy did not just sample: stale rollouts, another "
        "sampler, demonstrations in the group. The corrections differ in what "
        "they trade: bias, variance, or a condition on the optimum.",
        "Coefficient of a token against the log-ratio to `old` (to the reference "
        "for agro, copg, f_tb), A = 1 and A = -1, the group's other response on "
        "policy with the opposite reward. The sampler stands at old/behavior = "
        "1.5.",
    ),
    "mixing": (
        "Own samples and demonstrations",
        "Recipes whose groups hold the policy's own samples and demonstrations of a "
        "stronger model, flagged in `batch.off_policy`: in one union group (luffy, "
        "prefix_rft), as a sum of an RL and an SFT loss (rl_sft, srft, chord, relift), "
        "or one of the two by prompt (hpt). Which demonstrations a batch holds is the "
        "data's: `guidance` of rollouts. A number that changes from step to step is "
        "`annealed`: `mu: {name: annealed, start: 0.9, end: 0.05, steps: 200}`.",
        "Coefficient of a demonstrated token against its probability, the "
        "demonstration being right and the four own rows of its group wrong; grey is "
        "sft. RL losses are sums, entropy bonuses left out, the entropy of a row is 1, "
        "`old` is the policy, and chord is at its first step.",
    ),
    "vocabulary": (
        "Whole vocabulary",
        "Objectives on the distribution at a state, not on the sampled token. "
        "They have no implicit reward for a link to act on, so they stand beside "
        "the one object, with the same batch, aggregation and protocol.",
        "Coefficient of a token in a vocabulary of two: of the demonstrated token "
        "against its probability (gem), and against its log-ratio to the teacher "
        "(gkd: beta 0 is the forward, beta 1 the reverse KL).",
    ),
}


def signature(make: Callable) -> str:
    """The arguments with their defaults, as one writes them."""
    parts = []
    for name, argument in inspect.signature(make).parameters.items():
        if argument.default is inspect.Parameter.empty:
            parts.append(name)
        else:
            parts.append(f"{name}={_shown(argument.default)}")
    return ", ".join(parts)


def _shown(value) -> str:
    if isinstance(value, str) or value is None:
        return repr(value)
    known = concrete(value) if isinstance(value, float) else None
    return f"{known:g}" if known is not None else str(value)


def _section(name: str, make: Callable) -> str:
    objective = made(name)
    doc = inspect.getdoc(make) or ""
    formula = latex(objective)
    return (
        f"## {name}\n\n`unipost.presets.{name}({signature(make)})`\n\n{doc}\n\n"
        f"$$\n{formula}\n$$\n\n```\n{explain(objective)}\n```\n"
    )


def family_page(family: str) -> str:
    """The page of one family of presets."""
    title, text, caption = INTRODUCTIONS[family]
    figure = f"![{caption}](figures/family_{family}.png)\n\n*{caption}*\n\n"
    head = f"# {title}\n\n{NOTE}\n{text}\n\n{figure if caption else ''}"
    return head + "\n".join(_section(n, m) for n, m in FAMILIES[family].items())


def divergence_page() -> str:
    """The divergences with their derivative and matching function."""
    lines = [
        f"# Divergences\n\n{NOTE}\nD_f(policy || other), u = policy/other. "
        "`reverse_kl` is KL(policy || other). Constants are those of the textbooks; "
        "`unit_curvature(f)` rescales to f''(1) = 1.\n",
        "| name | f'(u) | phi(r) = -f*(-r) | f''(1) | f'(0+) | f'(inf) |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    needs = {"alpha": {"a": 0.5}, "hockey_stick": {"gamma": 1.5}}
    for name, make in DIVERGENCES.items():
        if name in ("unit_curvature", "adjoint"):
            continue
        f = make(**needs.get(name, {}))
        numbers = [f.curvature, f.slope_at_zero, f.slope_at_infinity]
        cells = ["-" if x is None else f"{float(x):g}" for x in numbers]
        phi = phi_formula(f) if f.centred else "-"
        lines.append(f"| `{name}` | {slope_formula(f)} | {phi} | {' | '.join(cells)} |")
    for name in ("unit_curvature", "adjoint"):
        first = (inspect.getdoc(DIVERGENCES[name]) or "").splitlines()[0]
        lines.append(f"\n`{name}(divergence)`: {first}")
    return "\n".join(lines) + "\n"


def estimator_page() -> str:
    """What each estimator of a penalty adds and whose gradient it has."""
    doc = inspect.getdoc(penalties) or ""
    own = inspect.getdoc(penalties.Penalty) or ""
    return (
        f"# Penalties: value and gradient\n\n{NOTE}\n```\n{doc}\n```\n\n"
        f"## Penalty\n\n```\n{own}\n```\n\n"
        "Each row is checked by exact expectation over a small vocabulary, the wrong "
        "ones too (`tests/test_estimators.py`).\n"
    )


def refusal_page() -> str:
    """Every refused combination with the line that refuses it."""
    rules = (*refusals.SCORE_RULES, *refusals.OBJECTIVE_RULES)
    lines = [
        f"# Refused combinations\n\n{NOTE}\nEach is refused where the object is made, "
        "in one line that says where, what, and what to write instead. A rule may be "
        "waived by name, `Objective(..., waived=(rule,))`, to reproduce another "
        "library's number; a waiver that is not needed is refused too.\n",
        "| rule | why | an example's message |",
        "| --- | --- | --- |",
    ]
    for rule in rules:
        try:
            REFUSED[rule.__name__]()
        except ValueError as error:
            message = str(error).replace("|", "\\|")
        else:
            raise ValueError(f"refusals.examples: {rule.__name__} is not refused")
        why = (inspect.getdoc(rule) or "").replace("|", "\\|")
        lines.append(f"| `{rule.__name__}` | {why} | {message} |")
    return "\n".join(lines) + "\n"


def alias_page() -> str:
    """The functions of unipost.trl and unipost.verl."""
    parts = [f"# Other libraries' numbers\n\n{NOTE}\n"]
    for module in (trl, verl):
        parts.append(f"## {module.__name__}\n\n{inspect.getdoc(module)}\n")
        for name, function in public(module):
            doc = inspect.getdoc(function) or ""
            call = f"{module.__name__}.{name}({signature(function)})"
            parts.append(f"### {name}\n\n`{call}`\n\n```\n{doc}\n```\n")
    return "\n".join(parts)


def public(module: ModuleType):
    """(name, function or class) that the package exports."""
    for name, value in sorted(vars(module).items()):
        own = getattr(value, "__module__", "").startswith("unipost")
        if own and callable(value) and not name.startswith("_"):
            yield name, value


def rule_table() -> str:
    """The rules of a mesh: names of parameters -> axes of their dimensions."""

    def entry(axes) -> str:
        one = (axes,) if isinstance(axes, str) else axes or ("whole",)
        return " and ".join(one)

    lines = ["| name ends in | dimensions |", "|---|---|"]
    for pattern, axes in RULES:
        # a bar would end the cell
        name = pattern.replace("|", "\\|")
        lines.append(f"| `{name}` | {', '.join(entry(x) for x in axes)} |")
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """File name -> contents of every generated page."""
    made_pages = {f"{family}.md": family_page(family) for family in FAMILIES}
    return made_pages | {
        "divergences.md": divergence_page(),
        "estimators.md": estimator_page(),
        "refusals.md": refusal_page(),
        "aliases.md": alias_page(),
        "papers.md": paper_page(),
        "mesh.md": replaced((DOCS / "mesh.md").read_text(), "rules", rule_table()),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (DOCS / name).write_text(text)
    if "--text" not in sys.argv:
        for family in CURVES:
            family_figure(family, DOCS / "figures" / f"family_{family}.png")
        vocabulary_figure(DOCS / "figures" / "family_vocabulary.png")
