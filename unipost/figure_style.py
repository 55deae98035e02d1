"""One style for every figure: widths, fonts, and one look for every name.

A look is a colour, a marker and a line. Colours differ so that the colour-blind can
tell those of one figure apart; marker and line differ too, so that a print in grey can
be read. A method or divergence has the same look wherever it is drawn. What a paper has
printed is always a hollow black diamond.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN, PAGE = 3.25, 6.75
"""Width in inches of a figure in one column, and across both."""
FAINT, BAND = "#666666", "#eeeeee"
DPI = 150

RC: dict[Any, Any] = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "pdf.fonttype": 42,
    "svg.hashsalt": "unipost",
}
"""Settings of matplotlib: no text below 7 points at these widths."""


class Look(NamedTuple):
    """Colour, marker and line of a name."""

    color: str
    marker: str
    line: str


def table_of(text: str) -> dict[str, Look]:
    """{name: look} of lines `name colour marker line`.

    Raises ValueError where two names share a colour, or marker and line: in a figure
    nobody could tell them apart.
    """
    rows = [line.split() for line in text.split("\n") if line.strip()]
    looks = {name: Look(*rest) for name, *rest in rows}
    different(looks)
    return looks


def different(looks: Mapping[str, Look]) -> None:
    """Raise ValueError where two names share a colour, or both marker and line."""
    seen: dict[object, str] = {}
    for name, look in looks.items():
        for key in (look.color, look[1:]):
            if key in seen:
                what = key if isinstance(key, str) else " ".join(key)
                raise ValueError(
                    f"looks: {name} and {seen[key]} are both {what}; give {name} "
                    "another"
                )
            seen[key] = name


METHODS = table_of("""
base            #444444 o :
control         #8a8a8a X :
sft             #08519c s -
sft_own         #56b4e9 ^ -
on_sft          #009e73 v -
off_rl          #8c6d31 < --
rft             #7b6fd0 D --
online_rft      #66c2a5 d -.
grpo            #d55e00 o -
grpo_kl         #f0a35e o --
grpo_no_kl      #e34a33 x -
grpo_process    #ef8a62 s --
dr_grpo         #8c2d04 D -
dapo            #e6ab02 * -
gspo            #b2182b h -
cispo           #fb6a4a < -
rloo            #7a4b00 p -
ppo             #c51b7d P --
dft             #aa4499 P -
luffy           #117733 * -.
mixed           #66a61e P -.
shaping         #b8de29 > -.
rl_sft          #a1d99b p -.
srft            #005a32 h -.
chord           #78c679 X --
hpt             #4d9221 8 --
relift          #999933 ^ -.
prefix_rft      #c7c75a v -.
sft_rl          #2ca25f X -.
dpo             #882255 p --
f_dpo_js        #cc6677 D -.
f_sft_pearson   #0570b0 > --
f_sft_hellinger #a6dbe0 h --
f_sft_tv        #41b6c4 d --
none            #1a1a1a o -.
naive           #e7298a s :
tis_token       #5a63d6 ^ --
tis_sequence    #66ccee v --
mask            #ccbb44 D :
decoupled       #762a83 P :
sft_replay      #9ecae1 < -.
alpha_sft       #3f4fa8 8 -.
psft            #bcbddc > -
iw_sft          #4a6b8a * --
gem             #1d91c0 v :
gkd             #8fa9c9 8 :
reinforce       #d9b38c > :
reinforce_pp    #ffb3a0 d -
gmpo            #a6611a 8 -
sapo            #dfc27d s -.
vespo           #bf812d ^ :
topr            #9970ab X -
asymre          #c2a5cf p :
awr             #5e4fa2 h :
opmd            #3f007d * :
agro            #807dba < :
copg            #b39ddb d :
f_tb            #54278f H -
ipo             #ff80b0 H --
kto             #e78ac3 H -.
simpo           #f768a1 H :
""")

DIVERGENCES = table_of("""
reverse_kl        #332288 o -
forward_kl        #cc3311 s --
jensen_shannon    #117733 ^ -.
squared_hellinger #88ccee v :
pearson_chi2      #ddaa33 D -
neyman_chi2       #882255 P --
alpha_0.3         #7ad1c0 d :
alpha             #44aa99 X -.
alpha_0.7         #1f7a6c 8 --
jeffreys          #aa4499 * :
chi2_kl           #999933 < -
total_variation   #444444 > --
hockey_stick      #ee7733 p -.
shaping           #b8c62c h :
""")

ALIASES = {
    "shuffled": "control",
    "sft_foreign": "sft",
    "foreign_sft": "sft",
    "own_sft": "sft_own",
    "on_policy": "dr_grpo",
    "direct": "grpo",
    "distilled": "sft_own",
    "distilled_rl": "sft_rl",
    "answers": "sft",
    "alpha_0.5": "alpha",
}
"""Names of arms and divergences that are drawn as another name."""


def look_of(name: str, looks: Mapping[str, Look] = METHODS) -> Look:
    """The look of a method, or of a divergence with `looks=DIVERGENCES`.

    Raises KeyError for a name that has none.
    """
    known = name if name in looks else ALIASES.get(name, name)
    if known not in looks:
        raise KeyError(f"{name!r} has no look; give it one in unipost/figure_style.py")
    return looks[known]


def looks_for(names: Iterable[str], control: Iterable[str] = ()) -> dict[str, Look]:
    """A look for every arm of a study: its own where it has one, else one of the rest.

    `control` are drawn as the control. No two of the others share a look; what an
    unknown name gets depends on its place among the names alone.
    """
    names, grey = list(names), set(control)
    looks = {name: METHODS["control"] for name in names if name in grey}
    for name in names:
        look = METHODS.get(name) or METHODS.get(ALIASES.get(name, ""))
        if name not in looks and look and look not in looks.values():
            looks[name] = look
    others = [x for n, x in METHODS.items() if n not in ("base", "control", "none")]
    # neighbours in the table are of one family: take every seventh
    free = [x for start in range(7) for x in others[start::7]]
    free = [x for x in free if x not in looks.values()]
    for name in names:
        looks.setdefault(name, free[len(looks) % len(free)])
    return {name: looks[name] for name in names}


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of that size in inches, laid out when it is drawn.

    Not known to pyplot: nothing stays open. Inside `rc_context(RC)`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(
    figure: Figure, path: Path, formats: Sequence[str] = ("png",), dpi: int = DPI
) -> list[Path]:
    """Write `path` with each suffix (png, pdf, ...); every file appears whole.

    The same figure gives the same bytes: no date and no version is written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for kind in formats:
        file = path.with_name(f"{path.name}.{kind}")
        partial = file.with_name(f".{file.name}.partial")
        stamp = {"png": {"Software": None}, "pdf": {"CreationDate": None}}.get(kind)
        figure.savefig(partial, format=kind, dpi=dpi, metadata=stamp)
        os.replace(partial, file)
        files.append(file)
    return files
