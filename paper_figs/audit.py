"""The printed transferability indices of 2507.00432 and what its scores give."""

from stored import Rows, Stored

from unipost.analysis.transfer import ti_di, ti_di_pooled

RL = ("SimpleRL", "GR-RL", "DAPO", "Uni-RL")
SIZES = {
    "Qwen2.5-1.5B": 1.5,
    "Qwen2.5-Math-7B": 7,
    "Qwen2.5-7B": 7,
    "Qwen2.5-7B-Instruct": 7,
    "Llama3.1-8B": 8,
    "Qwen2.5-14B": 14,
    "Qwen3-14B-Base": 14,
    "Mistral-Small-24B-Instruct-2501": 24,
    "Qwen2.5-32B": 32,
    "Qwen2.5-32B-Instruct": 32,
}
NEAR = 0.6
"""Points that a recomputed index may be off: rounding of twelve scores to 0.1."""


def audited(stored: Stored) -> Rows:
    """A row for each model, by size of its base: printed and recomputed index.

    `consistent`: both recomputed values are within NEAR of the printed ones. The
    spreads are the two ratios that the printed numbers imply (one of math is free).
    """
    tables = stored.json("transfer_tables") if stored.run is None else None
    if tables is None:
        raise ValueError("these are the paper's tables; they are not read from a run")
    groups = tables["benchmarks"]
    implied = tables["ti_implied_constants"]
    spread = {
        "math": 1.0,
        "other": implied["sqrt_sigma_math_over_other"] ** -2,
        "non": implied["sqrt_sigma_math_over_non"] ** -2,
    }

    def scores(model: str) -> dict[str, float]:
        table = tables["scores"][model]
        pairs = [
            (b, s) for g in groups for b, s in zip(groups[g], table[g], strict=True)
        ]
        return dict(pairs)

    found = []
    for model, about in tables["ti_published"].items():
        pair = scores(about["base"]), scores(model)
        ratio = ti_di_pooled(*pair, groups, spread).ratio
        own = ti_di(*pair, groups).ratio
        row = {
            "model": model,
            "base": about["base"],
            "size": SIZES[about["base"]],
            "method": "RL" if model.startswith(RL) or "SimpleRL" in model else "SFT",
        }
        for key in ("other", "non"):
            row[f"printed_{key}"] = about[f"ti_{key}"]
            row[f"recomputed_{key}"] = ratio[key]
            row[f"own_spread_{key}"] = own[key]
        off = [
            abs(row[f"recomputed_{k}"] - row[f"printed_{k}"]) for k in ("other", "non")
        ]
        row["consistent"] = "yes" if max(off) <= NEAR else "no"
        found.append(row)
    return sorted(found, key=lambda row: (row["size"], row["base"], row["model"]))
