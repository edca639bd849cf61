"""The string form of filters, see `lsr.filter`, read by lark."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from lsr.documents import date_of
from lsr.filter import (
    WORDS,
    And,
    Comparison,
    Contains,
    Exists,
    Filter,
    HasAll,
    HasAny,
    In,
    Not,
    Or,
    Range,
    Value,
    check_size,
    excerpt,
    usual_edits,
)
from lsr.filter_json import from_json

if TYPE_CHECKING:
    from lark import Lark, Token

LONGEST = 100_000
# Characters that an error shows before and after the place.
_AROUND = 40
_CHARACTER = r"[^\s\"'(),=<>!]"  # of a token without quotes, which two dots end
_END = rf"(?!(?!\.\.){_CHARACTER})"
_BARE = rf"(?!(?i:{'|'.join(WORDS)}){_END})(?:(?!\.\.){_CHARACTER})+"
QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_LEADING_ZERO = re.compile(r"([+-]?)0+(\d.*)", re.ASCII)
_LIKE_A_DATE = re.compile(r"\d{4}-\d\d?-\d\d?([Tt].*)?", re.ASCII)
# A word without quotes, and what follows it in a pattern.
_PATTERN = re.compile(r"([^*~]+)(\*|~[12]?)?")
# KEY and VALUE are alike: the parser knows which of them can stand at a place.
_GRAMMAR = rf"""
    ?start: either
    either: both (_OR both)*
    both: negation (_AND negation)*
    ?negation: _NOT negation        -> opposite
        | condition
    ?condition: _OPEN either _CLOSE
        | key OPERATOR value        -> comparison
        | key OPERATOR span         -> comparison
        | key _IN values            -> among
        | key _NOT _IN values       -> not_among
        | key _HAS _ANY values      -> has_any
        | key _HAS _ALL values      -> has_all
        | _EXISTS _OPEN key _CLOSE  -> exists
        | _CONTAINS _OPEN (field _COMMA)? text _CLOSE -> contains
    field: VALUE
    text: VALUE PATTERN?
    values: _OPEN value (_COMMA value)* _CLOSE
    span: value _DOTS value         -> between
        | value _DOTS               -> at_least
        | _DOTS value               -> at_most
    key: KEY
    value: VALUE
    KEY: /{_BARE}|{QUOTED}/s
    VALUE: /{_BARE}|{QUOTED}/s
    OPERATOR: "!=" | "<=" | ">=" | "=" | "<" | ">"
    _DOTS: ".."
    _OPEN: "("
    _CLOSE: ")"
    _COMMA: ","
    _OR.2: /or{_END}/i
    _AND.2: /and{_END}/i
    _NOT.2: /not{_END}/i
    _IN.2: /in{_END}/i
    _HAS.2: /has{_END}/i
    _EXISTS.2: /exists{_END}/i
    _CONTAINS.2: /contains(?=\s*\()/i
    PATTERN: /\*|~[12]?/
    _ANY: /any{_END}/i
    _ALL: /all{_END}/i
    %ignore /\s+/
"""
# What an error calls the terminals, in the order in which it lists them.
_NAMES = {
    "KEY": "a key",
    "OPERATOR": "one of = != < <= > >=",
    "VALUE": "a value",
    "_DOTS": "..",
    "_COMMA": "a comma",
    "_OPEN": "(",
    "_CLOSE": ")",
    "PATTERN": "one of * ~ ~1 ~2",
    **{f"_{word.upper()}": f"`{word}`" for word in (*WORDS, "contains", "any", "all")},
    "$END": "the end",
}


class _TokenError(ValueError):
    """A token that stands for nothing; the place where it starts is the second argument."""


class _Builder:
    """Makes a filter of what the parser finds; lark calls the method named by a rule."""

    def either(self, parts: list[Filter]) -> Filter:
        return Or(tuple(parts)) if len(parts) > 1 else parts[0]

    def both(self, parts: list[Filter]) -> Filter:
        return And(tuple(parts)) if len(parts) > 1 else parts[0]

    def opposite(self, parts: list[Filter]) -> Filter:
        return Not(parts[0])

    def comparison(self, parts: list[Any]) -> Filter:
        key, operator, value = parts
        return Comparison(key, str(operator), value)  # type: ignore[arg-type]

    def among(self, parts: list[Any]) -> Filter:
        return In(*parts)

    def not_among(self, parts: list[Any]) -> Filter:
        return Not(In(*parts))

    def has_any(self, parts: list[Any]) -> Filter:
        return HasAny(*parts)

    def has_all(self, parts: list[Any]) -> Filter:
        return HasAll(*parts)

    def exists(self, parts: list[Any]) -> Filter:
        return Exists(*parts)

    def contains(self, parts: list[Any]) -> Filter:
        (text, pattern), field = parts[-1], parts[0] if len(parts) > 1 else None
        if not pattern:
            return Contains(text, field)
        if pattern == "*":
            return Contains(text, field, "prefix")
        return Contains(text, field, "fuzzy", int(pattern[1:] or usual_edits(text)))

    def field(self, parts: list[Token]) -> str:
        return self.key(parts)

    def text(self, parts: list[Token]) -> tuple[str, str]:
        """Return words and what they are a pattern of: "" or the characters that say it."""
        if len(parts) > 1 or parts[0][0] in "\"'":
            return self.key(parts[:1]), str(parts[1]) if len(parts) > 1 else ""
        found = _PATTERN.fullmatch(parts[0])
        if not found:
            raise _TokenError(
                f"{parts[0]} is no pattern: * stands at the end of a word, as do ~, ~1 and ~2; a "
                "text with one of these characters needs quotes",
                parts[0].start_pos,
            )
        return found[1], found[2] or ""

    def values(self, parts: list[Value]) -> tuple[Value, ...]:
        return tuple(parts)

    def between(self, parts: list[Value]) -> Range:
        return Range(*parts)

    def at_least(self, parts: list[Value]) -> Range:
        return Range(low=parts[0])

    def at_most(self, parts: list[Value]) -> Range:
        return Range(high=parts[0])

    def key(self, parts: list[Token]) -> str:
        return _unquoted(parts[0]) if parts[0][0] in "\"'" else str(parts[0])

    def value(self, parts: list[Token]) -> Value:
        return _unquoted(parts[0]) if parts[0][0] in "\"'" else _bare(parts[0])


def read_filter(given: str | Mapping[str, Any] | Filter) -> Filter:
    """The filter that is given in one of its forms: a string, JSON, or a tree.

    Raises:
        ValueError: it is no filter, or too deep or too large.
    """
    if isinstance(given, str):
        return parse(given)
    if isinstance(given, Filter):
        check_size(given)
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"`filter` must be a string or an object, got {excerpt(given)}")
    return from_json(given)


@lru_cache(256)
def parse(text: str) -> Filter:
    """The filter that a string stands for, see `lsr.filter`.

    Raises:
        ValueError: the string is no filter; the message names the place, counted in characters
            from 1, and what could stand there. Or the filter is too deep or too large.
    """
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    if len(text) > LONGEST:
        raise ValueError(
            f"a filter in string form must have at most {LONGEST:,} characters, got {len(text):,}; "
            "its JSON form may be longer"
        )
    try:
        found: Filter = _parser().parse(text, start="start")  # type: ignore[assignment]
    except UnexpectedToken as error:
        at_end = error.token.type == "$END"
        at = len(text.rstrip()) if at_end else (int(error.token.start_pos or 0))
        raise ValueError(_unexpected(text, at, error.accepts or error.expected)) from None
    except UnexpectedCharacters as error:
        raise ValueError(_unexpected(text, error.pos_in_stream or 0, error.allowed or ())) from None
    except _TokenError as error:
        message, at = error.args
        raise ValueError(f"filter, character {at + 1}: {message}") from None
    except ValueError as error:
        raise ValueError(f"filter {_around(text, 0)}: {error}") from None
    check_size(found)
    return found


def parse_key(text: str) -> str:
    """The key that a filter in string form means by a text.

    Raises:
        ValueError: the text is no key.
    """
    return str(_part(text, "key", "a key, in quotes where it holds white space or ( ) , = < > !"))


def parse_range(text: str) -> Range:
    """The range that a filter in string form means by a text, such as ``1950..2000``.

    Raises:
        ValueError: the text is no range.
    """
    found: Range = _part(text, "span", "a range: LOW..HIGH, LOW.. or ..HIGH")
    return found


def _part(text: str, start: str, wanted: str) -> Any:
    from lark.exceptions import UnexpectedInput

    try:
        return _parser().parse(text, start=start)
    except UnexpectedInput:
        raise ValueError(f"expected {wanted}; got {excerpt(text)}") from None
    except _TokenError as error:
        raise ValueError(error.args[0]) from None


@cache
def _parser() -> Lark:
    from lark import Lark

    # The builder makes the filter while the text is read, so that no depth of it is too much.
    return Lark(
        _GRAMMAR,
        parser="lalr",
        start=["start", "key", "span"],
        transformer=_Builder(),
        maybe_placeholders=False,
    )


def _unexpected(text: str, at: int, expected: Any) -> str:
    names = [name for terminal, name in _NAMES.items() if terminal in set(expected)]
    wanted = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
    if at >= len(text.rstrip()):
        found = "the end" if text.strip() else "an empty text"
    else:
        found = _around(text, at)
    place = f"filter, character {at + 1}"
    if at < len(text) and text[at] in "\"'" and not re.match(QUOTED, text[at:], re.DOTALL):
        return f"{place}: the quote {text[at]} is never closed"
    reserved = re.match(rf"(?i:{'|'.join(WORDS)}){_END}", text[at:])
    if reserved and {"KEY", "VALUE"} & set(expected):
        return (
            f"{place}: expected {wanted}, got {reserved[0]}, which needs quotes as a key or value"
        )
    if text[at : at + 1] == "," and "_DOTS" in expected:
        found += "; several values are written KEY in (A, B)"
    return f"{place}: expected {wanted}, got {found}"


def _around(text: str, at: int) -> str:
    shown = text[at : at + _AROUND]
    return f"{shown!r}" if at + _AROUND >= len(text) else f"{shown + '…'!r}"


def _bare(token: Token) -> Value:
    """The value that a token without quotes stands for."""
    text, at = str(token), token.start_pos
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if _NUMBER.fullmatch(text):
        if zeros := _LEADING_ZERO.fullmatch(text):
            raise _TokenError(
                f"{text} begins with 0: write {json.dumps(text)} for the string, or "
                f"{zeros[1]}{zeros[2]} for the number",
                at,
            )
        return _number(text, at)
    found = date_of(text)
    if found is None and _LIKE_A_DATE.fullmatch(text):
        raise _TokenError(
            f"{text} is not a date such as 2025-01-31 or 2025-01-31T12:00:00Z; a string that looks "
            "like one needs quotes",
            at,
        )
    return text if found is None else found


def _number(text: str, at: int | None) -> int | float:
    if text.lstrip("+-").isdigit():
        if len(text) < 100:
            return int(text)
    elif math.isfinite(number := float(text)):
        return number
    shown = text if len(text) < 30 else f"{text[:20]}…"
    raise _TokenError(f"the number {shown} is too large; a string needs quotes", at)


_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)


def _unquoted(token: Token) -> str:
    """The text inside quotes, its escapes resolved: those of JSON, and the single quote."""

    def resolved(match: re.Match[str]) -> str:
        escape = match[1]
        if escape == "'":
            return escape
        if len(escape) > 1:
            return chr(int(escape[1:], 16))
        if escape not in '"\\/bfnrt':
            raise _TokenError(
                f"\\{escape} is not an escape; a backslash is written \\\\", token.start_pos
            )
        return str(json.loads(f'"\\{escape}"'))

    text = _ESCAPE.sub(resolved, str(token)[1:-1])
    # Two escapes may be the halves of one character; halves alone are refused later.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
