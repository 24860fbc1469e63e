"""Telling a card that this package wrote from one that somebody has edited, so that no edit is lost."""

import re
import warnings
from hashlib import sha256
from pathlib import Path

from huggingface_hub import ModelCard

from hf_seqrl.hub.folder import CARD_NAME, GENERATED_CARD_NAME

_SEAL = "<!-- Written by hf-seqrl ({digest}). An edited card is kept when the repository is written again. -->"
_SEAL_PATTERN = re.compile(re.escape(_SEAL).replace(re.escape("{digest}"), r"([0-9a-f]{16})") + r"\s*\Z")


def sealed(text: str) -> str:
    """A card's text with a last line by which `was_edited` knows it again.

    Example:
        >>> was_edited(sealed("# An agent")), was_edited(sealed("# An agent").replace("An", "My")), was_edited("# Mine")
        (False, True, True)
    """
    text = _plain(text)
    return f"{text}\n\n{_SEAL.format(digest=_digest(text))}\n"


def was_edited(text: str) -> bool:
    """Whether a card is somebody's own text: it has no seal, or not that of what stands above it."""
    seal = _SEAL_PATTERN.search(text)
    return seal is None or seal[1] != _digest(_plain(text[: seal.start()]))


def keep_edited(folder: Path, former: str | None, place: str) -> None:
    """Let an edited card stay: the one in `folder`, just written, then takes a name beside it, and a warning says so.

    A card without any text, as the Hub makes it for a new repository, is not kept, but its metadata are.

    Args:
        folder: Holds the new card.
        former: The text of the card that stands in its place so far, or `None`.
        place: Where that is, for the warning.
    """
    if former is None or not was_edited(former):
        return
    card = folder / CARD_NAME
    if not ModelCard(former, ignore_metadata_errors=True).text.strip():
        _adopt_metadata(card, ModelCard(former))
        return
    card.replace(folder / GENERATED_CARD_NAME)
    card.write_text(former, encoding="utf-8")
    warnings.warn(
        f"the card of {place} was edited by hand, so it stays as it is; the new one is in {GENERATED_CARD_NAME} beside it. "
        f"Take over what you want from there, or delete {CARD_NAME} and write again to have the new card.",
        stacklevel=3,
    )


def _adopt_metadata(card: Path, former: ModelCard) -> None:
    ours = ModelCard.load(card)
    for name, value in former.data.to_dict().items():
        if ours.data.get(name) is None:
            ours.data[name] = value
    text = _SEAL_PATTERN.sub("", ours.content)
    card.write_text(sealed(text), encoding="utf-8")


def _plain(text: str) -> str:
    """Line ends and trailing space are no edits."""
    return "\n".join(line.rstrip() for line in text.splitlines()).rstrip()


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:16]
