"""Agents that can be watched on this machine: each with an environment that can be made here."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gymnasium

from hf_seqrl.hub.agent import Agent
from hf_seqrl.hub.requirements import requirement


@dataclass(frozen=True)
class Player:
    """An agent and where it plays.

    Attributes:
        name: To call it by: its Hub id, or the name of its folder.
        source: By which it was loaded.
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


def load_players(sources: Sequence[str], env_id: str | None = None) -> list[Player]:
    """Load agents and try their environments.

    Args:
        sources: Folders and Hub ids.
        env_id (`str`, *optional*): Where they play; defaults to the environment that each was trained for.

    Raises:
        ValueError: An agent names no environment, one cannot be made here, or two agents have the same name.
    """
    players = [_player(source, env_id) for source in sources]
    names = [player.name for player in players]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two agents are called {name!r}: expected different ones; rename a folder.")
    return players


def _player(source: str, env_id: str | None) -> Player:
    agent = Agent.from_pretrained(source)
    env_id = env_id or agent.env_id
    if env_id is None:
        raise ValueError(
            f"the agent {source!r} does not name its environment: give the gymnasium id of one (--env, env_id=...)."
        )
    try:
        gymnasium.make(env_id).close()
    except (gymnasium.error.Error, ImportError) as error:
        raise ValueError(
            f"{env_id!r}, where {source!r} plays, cannot be made here ({error}). {_remedy(env_id)}"
        ) from error
    name = Path(source).resolve().name if Path(source).is_dir() else source
    return Player(name, source, agent, env_id)


def _remedy(env_id: str) -> str:
    if env_id in gymnasium.registry:
        return f'Install what it needs: pip install "{requirement(env_id)}".'
    return "Install the package that brings it, and put its module in front: --env module:Environment-v0 has gymnasium import it."
