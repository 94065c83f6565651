"""Finds the answer in a model's reply: after its reasoning, in the form that benchmarks ask for."""

from __future__ import annotations

import ast
import re
import warnings
from decimal import Context, Decimal, InvalidOperation
from typing import Final

__all__ = ["after_thinking", "boxed", "latex", "letter", "number", "parse_python", "program", "stated"]

_THOUGHT: Final = re.compile(r"<(think|thinking|thought|reasoning)>", re.IGNORECASE)
_THOUGHT_END: Final = re.compile(r"</(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_BOX: Final = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|(?P<bare>[^\s{}$]+))")
_STATED: Final = re.compile(
    r"####\s*(.+)|(?:final|correct|best|right)?\s*\b(?:answer|choice|option)\b\W{0,4}(?:\s*(?:is|would be|should be|must be))?"
    r"\s*(?:[:=]|\bis\b|\bbe\b)[\s*:]*(?:(?:most\s+)?(?:likely|probably|clearly|therefore|thus)\s+)?(\S.*)",
    re.IGNORECASE,
)
_NUMBER: Final = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?|-?\.\d+")
_STEP, _LARGEST = Decimal("1e-9"), 200  # what is smaller is noise; more digits than that are no answer
_CONTEXT: Final = Context(prec=_LARGEST + 20)
_FRACTION: Final = re.compile(r"\\[dt]?frac\s*\{?\s*(-?\d+)\s*\}?\s*\{?\s*(\d+)\s*\}?")
_RATIO: Final = re.compile(r"(?<![\d/.])(\d+)\s*/\s*(\d+)(?![\d/.])")
_SIGNS: Final = {
    "−": "-",
    "–": "-",
    "²": "^2",
    "³": "^3",
    "°": "",
    "π": "\\pi ",
    "θ": "\\theta ",
    "∞": "\\infty ",
    "×": "\\cdot ",
    "·": "\\cdot ",
    "∪": "\\cup ",
    "≤": "\\le ",
    "≥": "\\ge ",
}
_FENCE: Final = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_CODE_START: Final = re.compile(r"^(?:def|class|import|from|async def|@)\b.*", re.MULTILINE)


def after_thinking(text: str) -> str:
    """The reply without its reasoning: ``<think>…</think>`` is dropped; '' if the reasoning never ends.

    Examples
    --------
    >>> after_thinking("<think>2 + 2 = 5?</think>4")
    '4'
    """
    ends = list(_THOUGHT_END.finditer(text))
    rest = text[ends[-1].end() :] if ends else text
    opened = _THOUGHT.search(rest)
    return (rest[: opened.start()] if opened else rest).strip()


def boxed(text: str) -> str | None:
    r"""What the last ``\boxed{…}`` holds; ``None`` without one, or if it is cut off."""
    for found in reversed(list(_BOX.finditer(text))):
        if found["bare"] is not None:
            return found["bare"]
        depth, start = 1, found.end()
        for place in range(start, len(text)):
            depth += {"{": 1, "}": -1}.get(text[place], 0) if text[place - 1] != "\\" else 0
            if depth == 0:
                return text[start:place].strip()
    return None


def stated(text: str) -> str | None:
    """The rest of the line after the last 'the answer is', 'Answer:' or '####'."""
    all_found = list(_STATED.finditer(text))
    if not all_found:
        return None
    found = all_found[-1]
    return (found[1] or found[2]).strip().strip("*").strip() or None


def number(text: str) -> str | None:
    r"""A reply's number in its shortest form: boxed, else stated, else the last one.

    Examples
    --------
    >>> number("So she pays $1,200.50 in all. The answer is $1,200.50.")
    '1200.5'
    """
    text = after_thinking(text)
    box, said = boxed(text), stated(text)
    for place, found in ((box, 0), (said, 0), (text, -1)):
        value = None if place is None else _number(place, found)
        if value is not None:
            return value
    return None


def _number(text: str, which: int) -> str | None:
    text = re.sub(r"\\[,!]|\\?\$", "", text).replace("{,}", ",").replace("\u2212", "-").replace("−", "-")
    text = _FRACTION.sub(lambda found: _quotient(found[1], found[2]), text)
    if which == 0:
        text = _RATIO.sub(lambda found: _quotient(found[1], found[2]), text)
    text = re.sub(r"(?<=\d)\s*-\s*(?=\d)", " ", text)  # '3-4' is no minus four
    found = _NUMBER.findall(text)
    return shortest(found[which]) if found else None


def _quotient(above: str, below: str) -> str:
    return str(Decimal(above) / Decimal(below)) if int(below) and len(above) < 20 and len(below) < 20 else " "


def shortest(text: str) -> str | None:
    """A decimal number without what says nothing (commas, outer zeros, decimals after the ninth); ``None`` if it is none."""
    try:
        value = Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
    if not value.is_finite() or value.adjusted() > _LARGEST:
        return None
    plain = f"{value.quantize(_STEP, context=_CONTEXT):f}"  # 109.00000000000001 is 109
    plain = plain.rstrip("0").rstrip(".") if "." in plain else plain
    sign = "-" if plain.startswith("-") else ""
    digits = plain.lstrip("-").lstrip("0")
    digits = f"0{digits}" if not digits or digits.startswith(".") else digits
    return digits if digits == "0" else sign + digits


def letter(text: str, last: str = "J") -> str | None:
    r"""A reply's option from A to ``last``: boxed, else stated, else the last one set off as '(B)', '**B**' or alone on its line.

    Examples
    --------
    >>> letter("Hence the answer is (C) mitosis.")
    'C'
    """
    text = after_thinking(text)
    box, span = boxed(text), f"[A-{last}]"
    if box is not None:
        found = re.fullmatch(rf"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{{)?\W*({span})(?:\W.*)?", box.strip(), re.DOTALL)
        if found:
            return found[1]
    said = [found[1] or found[2] for found in _STATED.finditer(text)]
    for place in reversed(said):
        found = re.match(
            rf"(?:option|choice)?[\s*_(\[`$\"']*(?:\\(?:text|textbf|boxed)\{{)?\(?({span})(?![\w'])",
            place,
            re.IGNORECASE,
        )
        if found and (found[1].isupper() or len(place.strip(" .)*")) == 1):
            return found[1].upper()
    alone = re.findall(
        rf"\(({span})\)|\*\*\(?({span})\)?[.:)]?(?:\*\*|\s)|^\W*({span})\W*$|^({span})[.):]\s|\b(?:[Oo]ption|[Cc]hoice)\s+({span})\b",
        text,
        re.MULTILINE,
    )
    if alone:
        return next((option for option in alone[-1] if option), None)
    whole = re.fullmatch(rf"\W*({span})\W*", text, re.IGNORECASE)
    return whole[1].upper() if whole else None


def latex(text: str) -> str | None:
    r"""A reply's mathematical expression in a plain form: boxed, else stated, else the last ``$…$``, else the last number.

    Examples
    --------
    >>> latex(r"Thus the answer is $\boxed{ \left( 3, \dfrac{\pi}{2} \right) }$.")
    '(3,\\frac{\\pi}{2})'
    """
    text = after_thinking(text)
    said, formulas = stated(text), re.findall(r"\$([^$]+)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", text, re.DOTALL)
    found = boxed(text)
    if found is None and said is not None:
        inner = re.match(r"\$+([^$]+)\$+|\\\((.+?)\\\)|\\\[(.+?)\\\]", said)
        found = next(part for part in inner.groups() if part) if inner else said
    if found is None and formulas:
        found = next(part for part in formulas[-1] if part)
    if found is None:
        return number(text)
    return plain_latex(found) or None


def plain_latex(text: str) -> str:
    """LaTeX without what only sets it (spaces, sizes of brackets, text boxes, some units, ``x =``); signs like √ become words."""
    text = text.strip(" \t\r\n$_*")
    for sign, word in _SIGNS.items():
        text = text.replace(sign, word)
    text = re.sub(r"(?<![\\a-zA-Z])sqrt\s*(?=[({\d])|√", r"\\sqrt", text)
    text = re.sub(r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}", re.sub(r"\\sqrt\s*(\d{2,})", r"\\sqrt{\1}", text))
    text = re.sub(r"\\(?:left|right|big|Big|bigg|Bigg|displaystyle|limits)(?![a-zA-Z])\s*", "", text)
    text = re.sub(r"\\[dt]frac(?![a-zA-Z])", r"\\frac", text)
    text = re.sub(r"\\(?:text|textbf|textit|textrm|mbox|mathrm|mathbf)\s*\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"\\[,;:!\s]|~|\\q?quad(?![a-zA-Z])", " ", text)
    text = re.sub(r"\^\s*\{?\s*\\circ\s*\}?|\\[$%]|%|\\degree", "", text)
    text = re.sub(r"^\s*[a-zA-Z]\s*=\s*(?=[^=]+$)", "", text)
    text = re.sub(r"(?<=\d),\s?(?=\d{3}(?:\D|$))(?<!\d{4},)", "", text) if re.fullmatch(r"[\s\d,.$-]+", text) else text
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"(?<![a-zA-Z])\s+|\s+(?![a-zA-Z])", "", text)
    return text.rstrip(".").strip()


def program(text: str) -> str | None:
    """A reply's Python: the last fenced block that defines a function (tests apart), else the last block, else the reply itself.

    ``None`` if there is no block and the reply is not Python.
    """
    text = after_thinking(text)
    blocks = [found[2] for found in _FENCE.finditer(text) if found[1].lower() in ("", "python", "python3", "py")]
    if blocks:
        return next((block for block in reversed(blocks) if _defines(block)), blocks[-1]).strip("\n") or None
    start = _CODE_START.search(text)
    if start is None:
        return None
    lines = text[start.start() :].splitlines()
    for stop in range(len(lines), 0, -1):
        code = "\n".join(lines[:stop])
        if _defines(code):
            return code.rstrip()
    return None


def parse_python(source: str) -> ast.Module:
    """The syntax tree of a source that nobody vouches for; without warnings, and SyntaxError whatever is wrong with it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # '\\d' and the like are the author's concern, not the user's
        try:
            return ast.parse(source)
        except (ValueError, RecursionError, MemoryError) as error:
            raise SyntaxError(str(error)) from error


def _defines(code: str) -> bool:
    try:
        body = parse_python(code).body
    except SyntaxError:
        return False
    names = [part.name for part in body if isinstance(part, ast.FunctionDef | ast.ClassDef)]
    return any(not name.startswith(("test", "Test")) for name in names)
