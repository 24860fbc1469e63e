"""A Hugging Face Space with the demo page and the agents that it shows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import CommitInfo, SpaceCardData
from markupsafe import Markup

from hf_seqrl import installation
from hf_seqrl.data.environment_ids import check_environment, requirement
from hf_seqrl.hub.agent import Agent
from hf_seqrl.hub.card import keep_edited, sealed
from hf_seqrl.hub.checkpoint import CARD_NAME, GENERATED_CARD_NAME, replacing
from hf_seqrl.hub.markdown import render
from hf_seqrl.hub.pushing import open_destination


@dataclass(frozen=True)
class Player:
    """An agent and its environment.

    Attributes:
        name: Its Hub id, or the name of its folder.
        source: The name or path from which it was loaded.
        agent: The agent.
        env_id: The gymnasium id of the environment.
    """

    name: str
    source: str
    agent: Agent
    env_id: str

    @property
    def is_local(self) -> bool:
        """Whether it was loaded from a folder."""
        return Path(self.source).is_dir()


def load_players(sources: Sequence[str], env_id: str | None = None, trust_remote_code: bool = False) -> list[Player]:
    """Load agents and create their environments once as a check.

    Args:
        sources: Folders and Hub ids.
        env_id (`str`, *optional*): The environment; defaults to the one that each agent was trained for.
        trust_remote_code (`bool`, *optional*): As for `Agent.from_pretrained`.

    Raises:
        ValueError: An agent names no environment, an environment cannot be created here, or two agents have the same name.
    """
    players = [_player(source, env_id, trust_remote_code) for source in sources]
    names = [player.name for player in players]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two agents are called {name!r}: expected different ones; rename a folder.")
    return players


def _player(source: str, env_id: str | None, trust_remote_code: bool) -> Player:
    agent = Agent.from_pretrained(source, trust_remote_code=trust_remote_code)
    env_id = env_id or agent.env_id
    if env_id is None:
        raise ValueError(
            f"the agent {source!r} does not name its environment: give the gymnasium id of one (--env, env_id=...)."
        )
    check_environment(env_id)
    name = Path(source).resolve().name if Path(source).is_dir() else source
    return Player(name, source, agent, env_id)


_MUJOCO = "gymnasium[mujoco]"
_AGENTS = "agents"  # the folder for local agents
# the README that the Hub gives a new Space, which is nobody's text
_OF_THE_HUB = re.compile(r"---\n.*?\n---\s*Check out the configuration reference at \S+\s*", re.DOTALL)


def write_space(players: Sequence[Player], folder: str | Path, title: str | None = None) -> Path:
    """Write `app.py`, `requirements.txt` and a README with the Space's metadata; local agents are copied.

    The folder is written completely or not at all.

    Args:
        players: The agents of the page.
        folder (`str` or `Path`): It must not exist.
        title (`str`, *optional*): Title of the Space; defaults to the agents' names.

    Raises:
        FileExistsError: `folder` exists.
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
    """Upload the page to the Hub as a Space, in one commit; the Space is created if missing.

    The files of an existing page are replaced. A README that was edited by hand is kept, with a warning.

    Args:
        players: The agents of the page; local ones are uploaded with the Space.
        repo_id (`str`): For instance `me/watch-my-agents`.
        title (`str`, *optional*): Title of the Space; defaults to the agents' names.
        private (`bool`, *optional*): Visibility of a new Space; defaults to the account's setting.
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
        (folder / name).write_text(render(f"space/{name}.jinja", **facts), encoding="utf-8")
    card = render(f"space/{CARD_NAME}.jinja", **facts, card_data=Markup(_metadata(players, facts["title"]).to_yaml()))
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


def _bring(player: Player, folder: Path) -> str:
    """The name by which the Space loads an agent; a local agent is uploaded with the Space."""
    if not player.is_local:
        return player.source
    place = f"{_AGENTS}/{player.name}"
    player.agent.save_pretrained(folder / place)
    return place
