"""SVG as text: untrusted words made harmless, cut and wrapped to a width; boxes, curves and the style of both."""

from __future__ import annotations

import html
import math
import unicodedata

from registry.formats.picture.layout import Box
from registry.formats.picture.routes import Curve
from registry.formats.secrets.masking import mask_text

FONT = "system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, 'Noto Sans', 'Noto Sans CJK SC', sans-serif"
_NARROW, _BROAD = frozenset("iljtfrI.,:;'`|!()[]{}/ "), frozenset("mwMW@%#&")
_EM = {"narrow": 0.38, "broad": 0.96, "upper": 0.72, "other": 0.62, "wide": 1.05}  # of the widest usual fonts
_JOINERS = "\u200c\u200d"
_CLEAN_CHARS = 2000

# Colours keep their order of lightness for every kind of colour blindness, and none stands without its sign or dashes.
STYLE = f"""
svg.compared {{ font-family: {FONT}; }}
svg.compared text {{ fill: #2b3440; font-size: 11px; }}
svg.compared .summary {{ font-size: 15px; font-weight: 600; }}
svg.compared .legend {{ font-size: 13px; }}
svg.compared .note {{ font-size: 12px; fill: #5a6572; }}
svg.compared .title {{ font-size: 14px; font-weight: 600; }}
svg.compared .type {{ fill: #5a6572; }}
svg.compared .branch {{ text-anchor: end; }}
svg.compared .badge {{ fill: #fff; font-size: 14px; font-weight: 700; text-anchor: middle; }}
svg.compared rect.box {{ fill: #f4f5f7; stroke: #97a1ad; stroke-width: 1.2; }}
svg.compared .added rect.box {{ fill: #d8f3e0; stroke: #12753f; stroke-width: 2.4; }}
svg.compared .removed rect.box {{ fill: #fdeaea; stroke: #b3261e; stroke-width: 2.4; stroke-dasharray: 7 4; }}
svg.compared .changed rect.box {{ fill: #fff0c2; stroke: #a86400; stroke-width: 2.4; }}
svg.compared .frame rect.box {{ fill-opacity: 0.45; }}
svg.compared .same .title {{ fill: #4a5460; }}
svg.compared .moved {{ fill: none; stroke: #5a6572; stroke-width: 1.5; }}
svg.compared .edge {{ fill: none; stroke: #97a1ad; stroke-width: 1.5; }}
svg.compared .edge.added {{ stroke: #12753f; stroke-width: 2.6; }}
svg.compared .edge.removed {{ stroke: #b3261e; stroke-width: 2.2; stroke-dasharray: 7 4; }}
svg.compared .added circle, svg.compared .branch.added {{ fill: #12753f; }}
svg.compared .removed circle, svg.compared .branch.removed {{ fill: #b3261e; }}
svg.compared .changed circle {{ fill: #a86400; }}
svg.compared .same circle {{ fill: #97a1ad; }}
""".strip()
ARROWS = {"same": "#97a1ad", "added": "#12753f", "removed": "#b3261e"}


def clean(text: str) -> str:
    """On one line, without what XML forbids, without invisible characters that reorder or hide text, and without
    tokens: also those that such characters hid from whoever made the text."""
    kept = []
    for char in text[:_CLEAN_CHARS]:
        category = unicodedata.category(char)
        if category in ("Cc", "Zl", "Zp"):
            kept.append(" ")
        elif category == "Cs" or ord(char) & 0xFFFE == 0xFFFE:
            kept.append("\ufffd")
        elif category != "Cf" or char in _JOINERS:
            kept.append(char)
    return mask_text(" ".join("".join(kept).split()))


def escaped(text: str) -> str:
    """For content and for attributes in double quotes."""
    return html.escape(clean(text), quote=True)


def wrapped(text: str, width: float, size: float, lines: int) -> list[str]:
    """`text` on at most so many lines of about `width`, in type of `size`; what does not fit is cut with `…`."""
    out: list[str] = []
    rest = clean(text)
    while rest and len(out) < lines:
        end = _fitting(rest, width, size)
        if end < len(rest) and len(out) == lines - 1:
            rest = rest[: _fitting(rest, width - size, size)].rstrip() + "…"
            end = len(rest)
        elif end < len(rest):
            end = next((place for place in range(end, end // 4, -1) if _parts(rest[place - 1], rest[place])), end)
        out.append(rest[:end].rstrip())
        rest = rest[end:].lstrip()
    return out


def _parts(before: str, after: str) -> bool:
    """Whether a line may end between two characters: of identifiers too, at `-`, `_` and before a capital."""
    return after == " " or before in " -_/." or (before.islower() and after.isupper())


def squeezed(text: str, width: float, size: float) -> str:
    """`text` on one line; of a longer one the beginning and the end, which say most of a path."""
    text = clean(text)
    if text_width(text, size) <= width:
        return text
    half = (width - size) / 2
    return f"{text[: _fitting(text, half, size)]}…{text[-_fitting(text[::-1], half, size) :]}"


def text_width(text: str, size: float) -> float:
    return sum(map(_em, text)) * size


def _fitting(text: str, width: float, size: float) -> int:
    """How many characters fit; at least one."""
    used = 0.0
    for position, char in enumerate(text):
        used += _em(char) * size
        if used > width:
            return max(position, 1)
    return len(text)


def _em(char: str) -> float:
    if unicodedata.combining(char) or char in _JOINERS:
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return _EM["wide"]
    if char in _NARROW:
        return _EM["narrow"]
    if char in _BROAD:
        return _EM["broad"]
    return _EM["upper" if char.isupper() or char.isdigit() else "other"]


def number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def text_at(x: float, y: float, words: str, kind: str) -> str:
    return f'<text x="{number(x)}" y="{number(y)}" class="{kind}">{escaped(words)}</text>'


def rectangle(box: Box, kind: str) -> str:
    x, y, width, height = map(number, (box.x, box.y, box.width, box.height))
    return f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" class="{kind}"/>'


def corner(right: float, bottom: float) -> str:
    """The mark of what was moved: a thin second edge at the lower right corner."""
    x, y = number(right + 5), number(bottom + 5)
    return f'<path d="M{number(right - 20)},{y}H{x}V{number(bottom - 16)}" class="moved"/>'


def badge(x: float, y: float, sign: str) -> str:
    """A sign in a disc, coloured by the group around it."""
    return f'<circle cx="{number(x)}" cy="{number(y)}" r="9"/>{text_at(x, y + 5, _drawn(sign), "badge")}'


def _drawn(sign: str) -> str:
    return "−" if sign == "-" else sign  # a hyphen is hard to see


def path(curve: Curve, kind: str, attributes: str) -> str:
    (a, b), (c, d), (e, f), (g, h) = curve
    words = [number(value) for value in (a, b, c, d, e, f, g, h)]
    line = f"M{words[0]},{words[1]}C{words[2]},{words[3]} {words[4]},{words[5]} {words[6]},{words[7]}"
    return f'<path d="{line}" class="edge {kind}" marker-end="url(#compared-{kind})" {attributes}/>'


def document(width: float, height: float, label: str, parts: list[str]) -> str:
    arrows = "".join(
        f'<marker id="compared-{kind}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="9" markerHeight="9"'
        f' markerUnits="userSpaceOnUse" orient="auto"><path d="M0,0 L10,5 L0,10 z" fill="{colour}"/></marker>'
        for kind, colour in ARROWS.items()
    )
    size = f'width="{math.ceil(width)}" height="{math.ceil(height)}"'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="compared" role="img" {size}'
            f' viewBox="0 0 {math.ceil(width)} {math.ceil(height)}" aria-label="{escaped(label)}">',
            f"<style>\n{STYLE}\n</style>",
            f"<defs>{arrows}</defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )
