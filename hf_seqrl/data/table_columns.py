"""Which columns of a table with one row per step play which role."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from hf_seqrl.data.column_options import check_final_observations
from hf_seqrl.data.cutting import CutRule

GAPS = ("refuse", "allow")
FILES = ("continue", "restart")

# column of a LeRobot data set -> its role
_LEROBOT = {
    "episode": "episode_index",
    "step": "frame_index",
    "observation": "observation.state",
    "action": "action",
    "reward": "next.reward",
    "termination": "next.done",
}


@dataclass(frozen=True)
class StepTableColumns:
    """The names of the columns of a table with one row per step.

    Attributes:
        episode: Which episode the step belongs to: numbers or names; several columns together make one id.
        observation, action: One column of lists or numbers, or several columns of numbers or words; `*` stands for any characters.
        reward: Raw rewards; `None` where there are none.
        step: By which to sort the steps of an episode, numbers or times; without it the table's order counts.
        termination, truncation: Whether the episode ended with this step by itself, or was cut. Without a termination
            column no episode counts as terminated, without a truncation column every other one counts as truncated.
        time_format: How a step column of text is read.
        cut: Where else to cut. Without an episode column the whole table is one log.
        gaps, files, final_observations: As in `hf_seqrl.data.column_options.ColumnOptions`.
    """

    episode: str | Sequence[str] | None
    observation: str | Sequence[str]
    action: str | Sequence[str]
    reward: str | None
    step: str | None = None
    termination: str | None = None
    truncation: str | None = None
    time_format: str | None = None
    cut: CutRule = field(default_factory=CutRule)
    gaps: str = "refuse"
    files: str | None = None
    final_observations: str = "refuse"

    def __post_init__(self) -> None:
        absent = [name for name in ("observation", "action") if getattr(self, name) is None]
        if absent:
            raise ValueError(
                f"no column is named for {absent[0]!r}: a table with one row per step needs the names of its episode, "
                "observation, action and reward columns, for instance observation='state' or observation=['x', 'y']."
            )
        check_final_observations(self.final_observations)
        for name, choices in (("gaps", GAPS), ("files", (None, *FILES))):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected one of {', '.join(map(str, choices))}.")

    @property
    def roles(self) -> dict[str, list[str]]:
        """The columns of each role."""
        given = {
            "episode": self.episode,
            "observation": self.observation,
            "action": self.action,
            "reward": self.reward,
            "step": self.step,
            "termination": self.termination,
            "truncation": self.truncation,
            "cut_at_change": self.cut.change,
        }
        return {
            role: [names] if isinstance(names, str) else list(names)
            for role, names in given.items()
            if names is not None
        }

    @property
    def all(self) -> list[str]:
        """Every column that is named, once."""
        return list(dict.fromkeys(name for names in self.roles.values() for name in names))

    @property
    def plain(self) -> list[str] | None:
        """Every column, where none is a pattern."""
        return None if any(_is_pattern(name) for name in self.all) else self.all

    def resolved(self, available: Sequence[str]) -> "StepTableColumns":
        """The same with the columns that the patterns stand for.

        Raises:
            ValueError: names all that are none of the `available` columns.
        """
        problems = []
        changes: dict[str, Any] = {}
        known = set(available)
        for role, names in self.roles.items():
            found = []
            for name in names:
                matching = [one for one in available if fnmatchcase(one, name)] if _is_pattern(name) else []
                if name in known:
                    found.append(name)
                elif matching:
                    found += matching
                else:
                    problems.append(f"the table has no column {name!r}, which was named as {role}")
            if role in ("observation", "action") and found != names:
                changes[role] = found
        if problems:
            shown = ", ".join(list(available)[:30]) + (", ..." if len(available) > 30 else "")
            hint = "; for demonstrations without rewards give reward=None" if "as reward" in " ".join(problems) else ""
            raise ValueError(f"{'; '.join(problems)}: expected one of {shown}{hint}.")
        twice = (
            next((name for name in self.all if list(available).count(name) > 1), None)
            if len(known) < len(available)
            else None
        )
        if twice is not None:
            raise ValueError(f"the table has the column {twice!r} more than once: rename one of them.")
        return StepTableColumns(**{**self.__dict__, **changes})


def lerobot_columns(column_names: Sequence[str], has_rewards: bool = True) -> StepTableColumns | None:
    """The roles of the columns of a LeRobot data set, `None` for any other.

    Raises:
        ValueError: it holds no rewards.

    Example:
        >>> lerobot_columns(["observation.state", "action", "episode_index", "next.reward"]).reward
        'next.reward'
    """
    if not {"episode_index", "observation.state", "action"} <= set(column_names):
        return None
    if has_rewards and "next.reward" not in column_names:
        raise ValueError(
            "this LeRobot data set holds no column 'next.reward': expected rewards; give reward=None for demonstrations without "
            "rewards, or name another column, "
            "load_trajectories(..., episode='episode_index', observation='observation.state', action='action', reward=...)."
        )
    roles = {role: name for role, name in _LEROBOT.items() if name in column_names}
    return StepTableColumns(**{"reward": None, **roles} if has_rewards else {**roles, "reward": None})


def _is_pattern(name: str) -> bool:
    return any(sign in name for sign in "*?")
