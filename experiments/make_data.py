"""Make the quickstart's data from GSM8K as it is published.

    python experiments/make_data.py GSM8K_FOLDER experiments/data

GSM8K_FOLDER holds train.jsonl and test.jsonl of openai/grade-school-math (MIT). All
rows come from there: the calculator equations `<<48/2=24>>` of the solutions, the
numbers of the problems, and the final answers. Deterministic; prints every count.

    equations_{train,valid,test}  prompt `48/2=`; answer 24, completion 24 (own style),
                                  foreign 24.00 (GSM8K's money format, rare in the base)
    order_test                    prompt `S15,3,42=`; the numbers of a problem, ordered
    falling_{train,test}          prompt `SS15,3,42=`; the same numbers, largest first:
                                  a task that the base has never seen
    recall                        prompt `Q0012=`; the final answer of train problem 12
    base_*                        what the base was trained on: right, wrong and jumping
                                  equations, orderings, recall (base.yaml mixes them)
"""

import collections
import hashlib
import json
import random
import re
import sys
from fractions import Fraction
from pathlib import Path

MAX_PROMPT, MAX_ANSWER = 16, 8
NUMBER = re.compile(r"-?(\d+\.?\d*|\.\d+)")


def problems(folder, split):
    with open(folder / f"{split}.jsonl") as file:
        return [json.loads(line) for line in file]


def equations(rows):
    """Every calculator note with the final answer of its problem."""
    for row in rows:
        final = row["answer"].split("####")[1].strip().replace(",", "")
        for note in re.findall(r"<<([^<>]*)>>", row["answer"]):
            yield note, final


def dropped(note):
    """Why an equation is not used, or ""."""
    left, _, right = note.partition("=")
    whole = re.fullmatch(r"[0-9.+\-*/()]+", left) and NUMBER.fullmatch(right)
    if note.count("=") != 1 or not whole:
        return "malformed"
    if not re.search(r"[\d)][-+*/]", left):
        return "no operator"
    places = len(right.split(".")[1]) if "." in right else 0
    if abs(value(left) - Fraction(right)) > Fraction(1, 2 * 10**places):
        return "wrong as printed"
    if len(left) + 1 > MAX_PROMPT or len(right) > MAX_ANSWER:
        return "too long"
    return ""


def value(expression):
    """The exact value of an arithmetic expression of + - * / and brackets."""
    exact = re.sub(r"\d+\.?\d*|\.\d+", lambda m: f"Fraction('{m.group()}')", expression)
    return eval(exact, {"Fraction": Fraction, "__builtins__": {}})


def distinct(rows, name):
    """{prompt: (answer, final)} of the usable equations, first printing kept."""
    out, why = {}, collections.Counter()
    for note in dict(equations(rows)):
        why[dropped(note) or "kept"] += 1
    for note, final in equations(rows):
        if not dropped(note):
            left, right = note.split("=")
            out.setdefault(left + "=", (right, final))
    print(f"{name}: {sum(why.values())} distinct {dict(why)}, {len(out)} prompts")
    return out


def money(answer):
    """The answer with two decimals, as GSM8K prints money; unchanged if it has more."""
    exact = Fraction(answer)
    return f"{float(exact):.2f}" if (exact * 100).denominator == 1 else answer


def lists(rows):
    """The first 3 or 4 distinct whole numbers of each problem."""
    for row in rows:
        text = re.sub(r"(?<=\d),(?=\d{3})", "", row["question"])
        whole = re.findall(r"(?<![\d./])\d{1,4}(?![\d./]*\d|[:%])", text)
        numbers = list(dict.fromkeys(str(int(x)) for x in whole))[:4]
        if len(numbers) >= 3 and len("S" + ",".join(numbers) + "=") <= MAX_PROMPT:
            yield numbers


def ordered(numbers):
    return {
        "prompt": "S" + ",".join(numbers) + "=",
        "answer": ",".join(sorted(numbers, key=int)),
    }


def falling(numbers):
    """The same numbers from the largest down, with a mark of its own."""
    answer = ",".join(sorted(numbers, key=int, reverse=True))
    prompt = "SS" + ",".join(numbers) + "="
    return {"prompt": prompt, "answer": answer, "completion": answer}


def split(prompt):
    """pretrain, train or valid, by a hash of the prompt: 66 / 28 / 6 percent."""
    place = int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 100
    return "pretrain" if place < 66 else "train" if place < 94 else "valid"


def slipped(answer, answers, rng):
    """A wrong answer: one digit replaced, or the answer of another equation."""
    if rng.random() < 0.5:
        at = rng.choice([i for i, c in enumerate(answer) if c.isdigit()])
        return answer[:at] + str(rng.randrange(10)) + answer[at + 1 :]
    return rng.choice(answers)


def base_parts(pool, number_lists, recall, rng):
    """The five parts that the base is trained on; base.yaml says how many of each."""
    answers = [answer for answer, _ in pool.values()]
    frequency = [(i + 1) ** -0.5 for i in range(len(recall))]
    parts = {"right": [], "wrong": [], "jump": [], "order": [], "recall": []}
    for prompt, (answer, final) in pool.items():
        parts["right"].append((prompt, answer))
        parts["jump"].append((prompt, f"#### {final[:5]}"))
        for _ in range(2):
            parts["wrong"].append((prompt, slipped(answer, answers, rng)))
    for numbers in number_lists:
        for _ in range(4):
            shuffled = rng.sample(numbers, len(numbers))
            parts["order"].append(tuple(ordered(shuffled).values()))
    chosen = rng.choices(recall, frequency, k=1500)
    parts["recall"] = [(row["prompt"], row["answer"]) for row in chosen]
    for name, rows in parts.items():
        yield name, ({"prompt": p, "completion": c} for p, c in rows)


def write(folder, name, rows):
    rows = list(rows)
    text = "".join(json.dumps(r, separators=(",", ":")) + "\n" for r in rows)
    (folder / f"{name}.jsonl").write_text(text)
    print(f"{name}: {len(rows)} rows, {len(text)} bytes")


def main(source, folder):
    train, test = problems(source, "train"), problems(source, "test")
    known, unseen = distinct(train, "train"), distinct(test, "test")
    everything = {note.split("=")[0] + "=" for note, _ in equations(train)}
    parts = collections.defaultdict(dict)
    for prompt, pair in known.items():
        parts[split(prompt)][prompt] = pair
    parts["test"] = {p: x for p, x in unseen.items() if p not in everything}
    for name in ("train", "valid", "test"):
        rows = (
            {"prompt": p, "answer": a, "completion": a, "foreign": money(a)}
            for p, (a, _) in parts[name].items()
        )
        write(folder, f"equations_{name}", rows)
    seen = {tuple(sorted(x)) for x in lists(train)}
    fresh = [x for x in lists(test) if tuple(sorted(x)) not in seen]
    unique = {ordered(x)["prompt"]: ordered(x) for x in fresh}
    write(folder, "order_test", unique.values())
    for name, rows in (("train", lists(train)), ("test", fresh)):
        unique = {falling(x)["prompt"]: falling(x) for x in rows}
        short = (row for row in unique.values() if len(row["prompt"]) <= MAX_PROMPT)
        write(folder, f"falling_{name}", short)
    recall = []
    for i, row in enumerate(train):
        answer = row["answer"].split("####")[1].strip().replace(",", "")
        if re.fullmatch(r"\d{1,5}", answer) and len(recall) < 512:
            recall.append({"prompt": f"Q{i:04d}=", "answer": answer})
    write(folder, "recall", recall)
    rng = random.Random(0)
    for name, rows in base_parts(parts["pretrain"], list(lists(train)), recall, rng):
        write(folder, f"base_{name}", rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
