"""Drive a page of completions in a real browser: python tests/browser_page.py FOLDER.

Writes the pages of `completion_entries` and screenshots of them to FOLDER (light and
dark, wide and narrow: to be looked at), and checks in Chromium what only a browser can
tell: that the script runs, sorts, filters and colours, that texts stay texts, that
nothing is wider than the window and nothing is asked of the network. Exits with a
message where a check fails or there is no browser.
"""

import html
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from completion_entries import NASTY, entries

from unipost.completions import write_index, write_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SIZES = {"wide": (1400, 1500), "middle": (1000, 1200), "narrow": (400, 1500)}
DARK = "--blink-settings=preferredColorScheme=0"
DRIVER = r"""
const out = {}, click = key =>
  document.querySelector(`#head [data-key="${key}"] button`).click();
const set = (id, value) => {
  const node = document.getElementById(id);
  if (node.type === "checkbox") node.checked = value; else node.value = value;
  node.dispatchEvent(new Event("input", {bubbles: true}));
};
const rows = () => [...document.querySelectorAll("tr.row")];
const cell = (row, name) => row.querySelector(`[data-name="${name}"]`).textContent;
const order = () => rows().map(row => Number(cell(row, "#")));
const count = () => document.getElementById("count").textContent;
out.order = order();
out.scripts = document.scripts.length;
out.images = document.images.length;
out.resources = performance.getEntriesByType("resource").length;
out.text = rows().map(row => row.querySelector(".tokens").textContent);
out.overflow = document.documentElement.scrollWidth - innerWidth;
out.cards = document.body.classList.contains("cards");
out.signs = rows().map(row => [...row.querySelectorAll(".tokens span")].map(
  x => x.classList.contains("up") - x.classList.contains("down")));
out.strength = Math.max(...[...document.querySelectorAll(".tokens span")].map(
  x => Number(x.style.getPropertyValue("--a"))));
click("reward");
out.together = order();
set("together", false);
out.falling = order();
click("reward");
out.rising = order();
out.sorted = document.querySelector('[data-key="reward"]').ariaSort;
for (const sign of ["above", "zero", "below", "unscored"]) {
  set("sign", sign);
  out[sign] = order();
}
set("sign", "any");
set("find", "QUOTED");
out.found = [order(), count()];
set("find", "");
set("together", true);
const span = document.querySelectorAll(".tokens span")[4];
span.dispatchEvent(new PointerEvent("pointerover", {bubbles: true}));
const tip = document.getElementById("tip");
out.tip = tip.hidden ? null : [...tip.querySelectorAll("dt")].map(
  (x, i) => [x.textContent, tip.querySelectorAll("dd")[i].textContent]);
const box = tip.getBoundingClientRect();
out.inside = box.left >= 0 && box.right <= innerWidth && box.top >= 0;
const press = key => span.parentNode.dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true}));
press("ArrowRight");
out.next = tip.querySelector("dd").textContent;
press("End");
out.last = tip.querySelector("dd").textContent;
press("Escape");
out.hidden = tip.hidden;
document.body.dataset.out = JSON.stringify(out);
"""


def browser() -> str:
    found = [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    return found[0]


def run(page: Path, *flags: str) -> str:
    """What the browser prints for a page."""
    command = [browser(), "--headless", "--no-sandbox", "--disable-gpu", *flags]
    done = subprocess.run(
        [*command, page.resolve().as_uri()], capture_output=True, timeout=120
    )
    return done.stdout.decode()


def driven(page: Path, size: tuple[int, int]) -> dict:
    """What the driver found in a page of this size."""
    text = page.read_text(encoding="utf-8")
    copy = page.with_name("driven.html")
    driver = f"<script>{DRIVER}</script></body>"
    copy.write_text(text.replace("</body>", driver), encoding="utf-8")
    dom = run(copy, "--dump-dom", f"--window-size={size[0]},{size[1]}")
    copy.unlink()
    found = re.search('data-out="([^"]*)"', dom)
    if found is None:
        sys.exit(f"{page}: the script has failed")
    return json.loads(html.unescape(found[1]))


def check(found: dict, size: tuple[int, int]) -> None:
    """Compare what the browser shows with the entries. Raises AssertionError."""
    shown = entries()
    rewards = {i + 1: e.reward for i, e in enumerate(shown)}
    groups = {i + 1: e.group for i, e in enumerate(shown)}
    assert found["order"] == list(rewards)
    assert (found["scripts"], found["images"], found["resources"]) == (3, 0, 0)
    for entry, text in zip(shown, found["text"], strict=True):
        assert text.startswith("".join(x.text for x in entry.pieces[:-2]))
    assert any(NASTY in text for text in found["text"])
    assert found["overflow"] <= 0, f"{size}: wider by {found['overflow']} px"
    for entry, signs in zip(shown, found["signs"], strict=True):
        want = np.sign(entry.columns["coefficient"]).tolist()
        assert signs == want
    assert found["strength"] == 65

    def values(name):
        return [rewards[i] for i in found[name] if not math.isnan(rewards[i])]

    assert values("falling") == sorted(values("falling"), reverse=True)
    assert values("rising") == sorted(values("rising"))
    unscored = [i for i, reward in rewards.items() if math.isnan(reward)]
    for name in ("falling", "rising"):
        assert found[name][-1:] == unscored and len(found[name]) == len(shown)
    seen = [groups[i] for i in found["together"]]
    changes = sum(a != b for a, b in zip(seen, seen[1:], strict=False))
    assert changes == len(set(seen)) - 1, "groups are torn apart"
    assert found["sorted"] == "ascending"
    for name, rule in (
        ("above", lambda r: r > 0),
        ("zero", lambda r: r == 0),
        ("below", lambda r: r < 0),
        ("unscored", math.isnan),
    ):
        assert sorted(found[name]) == [i for i, r in rewards.items() if rule(r)], name
    quoted = [i + 1 for i, e in enumerate(shown) if e.group == 1 and i % 2 == 0]
    assert found["found"] == [quoted, f"{len(quoted)} of {len(shown)} completions"]
    check_details(found)


def check_details(found: dict) -> None:
    """The details of the fifth token of the first row that is shown."""
    # sorted by reward, rising: the first row is of the first group of the worst
    first = next(i for i in found["rising"])
    entry = entries()[first - 1]
    tip = dict(found["tip"])
    assert tip["token"] == f"5 of {len(entry.tokens)}, id {entry.tokens[4]}"
    policy, old = entry.columns["policy"][4], entry.columns["old"][4]
    assert math.isclose(float(tip["log-prob old"]), old, abs_tol=1e-3)
    want = math.exp(policy - old)
    assert math.isclose(float(tip["policy / old"]), want, rel_tol=1e-3)
    assert found["inside"] and found["hidden"]
    assert found["next"].startswith("6 of ")
    count = len(entry.tokens)
    assert found["last"].startswith(f"{count} of {count}, ")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "000050.html"
    write_page(page, entries(), 50)
    write_index(folder)
    for name, size in SIZES.items():
        found = driven(page, size)
        check(found, size)
        assert found["cards"] == (name == "narrow" or name == "middle")
        shape = f"--window-size={size[0]},{size[1]}"
        for scheme, flags in (("light", ()), ("dark", (DARK,))):
            shot = folder / f"{name}_{scheme}.png"
            run(page, shape, f"--screenshot={shot}", *flags)
            print(shot)
    print("the page does in a browser what it should")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else sys.exit(__doc__))
