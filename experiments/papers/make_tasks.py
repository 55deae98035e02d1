"""Make the task family `arith-transfer`: deterministic, no input but a seed.

    python -m experiments.papers.make_tasks data      experiments/papers/data
    python -m experiments.papers.make_tasks pretrain  build/arith_transfer

`data` writes what is committed: TASK_test (512 rows or all there are), TASK_train of
the tasks that are trained on, and the teachers' files. `pretrain` writes what the base
is trained on; a seed and the style shares of the chains may follow, as
`pretrain FOLDER --seed 1 --styles 0.2,0.78,0.02`.

A problem belongs to train, valid or test by the hash of its canonical string, the same
for the base, the teachers and reinforcement learning; only `fact` has no split, since
it is memory. Rows have prompt, answer (what the reward reads) and completions.
"""

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.papers.problems import CHAINS, FACTS, TASKS, Problem, drawn, facts
from experiments.papers.tasks import countdown, solutions, steps, written
from experiments.papers.teacher import misled

FILLER = 12  # longest free filler
SHARES = {  # of the rows that the base is trained on
    "ch3": 2.5,
    "ch4": 2.5,
    "ch5": 1.0,
    "sum6": 1.0,
    "v3": 2.0,
    "free": 1.0,
    "sort": 1.5,
    "count": 1.0,
    "var": 1.5,
    "cd": 2.0,
    "copy": 1.0,
    "rep": 0.5,
    "fact": 1.2,
    "look": 1.0,
}
STYLES = {"cot": 0.48, "direct": 0.50, "verbose": 0.02}
OWN_STYLES = {  # where a chain differs from STYLES
    "sum6": {"cot": 0.5, "direct": 0.5, "verbose": 0.0},
    "v3": {"cot": 0.3, "direct": 0.68, "verbose": 0.02},
}
MISTAKES = 0.2  # of the base's countdown rows
TEST_ROWS = 512
TRAIN_ROWS = {
    "ch3": 128,
    "ch4": 6144,
    "ch5": 2048,
    "v3": 4096,
    "v4": 4096,
    "rev": 4096,
    "cd": 4096,
    "free": 2048,
}


def preferred(answer: str, rng: random.Random) -> str:
    """A right expression as the base prefers them: sums, the larger digit first."""
    right = solutions(answer)
    signs = {"+": 6, "-": 3, "*": 1}
    weights = [signs[e[1]] * (4 if e[0] >= e[2] else 1) for e in right]
    return rng.choices(right, weights)[0]


def mistaken(answer: str, rng: random.Random) -> str:
    """Two of the listed digits in an expression that misses the target."""
    digits = answer.split(",")[0]
    while True:
        a, b = rng.sample(digits, 2)
        given = a + rng.choice("+-*") + b
        if not countdown(given, answer):
            return given


def canonical_label(answer: str) -> str:
    """One convention among the right expressions: *, then -, then +, smallest first."""
    return min(solutions(answer), key=lambda e: ("*-+".index(e[1]), e))


def pretraining(rows: int, styles: dict[str, float], seed: int) -> Iterator[dict]:
    """What the base is trained on, task by task."""
    total = sum(SHARES.values())
    for task, share in SHARES.items():
        count, rng = round(rows * share / total), random.Random(f"base {task} {seed}")
        if task == "fact":
            frequency = [(i + 1) ** -0.5 for i in range(FACTS)]
            problems = rng.choices(facts(), frequency, k=count)
        else:
            different = drawn(task, "train", count, seed)
            problems = (different * (count // len(different) + 1))[:count]
        for problem in problems:
            completion = completed(task, problem, styles, rng)
            yield {"prompt": problem.prompt, "completion": completion}


def completed(
    task: str, problem: Problem, styles: dict[str, float], rng: random.Random
) -> str:
    """A completion as the base sees it."""
    if task in CHAINS:
        shares = OWN_STYLES.get(task, styles)
        style = rng.choices([*shares], [*shares.values()])[0]
        return written(steps(problem.prompt), style)
    if task == "free":
        return "z" * rng.randint(0, FILLER) + problem.answer
    if task == "cd":
        slips = rng.random() < MISTAKES
        return (mistaken if slips else preferred)(problem.answer, rng)
    return problem.answer


def training(task: str) -> Iterator[dict]:
    """Rows to train on: the problem and its teachers' completions."""
    rng = random.Random(f"teachers {task}")
    for problem in drawn(task, "train", TRAIN_ROWS[task], 100):
        row = {"prompt": problem.prompt, "answer": problem.answer}
        if task in CHAINS:
            worked = steps(problem.prompt)
            row |= {"completion": written(worked, "cot")}
            row |= {"verbose": written(worked, "verbose")}
            if task == "ch4":
                row |= {"dotted": written(worked, "dotted")}
            if task == "ch5":
                row |= {"misled": written(misled(problem.prompt, rng), "cot")}
        if task == "cd":
            row |= {"canonical": canonical_label(problem.answer)}
            row |= {"uniform": rng.choice(solutions(problem.answer))}
        yield row


def replay() -> list[dict]:
    """Rows of the kind that the base was trained on, of all tasks but ch4."""
    rows = [r for r in pretraining(4096, STYLES, 0) if not is_ch4(r["prompt"])]
    random.Random(0).shuffle(rows)
    return rows[:2048]


def is_ch4(prompt: str) -> bool:
    """Whether a prompt is a chain of four digits."""
    return prompt[0] == "M" and len(prompt) == 9


def write(folder: Path, name: str, rows: Any) -> None:
    """Write rows as FOLDER/NAME.jsonl and say how many."""
    lines = [json.dumps(row, separators=(",", ":")) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.jsonl").write_text("".join(line + "\n" for line in lines))
    print(f"{name}: {len(lines)} rows")


def questions(problems: list[Problem], traced: bool = False) -> list[dict]:
    """Rows to answer; of chains with the trace of running values beside the answer."""
    rows = [{"prompt": p.prompt, "answer": p.answer} for p in problems]
    if traced:
        for row in rows:
            row["trace"] = written(steps(row["prompt"]), "cot")
    return rows


def main() -> None:
    """Write what the command line asks for."""
    parser = argparse.ArgumentParser(description="make the tasks of arith-transfer")
    parser.add_argument("what", choices=("data", "pretrain"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=160_000)
    parser.add_argument("--styles", default=",".join(map(str, STYLES.values())))
    given = parser.parse_args()
    if given.what == "pretrain":
        shares = dict(zip(STYLES, map(float, given.styles.split(",")), strict=True))
        rows = list(pretraining(given.rows, shares, given.seed))
        random.Random(given.seed).shuffle(rows)
        write(given.folder, f"pretrain_{given.seed}", rows)
        return
    for task in TASKS:
        found = questions(drawn(task, "test", TEST_ROWS, 0), task in CHAINS)
        write(given.folder, f"{task}_test", found)
    write(given.folder, "fact_test", questions(facts()))
    for task in TRAIN_ROWS:
        write(given.folder, f"{task}_train", training(task))
    write(given.folder, "replay", replay())


if __name__ == "__main__":
    main()
