"""Run the tests on recorded numbers and write docs/golden.md: family, cases, matched.

    python docs/make_golden.py

A case counts as matched when a test that names it ran and none failed. The cases stand
in tests/fixtures/cases, as TRL 1.16, verl 0.9.1 and transformers produced them.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
CASES = ROOT / "tests" / "fixtures" / "cases"
TRL = "test_golden_trl_preferences"
RL = "test_golden_trl_rl"
VERL = "test_golden_verl"
# family -> (the test file, what was compared)
FAMILIES = {
    "sft": (TRL, "loss, gradient"),
    "dpo": (TRL, "loss, gradient"),
    "kto": (TRL, "loss, gradient"),
    "cpo": (TRL, "loss, gradient"),
    "orpo": (TRL, "loss, gradient"),
    "reward_model": (TRL, "loss, gradient"),
    "grpo": (RL, "loss, gradient"),
    "gmpo": (RL, "loss, gradient"),
    "rloo": (RL, "advantages; loss, gradient"),
    "grpo_advantages": (RL, "advantages"),
    "is_correction": (RL, "importance weights"),
    "data": ("test_packing", "token ids, masks, lengths"),
    "e2e": ("test_golden_e2e", "loss, gradient of every parameter"),
    "verl_policy": (VERL, "loss, gradient"),
    "verl_advantages": (VERL, "advantages"),
    "verl_kl": (VERL, "value, gradient"),
    "verl_gae": (VERL, "advantages, returns; value loss"),
}
# a case that is not matched, and why
UNMATCHED: dict[str, str] = {}


def outcomes() -> list[tuple[str, str, bool]]:
    """(test file, name of the test with its parameters, passed), golden tests only."""
    files = sorted({f"tests/{name}.py" for name, _ in FAMILIES.values()})
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *files, f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.DEVNULL)
        cases = ElementTree.parse(report).iter("testcase")
        return [
            (c.get("classname", "").split(".")[-1], c.get("name", ""), not len(c))
            for c in cases
        ]


def matched(family: str, case: str, results: list[tuple[str, str, bool]]) -> bool:
    """Whether the tests that name this case ran and passed."""
    file, _ = FAMILIES[family]
    ids = (case, f"{family}-{case}", f"{family}/{case}")
    found = [
        ok
        for where, name, ok in results
        # a further parameter may follow the name of the case
        if where == file and (_id(name) in ids or _id(name).startswith(f"{case}-"))
    ]
    return bool(found) and all(found)


def _id(test: str) -> str:
    _, _, parameters = test.partition("[")
    return parameters.removesuffix("]")


def page(results: list[tuple[str, str, bool]]) -> str:
    """The page, from the outcomes of the tests."""
    lines = [
        "# Recorded numbers that are matched\n",
        "<!-- written by docs/make_golden.py: run it, do not edit this page -->\n",
        "Numbers that TRL 1.16.0, verl 0.9.1 and transformers 5.23.0 produced by "
        "running their own code on small random inputs, reproduced through `unipost.trl"
        "`, `unipost.verl` and the presets, to the tolerance recorded with each case "
        "(float64 1e-9 for most; where the other library works in float32, its "
        "rounding). Values outside the masks are garbage on purpose.\n",
        "| family | what is compared | relative tolerance | cases | matched |",
        "| --- | --- | --- | --- | --- |",
    ]
    total = passed = 0
    for family, (_, what) in FAMILIES.items():
        data = json.loads((CASES / f"{family}.json").read_text())
        names = [case["case"] for case in data["cases"]]
        good = sum(matched(family, name, results) for name in names)
        bounds = {str((c.get("tol") or data["tol"])["rtol"]) for c in data["cases"]}
        tolerance = ", ".join(sorted(bounds, key=float))
        lines.append(f"| {family} | {what} | {tolerance} | {len(names)} | {good} |")
        total, passed = total + len(names), passed + good
        for name in names:
            if not matched(family, name, results):
                reason = UNMATCHED.get(f"{family}/{name}", "not run or failed")
                lines.append(f"| | `{name}` not matched: {reason} | | | |")
    lines.append(f"| **all** | | | **{total}** | **{passed}** |")
    lines.append(
        "\nTwo libraries may give one name two numbers; both are right, and the "
        "convention is an argument. `formulation.json` (the mathematics, 1e-12) is "
        "tested by `tests/test_golden.py`.\n"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    (ROOT / "docs" / "golden.md").write_text(page(outcomes()))
