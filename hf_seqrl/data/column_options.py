"""How the columns of a source are read, as one set of options for `load_trajectories` and for the commands."""

from dataclasses import dataclass, field, fields
from typing import Any

DEFAULT_REWARD = "rewards"
FINAL_OBSERVATIONS = ("refuse", "drop")


def check_final_observations(choice: str) -> None:
    """Raise for another choice than those there are."""
    if choice not in FINAL_OBSERVATIONS:
        raise ValueError(f"final_observations is {choice!r}: expected one of {', '.join(FINAL_OBSERVATIONS)}.")


@dataclass
class ColumnOptions:
    """How the columns of a source are read: arguments of `load_trajectories`, and options of the commands.

    Attributes:
        episode: The columns that tell the episodes of a table apart (several together make one id).
        step: The column to sort an episode's steps by.
        time_format: How a step column of text is read, as in `datetime.strptime`: `"%d/%m/%Y %H:%M"`.
        observation, action: Columns; `*` and `?` stand for any characters: `sensor_*`.
        reward: The column of rewards; `None` (`none` on the command line) for demonstrations without rewards.
        termination, truncation: Columns of flags.
        cut_every, cut_at_gap, cut_at_change: Where to cut a log into episodes: after so many steps; where the step column
            advances by more than so much (`"10min"`, or a number); where one of these columns changes.
        gaps: Whether steps may be missing in a column that counts them: `"refuse"` or `"allow"`.
        files: What an episode id means that comes again in the next file of a folder: `"continue"` for the same episode,
            `"restart"` for another one.
        separator, decimal, encoding: Of a text file; found out by default (encoding: UTF-8).
        sheet: Of a workbook; the first by default.
        layout: What the first axes of arrays are: `"steps"`, `"episodes"`, `"time_env"` or `"env_time"`.
        final_observations: `"drop"` for data with one observation more than actions in each episode.
        out_of_bounds: What to do about actions outside the bounds of their space: `"refuse"`, `"clip"`, or `"rescale"` for
            mapping the range of the data to the bounds.
    """

    _argument_group_name = "the columns of a table or data set"

    episode: list[str] | None = field(
        default=None, metadata={"help": "Columns that tell the episodes of a table apart."}
    )
    step: str | None = field(default=None, metadata={"help": "The column to sort the steps of an episode by."})
    time_format: str | None = field(
        default=None, metadata={"help": "How text in the step column is read, for instance %%d/%%m/%%Y."}
    )
    observation: list[str] | None = field(
        default=None, metadata={"help": "Columns of the observations; * stands for any characters."}
    )
    action: list[str] | None = field(default=None, metadata={"help": "Columns of the actions."})
    reward: str | None = field(
        default=DEFAULT_REWARD, metadata={"help": "The column of rewards; none for demonstrations without rewards."}
    )
    termination: str | None = field(
        default=None, metadata={"help": "The column that is true where an episode ends by itself."}
    )
    truncation: str | None = field(default=None, metadata={"help": "The column that is true where an episode is cut."})
    cut_every: int | None = field(default=None, metadata={"help": "Cut a log into episodes after so many steps."})
    cut_at_gap: str | None = field(
        default=None, metadata={"help": "Cut where the step column advances by more than this: 5, or 10min."}
    )
    cut_at_change: list[str] | None = field(default=None, metadata={"help": "Cut where one of these columns changes."})
    gaps: str = field(
        default="refuse", metadata={"help": "refuse or allow missing numbers in a step column that counts."}
    )
    files: str | None = field(
        default=None, metadata={"help": "An episode id that comes again in the next file: continue or restart."}
    )
    separator: str | None = field(
        default=None, metadata={"help": "Between the columns of a text file; found out by default."}
    )
    decimal: str | None = field(
        default=None, metadata={"help": "The decimal point of a text file; found out by default."}
    )
    encoding: str | None = field(default=None, metadata={"help": "Of a text file; UTF-8 by default."})
    sheet: str | None = field(default=None, metadata={"help": "The sheet of a workbook; the first by default."})
    layout: str | None = field(
        default=None, metadata={"help": "First axes of arrays: steps, episodes, time_env or env_time."}
    )
    final_observations: str = field(
        default="refuse", metadata={"help": "An observation after the last action of an episode: refuse or drop."}
    )
    out_of_bounds: str = field(
        default="refuse", metadata={"help": "Actions outside their bounds: refuse, clip or rescale."}
    )

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of `load_trajectories` that these options give.

        Example:
            >>> ColumnOptions(episode=["run"], reward="none", cut_every=100).arguments()
            {'episode': 'run', 'reward': None, 'cut_every': 100}
        """
        given = {option.name: getattr(self, option.name) for option in fields(self)}
        given = {name: value for name, value in given.items() if value != getattr(ColumnOptions, name)}
        if isinstance(given.get("reward"), str) and given["reward"].lower() == "none":
            given["reward"] = None
        return {name: _alone(value) for name, value in given.items()}


def _alone(value: Any) -> Any:
    """The one entry of a list of one."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
