"""Eight RL methods on checkable rewards from one base."""

import arms
from drawing import About, main
from stored import Rows, Stored

ABOUT = About(
    title="Eight methods on checkable rewards",
    paper="",
    item="rl_methods",
    claim="GRPO, Dr. GRPO, DAPO, GSPO, CISPO, RLOO, PPO and LUFFY each raise the "
    "accuracy of samples on equations never seen; shuffled rewards do not.",
    data=("rl_methods.json",),
    command="unipost run experiments/rl_methods.yaml",
    differs="Papers compare two of these at a time, at other sizes and budgets; no "
    "published number fits beside them.",
)


def rows(stored: Stored) -> Rows:
    """A row for each arm and comparison: gain and retention with intervals."""
    return arms.rows(stored, "rl_methods")


def draw(found: Rows):
    """Gain and retention of every arm."""
    return arms.draw(found, "gain on unseen equations", "change of ordering numbers")


def verdict(found: Rows) -> str:
    """All methods improve by the rule of the study, and the control does not."""
    held, failed, control = arms.learned(found)
    word = "not supported" if failed or "supported" in control else "supported"
    count = f"{len(held)} of {len(held) + len(failed)} methods"
    return f"{word}: {count}; control {', '.join(control)}"


if __name__ == "__main__":
    main(__file__)
