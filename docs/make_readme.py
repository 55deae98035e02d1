"""Write the generated parts of README.md: the preset table and the quickstart's table.

    python docs/make_readme.py [RESULTS]

RESULTS is a results.json (default: paper_figs/data/quickstart_results.json).
"""

import sys
from pathlib import Path

from unipost.listing import preset_table
from unipost.report import load_results, summarise, table

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "paper_figs" / "data" / "quickstart_results.json"


def replaced(text: str, name: str, content: str) -> str:
    """`text` with what stands between the comments of `name` replaced."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    before, rest = text.split(start)
    _, after = rest.split(end)
    return f"{before}{start}\n{content}\n{end}{after}"


def render(text: str, results: Path = RESULTS) -> str:
    """README text with its generated parts made anew."""
    summary = summarise(load_results(results))
    text = replaced(text, "presets", preset_table())
    return replaced(text, "quickstart", table(summary).strip())


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    path = ROOT / "README.md"
    path.write_text(render(path.read_text(), source))
