"""Nine methods of the quickstart from one base, and shuffled rewards."""

import arms
from drawing import About, main
from stored import Rows, Stored

ABOUT = About(
    title="SFT, f-SFT, DPO, f-DPO, GRPO and LUFFY from one base",
    paper="",
    item="quickstart",
    claim="From one base every method improves the accuracy of samples on unseen "
    "equations over the base, and GRPO with shuffled rewards does not.",
    data=("quickstart_results.json",),
    command="unipost run experiments/quickstart.yaml",
    differs="After 40 steps of each, not at equal accuracy. Its other figures: "
    "python paper_figs/quickstart.py.",
)


def rows(stored: Stored) -> Rows:
    """A row for each arm and comparison: gain and retention with intervals."""
    return arms.rows(stored, "quickstart_results")


def draw(found: Rows):
    """Gain and retention of every arm."""
    return arms.draw(found, "gain on unseen equations", "change of the old tasks")


def verdict(found: Rows) -> str:
    """All methods improve by the rule of the study, and the control does not."""
    held, failed, control = arms.learned(found)
    word = "not supported" if failed or "supported" in control else "supported"
    count = f"{len(held)} of {len(held) + len(failed)} methods"
    return f"{word}: {count}; control {', '.join(control)}"


if __name__ == "__main__":
    main(__file__)
