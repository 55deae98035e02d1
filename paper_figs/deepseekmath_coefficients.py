"""The gradient coefficient of SFT, RFT, DPO, PPO and GRPO on one group of samples."""

import numpy as np
from drawing import About, main
from stored import Rows, Stored
from style import PAGE, look_of, new_figure, published, rest

from unipost import presets

ABOUT = About(
    title="One coefficient for SFT, RFT, DPO and GRPO",
    paper="2402.03300",
    item="Appendix A.1",
    claim="The gradient of each method is the sum over tokens of a coefficient times "
    "grad log pi: 1, 1[right], sigma of the margin, A, A + beta (ref/pi - 1).",
    data=(),
    differs="The paper has formulas, no numbers. Markers are the gradients of the "
    "presets by jax.grad, diamonds the formulas, at log(pi/ref) = 0.4; the appendix "
    "was recalled and not re-read, its formulas were derived again.",
)
BETA, GAP = 0.04, 0.4
SHOWN = {
    "SFT": "sft",
    "online RFT": "online_rft",
    "DPO": "dpo",
    "GRPO": "grpo_kl",
}


def rows(stored: Stored) -> Rows:
    """A row for each method and response of a group: gradient and formula."""
    del stored
    rewards = np.array([1.0, 1.0, 0.0, 0.0])
    z = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
    margin = 0.1 * (GAP - (-GAP))
    formulas = {
        "SFT": np.ones(4),
        "online RFT": rewards,
        "DPO": 0.1 * np.array([1, -1]) / (1 + np.exp(margin)),
        "GRPO": z + BETA * (np.exp(-GAP) - 1),
    }
    found = []
    for name, formula in formulas.items():
        for i, (a, b) in enumerate(
            zip(coefficient(name, rewards), formula, strict=True)
        ):
            right = (
                "right" if (rewards[i] if len(formula) == 4 else i == 0) else "wrong"
            )
            row = {"method": name, "response": i, "which": right}
            found.append({**row, "gradient": float(a), "formula": float(b)})
    return found


def coefficient(name: str, rewards: np.ndarray) -> np.ndarray:
    """-dL/dlog pi of responses of one token, over the weight of one of them."""
    import jax
    import jax.numpy as jnp

    from unipost import Batch, Streams
    from unipost.signals import Raw

    objective = {
        "SFT": lambda: presets.sft(),
        "online RFT": lambda: presets.reinforce(signal=Raw()),
        "DPO": lambda: presets.dpo(beta=0.1),
        "GRPO": lambda: presets.grpo(kl=BETA, estimator="k3"),
    }[name]()
    count = 2 if name == "DPO" else len(rewards)
    old = jnp.full((1, count, 1), -1.0)
    gap = jnp.asarray([GAP, -GAP])[None, :, None] if name == "DPO" else GAP
    batch = Batch(
        mask=jnp.ones_like(old),
        rewards=jnp.asarray([1.0, 0.0] if name == "DPO" else rewards)[None],
        old=old,
        reference=old - gap,
    )

    def loss(logps):
        return objective(Streams(policy=logps), batch)[0]

    grad = -np.asarray(jax.grad(loss)(old))[0, :, 0]
    return grad * (1 if name == "DPO" else count)


def draw(found: Rows):
    """A panel for each method: two right responses, two wrong (DPO: one pair)."""
    figure = new_figure(PAGE, 2.0)
    panels = figure.subplots(1, len(SHOWN))
    for axes, (name, method) in zip(panels, SHOWN.items(), strict=True):
        own = [row for row in found if row["method"] == name]
        x = range(len(own))
        look = look_of(method)
        axes.bar(x, [row["gradient"] for row in own], 0.6, color=look.color, alpha=0.75)
        published(axes, x, [row["formula"] for row in own], "formula")
        rest(axes)
        places = (0.5, 2.5) if len(own) == 4 else (0, 1)
        axes.set_xticks(places, ["right", "wrong"])
        axes.tick_params(axis="x", length=0)
        axes.set_title(name, loc="left")
        axes.margins(y=0.15)
    panels[0].set_ylabel("coefficient")
    return figure


def verdict(found: Rows) -> str:
    """The largest difference of a gradient from its formula."""
    worst = max(abs(row["gradient"] - row["formula"]) for row in found)
    word = "supported" if worst < 1e-5 else "not supported"
    return f"{word}: gradients are the formulas, threshold 1e-5"


if __name__ == "__main__":
    main(__file__)
