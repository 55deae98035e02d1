"""Ten ways of using demonstrations where the base never solves a prompt."""

import arms
from drawing import About, main
from stored import Rows, Stored

ABOUT = About(
    title="Demonstrations on prompts that the base never solves",
    paper="2504.14945",
    item="Table 1 and Fig. 4 (hard prompts)",
    claim="Own samples alone learn nothing on prompts that the base never solves; each "
    "way of mixing demonstrations in learns the task.",
    data=("luffy_hard.json",),
    command="unipost run experiments/luffy_hard.yaml",
    differs="The paper's hard set is what a 7B model fails, ours a task that 187k "
    "parameters have not seen (pass@8 = 0 of 456). What the learners forget is in the "
    "right panel. SRFT, CHORD, HPT, ReLIFT and Prefix-RFT print other settings.",
)


def rows(stored: Stored) -> Rows:
    """A row for each arm and comparison: gain and retention with intervals."""
    return arms.rows(stored, "luffy_hard")


def draw(found: Rows):
    """Gain and retention of every arm."""
    return arms.draw(found, "gain on the new task", "change of the old tasks")


def verdict(found: Rows) -> str:
    """Which arms improve by the rule of the study; own samples must not."""
    held, failed, _ = arms.learned(found)
    own = next(row for row in found if row["arm"] == "on_policy")
    failed = [title for title in failed if title != own["title"]]
    word = "not supported" if failed or own["gain_mean"] > 0 else "supported"
    count = f"{len(held)} of {len(held) + len(failed)} learn"
    return f"{word}: {count}; not {', '.join(failed)}"


if __name__ == "__main__":
    main(__file__)
