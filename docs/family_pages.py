"""A hook of mkdocs: the page of a family is the README in the family's folder, with its links made relative to the page."""

import re
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_INCLUDED = re.compile(r'^--8<-- "(hf_seqrl/models/\w+/README\.md)"$', flags=re.MULTILINE)


def on_page_markdown(markdown: str, *, page: Any, **kwargs: object) -> str:
    """Put the README in the place of the line that includes it."""
    if not page.file.src_uri.startswith("families/"):
        return markdown
    return _INCLUDED.sub(lambda line: (_ROOT / line[1]).read_text(encoding="utf-8"), markdown).replace(
        "](../../../docs/", "](../"
    )
