"""Loading trajectories from all sources into one schema."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from datasets import Dataset
from gymnasium.spaces import Space

from hf_seqrl.data.array_reading import ArrayReading
from hf_seqrl.data.column_options import DEFAULT_REWARD, ColumnOptions
from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.conversion import Conversion
from hf_seqrl.data.cutting import LONG_EPISODE, CutRule, warn_of_long_episodes
from hf_seqrl.data.environment_ids import d4rl_reference_returns, trusted_env_id
from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata
from hf_seqrl.data.minari_source import is_minari, read_minari
from hf_seqrl.data.opening import Opening, TrajectorySource
from hf_seqrl.data.schema import in_schema
from hf_seqrl.data.secrets import masked
from hf_seqrl.data.source_kinds import is_step_table, is_tabular, refuse_ignored
from hf_seqrl.data.table_columns import StepTableColumns
from hf_seqrl.data.table_files import TableFormat, open_table
from hf_seqrl.data.tables import episodes_from_table
from hf_seqrl.data.task_inference import check_bounds, guessed_space, refuse_longer_episodes, time_limit_of
from hf_seqrl.data.validation import check_names, refuse_outside, validate_columns


def load_trajectories(
    source: TrajectorySource,
    name: str | None = None,
    *,
    split: str | None = None,
    revision: str | None = None,
    episode: str | Sequence[str] | None = None,
    step: str | None = None,
    time_format: str | None = None,
    observation: str | Sequence[str] | None = None,
    action: str | Sequence[str] | None = None,
    reward: str | None = DEFAULT_REWARD,
    termination: str | None = None,
    truncation: str | None = None,
    cut_every: int | None = None,
    cut_at_gap: float | str | None = None,
    cut_at_change: str | Sequence[str] | None = None,
    gaps: str = "refuse",
    files: str | None = None,
    separator: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    sheet: str | None = None,
    layout: str | None = None,
    final_observations: str = "refuse",
    out_of_bounds: str = "refuse",
    env_id: str | None = None,
    observation_space: Space | Mapping[str, Any] | None = None,
    action_space: Space | Mapping[str, Any] | None = None,
    reference_returns: tuple[float, float] | None = None,
    max_episode_steps: int | None = None,
    observation_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    units: Mapping[str, str] | None = None,
    categories: Mapping[str, Sequence[Any]] | None = None,
    provenance: dict[str, Any] | None = None,
    validate: bool = True,
    trust_remote_code: bool = False,
) -> Dataset:
    """Load and validate trajectories as a data set with one row per episode and with metadata.

    The columns are `observations` (vectors or images), `actions` (float vectors, integers or integer vectors), `rewards`,
    and `terminations` and `truncations`, or `dones` for `terminations` alone. Files of more than 256 MB and
    data sets saved by `datasets` are memory-mapped. All numbers except integer actions and images of bytes are cast to
    `float32`; a column that would lose values stays `float64`.

    Arguments are used or raise an error; they are never replaced. What has to be guessed (discrete or continuous actions,
    one-hot rows, codes in floats, cuts at a time limit ...) is recorded in `metadata_of(dataset).guesses` with the reason.

    Args:
        source: One of
            - a `.parquet` file or a folder of them; metadata are read from an `episodes.json` in the same folder;
            - a folder that `save_trajectories` or `datasets` wrote, a `datasets.Dataset` or `DatasetDict`;
            - a dictionary of arrays: a list of episodes in each column, or one entry per step with `terminals` and
              `timeouts` (or `terminations` and `truncations`) to separate the episodes, as in D4RL's files;
            - a list of episodes, each a dictionary of arrays; an `.npz` file of arrays;
            - a table with one row per step: a `.csv`, `.tsv`, `.xlsx`, `.jsonl` or `.parquet` file (text files also with `.gz`) or
              a folder or a list of them, a pandas data frame, a dictionary of arrays or a `datasets.Dataset`, together with the
              names of its columns from `episode` on;
            - the id of a data set on the Hugging Face Hub, with one row per episode or LeRobot's with one row per step;
            - an `IterableDataset` (`load_dataset(..., streaming=True)`) with one row per episode: it is written to disk while it
              streams ([`~hf_seqrl.data.stream.TrajectoryStream`] trains without a copy);
            - a `minari.MinariDataset`, or the id of one, `minari://D4RL/door/human-v2`, without `minari://` if it is on this
              machine;
            - an `.hdf5` file of D4RL.
        name (`str`, *optional*): The configuration of a data set on the Hub.
        split (`str`, *optional*): Which split; by default the only one, or `train`.
        revision (`str`, *optional*): The branch, tag or commit of a data set on the Hub.
        episode (`str` or list of `str`, *optional*): In a table with one row per step, the columns that identify the episode.
        step (`str`, *optional*): In such a table, the column that orders an episode's steps: numbers, times, or text that holds
            numbers or ISO dates; others with `time_format`.
        time_format (`str`, *optional*): The format of text in the step column, as in `datetime.strptime`.
        observation, action (`str` or list of `str`, *optional*): One column, or several; of a Minari data set with Dict
            observations, the entries to take. In a table, `*` matches any characters, and words become categories.
        reward (`str`, *optional*, defaults to `"rewards"`): The column of rewards. `None` for demonstrations without rewards,
            which can be cloned.
        termination, truncation (`str`, *optional*): Columns. Without `episode`, these five rename columns of arrays and
            of data sets with one row per episode.
        cut_every (`int`, *optional*): Cut a log into episodes of this number of steps.
        cut_at_gap (`float` or `str`, *optional*): Cut where the step column advances by more than this: a number, or a duration
            such as `"10min"`.
        cut_at_change (`str` or list of `str`, *optional*): Cut where one of these columns changes.
        gaps (`str`, *optional*, defaults to `"refuse"`): `"allow"` for step columns that count with gaps.
        files (`str`, *optional*): How an episode id that occurs again in the next file of a folder is read: `"continue"` or
            `"restart"`.
        separator, decimal, encoding (`str`, *optional*): Of a text file; separator and decimal point are detected by default.
        sheet (`str`, *optional*): The sheet of a workbook.
        layout (`str`, *optional*): What the first axes of arrays are: `"steps"`, `"episodes"` (episodes, then steps),
            `"time_env"` or `"env_time"` (parallel environments).
        final_observations (`str`, *optional*, defaults to `"refuse"`): `"drop"` for data that hold one observation more than
            actions in each episode, the one after the last action; in a table, a last row without an action.
        out_of_bounds (`str`, *optional*, defaults to `"refuse"`): What to do about actions outside the bounds of their space:
            `"refuse"`, `"clip"`, or `"rescale"` for mapping the range of the data to the bounds.
        env_id (`str`, *optional*): The gymnasium id. This and the following arguments override the source.
        observation_space, action_space (*optional*): Spaces, or their `space_to_dict`.
        reference_returns (`tuple`, *optional*): Raw returns (random, expert); by default those of D4RL, if there are any.
        max_episode_steps (`int`, *optional*): The time limit, in steps.
        observation_names, action_names (*optional*): A name for each entry; those of a table by default.
        units (`dict`, *optional*): The units of entries, by name.
        categories (`dict`, *optional*): The words of columns in the order of their codes, by name; sorted by default. For data
            that an agent is judged by: `agent.processor.task.categories`.
        provenance (`dict`, *optional*): How the episodes were made.
        validate (`bool`, *optional*, defaults to `True`): Whether to check every value (a pass over the data).
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether an environment id `module:Name-v0` in the source
            may have that module imported. An `env_id` that is stated is not restricted.

    Raises:
        ValueError: the data are invalid (see `validate_trajectories`), the kind of source is unknown, or the source asks for
            code that was not allowed.
        FileNotFoundError: a path does not exist.

    Example:
        >>> dataset = load_trajectories([{"observations": [[0.0], [0.5]], "actions": [0, 1], "rewards": [1.0, 1.0],
        ...                               "terminations": [False, True]}], env_id="CartPole-v1")
        >>> len(dataset), dataset.column_names
        (1, ['observations', 'actions', 'rewards', 'terminations'])
    """
    cut = CutRule(cut_every, cut_at_gap, cut_at_change or ())
    stated = TrajectoryMetadata(
        env_id=env_id,
        observation_space=observation_space,
        action_space=action_space,
        reference_returns=reference_returns,
        max_episode_steps=max_episode_steps,
        observation_names=observation_names,
        action_names=action_names,
        units=None if units is None else dict(units),
        categories=None if categories is None else {name: list(words) for name, words in categories.items()},
        provenance=masked(provenance or {}),
    )
    names = {
        "observation": observation,
        "action": action,
        "reward": reward,
        "termination": termination,
        "truncation": truncation,
    }
    is_table = episode is not None or bool(cut and is_step_table(source, names))
    refuse_ignored(source, _options_of(locals()), is_table)
    reading = ArrayReading(
        layout, None, cut, step, reward is not None, final_observations=final_observations, names=names
    )
    opening = Opening(name, split, revision, stated, reading, validate)
    if is_table:
        columns = StepTableColumns(
            episode=episode,
            step=step,
            time_format=time_format,
            cut=cut,
            gaps=gaps,
            files=files,
            final_observations=final_observations,
            **names,
        )
        opened = source if is_tabular(source) else opening.open(source)
        table = open_table(opened, columns.plain, TableFormat(separator, decimal, encoding, sheet))
        dataset = episodes_from_table(table, columns, categories=stated.categories)
    elif is_minari(source):
        dataset = read_minari(source, observation)
    else:
        dataset = opening.rows(source)
    if env_id is None:
        named = f"the data set {str(source)!r}" if isinstance(source, str | Path) else "the data set"
        trusted_env_id(metadata_of(dataset).env_id, named, trust_remote_code)
    dataset, metadata = _in_schema(dataset, stated, out_of_bounds, reward is not None)
    if validate:
        metadata = _checked(dataset, metadata, stated)
    return with_metadata(dataset, metadata)


def _options_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `load_trajectories` that only some kinds of sources read."""
    return {
        name: arguments[name] for name in ("name", "split", "revision", *(one.name for one in fields(ColumnOptions)))
    }


def _in_schema(
    dataset: Dataset, stated: TrajectoryMetadata, out_of_bounds: str, has_rewards: bool
) -> tuple[Dataset, TrajectoryMetadata]:
    """The data set in the schema, and all that is known about it."""
    metadata = metadata_of(dataset)
    if metadata.guesses:
        metadata = _without_overruled_guesses(metadata, stated)
    if stated.observation_space is not None and stated.observation_space != metadata.observation_space:
        metadata = replace(metadata, source_observation_space=None)
    changes = {name: value for name, value in stated.to_dict().items() if name not in ("guesses", "provenance")}
    if stated.categories is not None:
        changes["categories"] = {**(metadata.categories or {}), **stated.categories}
    metadata = metadata.updated(**changes, provenance=stated.provenance or None)
    if metadata.reference_returns is None:
        metadata = metadata.updated(reference_returns=d4rl_reference_returns(metadata.env_id))
    keeps_observations = metadata.observation_space is not None and stated.observation_space is None
    conversion = Conversion(metadata, dict(metadata.guesses), out_of_bounds, has_rewards, keeps_observations)
    dataset = in_schema(dataset, conversion)
    doubles = tuple(conversion.doubles) or metadata.doubles
    return dataset, replace(conversion.task, guesses=conversion.guesses, doubles=doubles)


def _without_overruled_guesses(metadata: TrajectoryMetadata, stated: TrajectoryMetadata) -> TrajectoryMetadata:
    """The metadata without the guesses that what is stated now makes needless."""
    is_known = stated.env_id is not None and stated.env_id in gymnasium.registry
    needless = [
        name
        for name in metadata.guesses
        if getattr(stated, name, None) is not None or (is_known and name.endswith("_space"))
    ]
    guesses = {name: reason for name, reason in metadata.guesses.items() if name not in needless}
    return replace(metadata, guesses=guesses, **{name: None for name in needless if hasattr(metadata, name)})


def _checked(dataset: Dataset, metadata: TrajectoryMetadata, stated: TrajectoryMetadata) -> TrajectoryMetadata:
    """Validate, and add to the metadata what will have to be guessed where it is not stated."""
    columns = TrajectoryColumns(dataset, metadata.doubles or ())
    validate_columns(columns, metadata.observation_space, metadata.action_space)
    if any(getattr(stated, name) is not None for name in ("observation_names", "action_names", "units", "categories")):
        check_names(columns, metadata)
    if stated.observation_space is not None:
        refuse_outside(columns, "observations", metadata.observations)
    if metadata.action_space is not None:
        check_bounds(columns, metadata.actions)
    longest = int(np.diff(columns.episode_offsets).max())
    if stated.max_episode_steps is not None:
        refuse_longer_episodes(columns, stated.max_episode_steps)
    guesses = dict(metadata.guesses)
    guesses |= _open_guesses(metadata, columns, longest)
    if longest >= LONG_EPISODE and metadata.max_episode_steps is None:
        guesses["episodes"] = warn_of_long_episodes(longest)
    return replace(metadata, guesses=guesses)


def _open_guesses(metadata: TrajectoryMetadata, columns: TrajectoryColumns, longest: int) -> dict[str, str]:
    """What processors will guess, by the same rules, because neither the data nor an environment define it."""
    guesses = {}
    if metadata.env_id not in gymnasium.registry:
        for name, column in (("observation_space", columns.observations), ("action_space", columns.actions)):
            if getattr(metadata, name) is None:
                guesses[name] = guessed_space(column, name == "action_space")[1]
    because = time_limit_of(metadata, longest)[1]
    return guesses if because is None else guesses | {"max_episode_steps": because}
