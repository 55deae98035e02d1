"""Text coloured token by token: for a terminal, and as HTML.

Blue where a number is above 0, orange below, the stronger the larger it is. Colours of
a terminal bring their own ink, and those of the page follow its theme, so that both
read on light and on dark ground. What a model wrote cannot steer either: control
characters are shown as symbols, and markup is escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from unipost.completions.pieces import Piece

UP, DOWN = (91, 158, 230), (240, 160, 96)
FAINT = 0.08
"""Below this share of the strongest colour a token has none."""


def strongest(values: ArrayLike) -> float:
    """The size that gets the full colour: the 95th percentile of those not 0."""
    sizes = np.abs(np.asarray(values, float).ravel())
    sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
    return float(np.percentile(sizes, 95)) if sizes.size else 1.0


def strength(value: float, limit: float) -> float:
    """value / limit within -1 ... 1; 0 for what is faint or no number."""
    if math.isnan(value):
        return 0.0
    share = max(-1.0, min(1.0, value / limit))
    return share if abs(share) >= FAINT else 0.0


def ansi(pieces: Sequence[Piece], values: Sequence[float], limit: float) -> str:
    """Text for a terminal of 24-bit colours: black on a tint, plain where faint."""
    return "".join(
        _tinted(shown(piece), strength(value, limit))
        for piece, value in zip(pieces, values, strict=True)
    )


def spans(
    pieces: Sequence[Piece],
    values: Sequence[float],
    limit: float,
    titles: Sequence[str],
) -> str:
    """HTML spans of the classes of `unipost.completions.style`, a title on each."""
    out = []
    for piece, value, title in zip(pieces, values, titles, strict=True):
        share = strength(value, limit)
        names = ["special"] * piece.special
        names += ["up" if share > 0 else "down"] if share else []
        kind = f' class="{" ".join(names)}"' if names else ""
        tint = f' style="--a:{round(65 * abs(share))}"' if share else ""
        text = html.escape(shown(piece))
        out.append(f'<span{kind}{tint} title="{html.escape(title)}">{text}</span>')
    return "".join(out)


def shown(piece: Piece) -> str:
    """The text of a piece; an end of line after a sign, other controls as symbols."""
    text = piece.text if piece.text else "▪"
    return "".join(_visible(c) for c in text)


def _visible(character: str) -> str:
    code = ord(character)
    if character == "\n":
        return "↵\n"
    if code < 0x20:
        return chr(0x2400 + code)
    # what turns the direction of writing or ends a line would disorder the rest
    odd = code == 0x7F or 0x80 <= code < 0xA0 or 0xD800 <= code < 0xE000
    turns = (
        code in (0x2028, 0x2029) or 0x202A <= code <= 0x202E or 0x2066 <= code <= 0x2069
    )
    return "�" if odd or turns else character


def _tinted(text: str, share: float) -> str:
    if not share:
        return text
    top = UP if share > 0 else DOWN
    red, green, blue = (round(255 + abs(share) * (c - 255)) for c in top)
    ink = f"\x1b[38;2;0;0;0;48;2;{red};{green};{blue}m"
    # a background that runs over the end of a line fills the rest of it
    return "\n".join(f"{ink}{part}\x1b[0m" if part else "" for part in text.split("\n"))
