"""A process that stands for `unipost run` in tests of sweeps: it only writes files.

    python sweep_process.py STEPS PAUSE FAILING RUN RUN ...

Every step takes PAUSE seconds and is a line of metrics.jsonl; the first run whose
folder holds FAILING in its name ends in an error after one step. SIGTERM ends with code
75, as a run does, after a line and a checkpoint; a run goes on from its lines.
"""

import json
import signal
import sys
import time
from pathlib import Path

steps, pause, failing, *folders = sys.argv[1:]
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
for folder in map(Path, folders):
    path = folder / "metrics.jsonl"
    done = len(path.read_text().splitlines()) if path.exists() else 0
    print(f"start after {done}", flush=True)
    for step in range(done + 1, int(steps) + 1):
        time.sleep(float(pause))
        with path.open("a") as file:
            file.write(json.dumps({"step": step, "loss": 1 / step}) + "\n")
        if asked:
            (folder / "checkpoints" / str(step)).mkdir(parents=True)
            print(f"unipost: stopped by SIGTERM after step {step}", flush=True)
            sys.exit(75)
        if failing in str(folder):
            print(f"unipost: {folder}: the loss is NaN", flush=True)
            sys.exit(2)
    seed = int(folder.name)
    score = {"step": int(steps), "sums/greedy": 0.5 + 0.1 * seed, "length": 2.0}
    (folder / "evaluation.jsonl").write_text(json.dumps(score) + "\n")
    (folder / "final").mkdir()
