"""A folder that is a Hugging Face Space: the page where agents play, for everybody with a browser."""

import re
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from huggingface_hub import CommitInfo, SpaceCardData
from jinja2 import Environment, StrictUndefined

from hf_seqrl import installation
from hf_seqrl.hub.edited_card import keep_edited, sealed
from hf_seqrl.hub.folder import CARD_NAME, GENERATED_CARD_NAME, replacing
from hf_seqrl.hub.players import Player
from hf_seqrl.hub.pushing import open_destination
from hf_seqrl.hub.requirements import requirement

_MUJOCO = "gymnasium[mujoco]"
_AGENTS = "agents"  # the folder for those that are not on the Hub
# the README that the Hub gives a new Space, which is nobody's text
_OF_THE_HUB = re.compile(r"---\n.*?\n---\s*Check out the configuration reference at \S+\s*", re.DOTALL)


def write_space(players: Sequence[Player], folder: str | Path, title: str | None = None) -> Path:
    """Write `app.py`, `requirements.txt` and a README with the Space's metadata; agents of this disk go along.

    The folder appears whole or not at all.

    Args:
        players: The agents of the page.
        folder (`str` or `Path`): It must not exist.
        title (`str`, *optional*): Of the Space; defaults to the agents' names.

    Raises:
        FileExistsError: There is something at `folder` already.
    """
    if Path(folder).exists():
        raise FileExistsError(f"{folder} exists already: choose another name for the Space's folder, or remove it.")
    with replacing(folder) as aside:
        _write_files(players, aside, title)
    return Path(folder)


def push_space(
    players: Sequence[Player],
    repo_id: str,
    *,
    title: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload the page",
) -> CommitInfo:
    """Put the page on the Hub as a Space, in one commit; the Space is made where absent.

    The files of a page that was there before are replaced. A README that somebody has edited stays, with a warning.

    Args:
        players: The agents of the page; those of this disk are put into the Space.
        repo_id (`str`): For instance `me/watch-my-agents`.
        title (`str`, *optional*): Of the Space; defaults to the agents' names.
        private (`bool`, *optional*): Of a new Space; defaults to the account's setting.
        token (`str` or `bool`, *optional*): Defaults to the one that `hf auth login` stored.
        commit_message (`str`, *optional*): The commit's first line.

    Raises:
        OSError: The Hub cannot be reached or refuses; or somebody else pushed meanwhile, and nothing was changed.
    """
    destination = open_destination(repo_id, repo_type="space", private=private, token=token)
    with TemporaryDirectory() as directory:
        _write_files(players, Path(directory), title)
        former = destination.card
        if former is not None and not _OF_THE_HUB.fullmatch(former):
            keep_edited(Path(directory), former, destination.repo_id)
        return destination.commit(directory, commit_message, stale=[f"{_AGENTS}/**", GENERATED_CARD_NAME])


def _write_files(players: Sequence[Player], folder: Path, title: str | None) -> None:
    facts = {
        "sources": [_bring(player, folder) for player in players],
        "env_id": next((player.env_id for player in players if player.env_id != player.agent.env_id), None),
        "players": players,
        "title": title or f"Watch {players[0].name.split('/')[-1]} play",
        "requirements": sorted({name for player in players if (name := requirement(player.env_id)) is not None}),
        "package": installation.requirement("demo"),
        "install_command": installation.install_command("demo"),
    }
    # MuJoCo draws without a graphics card through a library of Debian's
    for name in ("app.py", "requirements.txt", *(["packages.txt"] if _MUJOCO in facts["requirements"] else [])):
        (folder / name).write_text(_rendered(name, facts), encoding="utf-8")
    card = _rendered(CARD_NAME, {**facts, "card_data": _metadata(players, facts["title"]).to_yaml()})
    (folder / CARD_NAME).write_text(sealed(card), encoding="utf-8")


def _metadata(players: Sequence[Player], title: str) -> SpaceCardData:
    return SpaceCardData(
        title=title,
        emoji="\N{BICYCLE}",
        sdk="gradio",
        sdk_version=version("gradio"),
        app_file="app.py",
        models=[player.source for player in players if not player.is_local] or None,
        tags=["reinforcement-learning", "hf-seqrl"],
    )


def _rendered(name: str, facts: dict[str, Any]) -> str:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    template = files("hf_seqrl.hub").joinpath("templates", "space", f"{name}.jinja")
    return environment.from_string(template.read_text(encoding="utf-8")).render(facts)


def _bring(player: Player, folder: Path) -> str:
    """The name by which the Space loads an agent; one of this disk is put into the Space."""
    if not player.is_local:
        return player.source
    place = f"{_AGENTS}/{player.name}"
    player.agent.save_pretrained(folder / place)
    return place
