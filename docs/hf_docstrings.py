"""Docstrings in Hugging Face's grammar as Markdown, so that mkdocstrings shows them as they were written."""

import ast
import re
from pathlib import Path
from textwrap import dedent

import griffe

_PACKAGE = Path(__file__).parents[1] / "hf_seqrl" / "__init__.py"
_HEAD = re.compile(r"(Args|Attributes|Raises|Returns|Yields|Examples?):")
_NAME = r"\*{0,2}[A-Za-z_][\w.]*"
_ENTRY = re.compile(rf"(?P<names>{_NAME}(?:, {_NAME})*)(?P<kind> \(.*?\))?:(?P<text> .*)?")
_REFERENCE = re.compile(r"\[`~?([\w.]+)`\](?![(\[])")


class HuggingFaceDocstrings(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: object) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown_of(obj.docstring.value)


def public_modules() -> dict[str, str]:
    """The module of each public name of the package, read from its source."""
    for node in ast.parse(_PACKAGE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "_MODULE_OF_NAME":
            return ast.literal_eval(node.value)
    raise ValueError(f"{_PACKAGE} assigns no _MODULE_OF_NAME: expected the table of public names.")


_MODULES = public_modules()


def markdown_of(docstring: str) -> str:
    """The docstring with its sections as headings and lists, and with its references as links.

    Example:
        >>> print(markdown_of("Counts.\\n\\nArgs:\\n    n (`int`): How\\n        far."))
        Counts.
        <BLANKLINE>
        **Args**
        <BLANKLINE>
        - `n` (`int`): How
            far.
    """
    written: list[str] = []
    lines = docstring.splitlines()
    while lines:
        line = lines.pop(0)
        head = _HEAD.fullmatch(line)
        if head is None:
            written.append(line)
            continue
        block = []
        while lines and (not lines[0] or lines[0].startswith(" ")):
            block.append(lines.pop(0))
        written += [f"**{head[1]}**", "", *_section(head[1], dedent("\n".join(block)).strip().splitlines()), ""]
    return _REFERENCE.sub(_link, "\n".join(written).strip())


def _section(head: str, lines: list[str]) -> list[str]:
    if head in ("Args", "Attributes", "Raises"):
        return _entries(lines)
    if lines and lines[0].startswith(">>>"):
        return ["```pycon", *lines, "```"]
    return lines


def _entries(lines: list[str]) -> list[str]:
    written: list[str] = []
    in_list = False
    for line in lines:
        entry = _ENTRY.fullmatch(line)
        if entry is not None:
            if in_list:
                written.append("")  # or Markdown would take it for an entry of that list
            in_list = False
            names = ", ".join(f"`{name}`" for name in entry["names"].split(", "))
            written.append(f"- {names}{entry['kind'] or ''}:{entry['text'] or ''}")
        elif line.lstrip().startswith("- ") and not in_list:
            written += ["", line]  # Markdown wants an empty line before a list
            in_list = True
        else:
            written.append(line)
    return written


def _link(reference: re.Match) -> str:
    path = reference[1]
    name = path.partition(".")[0]
    if name in _MODULES:
        return f"[`{path}`][{_MODULES[name]}.{path}]"
    return f"`{path.rpartition('.')[2]}`"
