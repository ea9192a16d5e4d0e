"""Changed texts by word: what a person reads in a prompt is which words came and went, not which lines did."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TypeAlias

from registry.formats.limits import (
    DIFF_LINE_CHARS,
    WORDS_ALIKE,
    WORDS_AROUND_CHARS,
    WORDS_CHARS,
    WORDS_MIN_CHARS,
    WORDS_PAIRS,
    WORDS_TEXT_CHARS,
)
from registry.formats.values.align import Lines, Stretch, Work, stretches

# `=` in both, `-` only in the old text, `+` only in the new one, `@` stands for text left out and says where.
Word: TypeAlias = tuple[Literal["=", "-", "+", "@"], str]
GAP = "…"
_TOKEN_STEPS = 20  # what looking at one token costs, in steps of an alignment

# Han, kana and the marks that follow them: written without blanks, so each character counts as a word.
_CJK = "\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_MARKS = "\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
_POINTS = "!-/:-@\\[-^`{-~\xa0-\xbf\u2010-\u205e\u3000-\u303f\uff00-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_TOKEN = re.compile(rf"[{_CJK}][{_MARKS}]*|\s+|[^\s{_POINTS}{_CJK}]+|.", re.DOTALL)


def tokens(text: str) -> list[str]:
    """Words, single CJK characters, blanks and points; joined they are the text."""
    return _TOKEN.findall(text)


def text_changes(old: str, new: str, work: Work) -> tuple[list[str], list[Word]]:
    """Two masked texts: unified lines if one of them has several, and words where they have enough in common.

    Words of one line are the text, with its unchanged parts cut. Words of several lines are those of `diff`, each
    line ended by a line feed. Both are bounded; without words, the lines or the values say all.
    """
    if "\n" in old or "\n" in new:
        lines = Lines(old, new, work)
        return lines.unified(), line_words(lines, work)
    return [], _line(old, new, work) if min(len(old), len(new)) > WORDS_MIN_CHARS else []


def line_words(lines: Lines, work: Work) -> list[Word]:
    """Of texts aligned by line. Empty if no two of their changed lines are alike."""
    if not _affordable(sum(map(len, lines.old)) + sum(map(len, lines.new)), work):
        return []
    out: list[Word] = []
    alike = False
    for hunk in lines.hunks():
        out.append(("@", f"{hunk.header}\n"))
        at = hunk.start
        for stretch in hunk.stretches:
            out += _context(lines.old[at : stretch[0]])
            pairs = _pairs(lines, stretch, work)
            alike = alike or bool(pairs)
            out += _stretch(lines, stretch, pairs, work)
            at = stretch[1]
        out += _context(lines.old[at : hunk.end])
        if sum(len(text) for _, text in out) > WORDS_CHARS:
            break
    return _bounded(out) if alike else []


def by_line(words: Iterable[Sequence[str]]) -> Iterator[tuple[str, str]]:
    """Sign and text of each line: `~` for words changed in it, marked [-so-]{+so+}; ` `, `-`, `+` and `@` for lines
    that are all of one kind."""
    for line in _lines(words):
        signs = {op for op, _ in line}
        if len(signs) == 1:
            sign = next(iter(signs))
            yield " " if sign == "=" else sign, "".join(text for _, text in line)
        elif signs <= {"=", "@"}:
            yield " ", "".join(text for _, text in line)
        else:
            yield "~", "".join(_mark(op, text) for op, text in line)


def sides(words: Iterable[Sequence[str]]) -> tuple[str, str]:
    """The changed lines as they were and as they are, with the changed words of a line marked."""
    old: list[str] = []
    new: list[str] = []
    for line in _lines(words):
        signs = {op for op, _ in line}
        whole = len(signs) == 1
        for side, other, out in (("-", "+", old), ("+", "-", new)):
            if side in signs or (other in signs and not whole):
                out.append("".join(text if whole else _mark(op, text) for op, text in line if op != other))
    return "\n".join(filter(None, old)), "\n".join(filter(None, new))


def _mark(op: str, text: str) -> str:
    return f"[-{text}-]" if op == "-" else f"{{+{text}+}}" if op == "+" else text


def _lines(words: Iterable[Sequence[str]]) -> Iterator[list[tuple[str, str]]]:
    line: list[tuple[str, str]] = []
    for op, text in words:
        *whole, rest = text.split("\n")
        for part in whole:
            yield [*line, (op, part)]
            line = []
        if rest:
            line.append((op, rest))
    if line:
        yield line


def _affordable(chars: int, work: Work) -> bool:
    work.left -= chars
    return chars <= WORDS_TEXT_CHARS and work.left > 0


def _line(old: str, new: str, work: Work) -> list[Word]:
    if not _affordable(len(old) + len(new), work):
        return []
    before, after = tokens(old), tokens(new)
    if old == new or _alike(Counter(before), Counter(after), work) < WORDS_ALIKE:
        return []
    return _bounded(_cut(_pieces(before, after, work)))


def _alike(old: Counter[str], new: Counter[str], work: Work) -> float:
    """Share of characters in words of both, blanks aside."""
    work.left -= _TOKEN_STEPS * (len(old) + len(new))
    if work.left < 0:
        return 0.0
    chars = sum(len(word) * count for side in (old, new) for word, count in side.items() if not word.isspace())
    common = sum(len(word) * min(count, new[word]) for word, count in old.items() if not word.isspace())
    return 2 * common / chars if chars else 0.0


def _pieces(old: list[str], new: list[str], work: Work) -> list[Word]:
    out: list[Word] = []
    at = 0
    for a, b, c, d in _joined(old, stretches(old, new, work, str.isspace)):
        parts: list[Word] = [("=", "".join(old[at:a])), ("-", "".join(old[a:b])), ("+", "".join(new[c:d]))]
        out += [part for part in parts if part[1]]
        at = b
    if rest := "".join(old[at:]):
        out.append(("=", rest))
    return out


def _joined(old: list[str], found: list[Stretch]) -> list[Stretch]:
    """Words with only blanks between them changed together."""
    out: list[Stretch] = []
    for stretch in found:
        if out and all(word.isspace() for word in old[out[-1][1] : stretch[0]]):
            stretch = (out[-1][0], stretch[1], out[-1][2], stretch[3])
            out.pop()
        out.append(stretch)
    return out


def _cut(pieces: list[Word]) -> list[Word]:
    """Unchanged text only around what changed."""
    out: list[Word] = []
    for index, (op, text) in enumerate(pieces):
        lead = WORDS_AROUND_CHARS if index > 0 else 0
        trail = WORDS_AROUND_CHARS if index < len(pieces) - 1 else 0
        if op != "=" or len(text) <= lead + trail + len(GAP):
            out.append((op, text))
            continue
        parts: list[Word] = [("=", text[:lead]), ("@", GAP), ("=", text[len(text) - trail :])]
        out += [part for part in parts if part[1]]
    return out


def _bounded(pieces: list[Word]) -> list[Word]:
    left = WORDS_CHARS
    out: list[Word] = []
    for op, text in pieces:
        left -= len(text)
        if left < 0:
            return [*out, (op, text[:left]), ("@", f"{GAP}\n")]
        if out and out[-1][0] == op:
            text = out.pop()[1] + text
        out.append((op, text))
    return out


def _context(lines: list[str]) -> Iterator[Word]:
    for line in lines:
        if len(line) > DIFF_LINE_CHARS:
            yield "=", line[:DIFF_LINE_CHARS]
            yield "@", f"{GAP}\n"
        else:
            yield "=", f"{line}\n"


def _stretch(lines: Lines, stretch: Stretch, pairs: list[tuple[int, int]], work: Work) -> Iterator[Word]:
    at_old, end_old, at_new, end_new = stretch
    for old, new in [*pairs, (end_old, end_new)]:
        yield from (("-", f"{line}\n") for line in lines.old[at_old:old])
        yield from (("+", f"{line}\n") for line in lines.new[at_new:new])
        if old < end_old:
            yield from _cut(_pieces(tokens(lines.old[old]), tokens(lines.new[new]), work))
            yield "=", "\n"
        at_old, at_new = old + 1, new + 1


def _pairs(lines: Lines, stretch: Stretch, work: Work) -> list[tuple[int, int]]:
    """Old and new lines that are alike, the most alike first, as long as they are in the same order."""
    a, b, c, d = stretch
    if (b - a) * (d - c) > WORDS_PAIRS:
        return []
    old = {index: Counter(tokens(lines.old[index])) for index in range(a, b)}
    new = {index: Counter(tokens(lines.new[index])) for index in range(c, d)}
    scored = sorted((-_alike(old[i], new[j], work), i, j) for i in old for j in new)
    chosen: list[tuple[int, int]] = []
    for score, i, j in scored:
        if -score < WORDS_ALIKE:
            break
        if all((i < k and j < m) or (i > k and j > m) for k, m in chosen):
            chosen.append((i, j))
    return sorted(chosen)
