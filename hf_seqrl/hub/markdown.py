"""Rendering of cards and pages from templates, with untrusted text (ids, names, provenance, commands) escaped."""

import json
import re
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

_HARMLESS = re.compile(r"[\w :./,+=()-]*", re.ASCII)


def render(template: str, **facts: Any) -> str:
    """Fill a template of `hub/templates/`. Markdown is escaped as HTML is; code goes through the filters.

    Args:
        template: Its name, for instance `agent_card.md.jinja`.
        facts: What it names.
    """
    return _template(template).render(facts)


@cache
def _template(name: str) -> Template:
    environment = Environment(
        undefined=StrictUndefined, keep_trailing_newline=True, autoescape=name.endswith(".md.jinja")
    )
    filters = {"number": number, "plain": plain, "code": code, "fenced": fenced, "literal": literal}
    environment.filters.update(filters)
    text = files("hf_seqrl.hub").joinpath("templates", *name.split("/")).read_text(encoding="utf-8")
    return environment.from_string(text)


def number(value: Any) -> str:
    """A number with few digits; anything else as `plain` text.

    Example:
        >>> number(3600.0), number(0.1234567), number(1234.5678)
        ('3600', '0.1235', '1234.6')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value)
    if float(value).is_integer():
        return f"{int(value)}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4g}"


def plain(value: Any) -> str:
    """Untrusted text in a line of Markdown: unchanged if it has no markup, else as code.

    Example:
        >>> str(plain("CartPole-v1")), str(plain("[a](b)"))
        ('CartPole-v1', '`[a](b)`')
    """
    text = str(value)
    return Markup(escape(text)) if _HARMLESS.fullmatch(text) else code(text)


def code(value: Any) -> Markup:
    """Untrusted text as inline code, also in a table cell.

    Example:
        >>> str(code("a ` b"))
        '``a ` b``'
    """
    text = re.sub(r"\s+", " ", _visible(str(value))).replace("|", "\N{BROKEN BAR}")
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") or not text.strip() else ""
    return Markup(f"{ticks}{space}{text}{space}{ticks}")


def fenced(value: Any, language: str = "") -> Markup:
    """Untrusted text as a code block that it cannot close."""
    text = "\n".join(_visible(line) for line in str(value).split("\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return Markup(f"{fence}{language}\n{text}\n{fence}")


def literal(value: Any) -> Markup:
    """A Python literal of a text or a number.

    Example:
        >>> str(literal('say "hi"'))
        '"say \\\\"hi\\\\""'
    """
    return Markup(json.dumps(value))


def _visible(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
