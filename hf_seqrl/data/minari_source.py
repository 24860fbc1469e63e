"""Minari's data sets, from its folder on this machine or from its server, and back."""

import os
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from gymnasium.spaces import Box, Space

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.composite_spaces import (
    choose_entries,
    entry_names,
    entry_places,
    flat_actions,
    flat_space,
    flat_values,
    nested_actions,
)
from hf_seqrl.data.damaged_files import check_hdf5, named_if_damaged
from hf_seqrl.data.metadata import TrajectoryMetadata, metadata_of, with_metadata
from hf_seqrl.data.spaces import space_from_dict
from hf_seqrl.data.writing import dataset_from_stream
from hf_seqrl.installation import install_command

_PREFIX = "minari://"
_ID = re.compile(r"(?:[\w-]+/)*[\w-]+-v\d+")
_EPISODES_AT_ONCE = 64  # that an export holds in memory
# what Minari, gymnasium and h5py raise where a file is not what they expect; a ValueError is a sentence already
_DAMAGE = (
    OSError,
    TypeError,
    LookupError,
    AttributeError,
    OverflowError,
    RuntimeError,
    AssertionError,
    SystemError,
)
_FACTS = ("algorithm_name", "author", "code_permalink", "description", "minari_version")


def is_minari(source: Any) -> bool:
    """Whether this is a Minari data set or names one: `minari://` before an id, an id that lies in Minari's folder, or one with more
    than one slash (`D4RL/door/human-v2`), which no id on the Hub has.

    Example:
        >>> is_minari("minari://cartpole/random-v0"), is_minari("D4RL/door/human-v2"), is_minari("me/hopper-v0")
        (True, True, False)
    """
    if not isinstance(source, str):
        return hasattr(source, "iterate_episodes") and hasattr(source, "env_spec")
    if source.startswith(_PREFIX):
        return True
    is_id = bool(_ID.fullmatch(source)) and not Path(source).exists()
    return is_id and (source.count("/") > 1 or (_folder() / source / "data").exists())


def read_minari(source: Any, observation: str | Sequence[str] | None = None) -> Dataset:
    """A Minari data set with one row per episode, read and written piece by piece; downloaded where it is not here.

    The observation after the last action is left out. Observations that are no vectors or images become vectors: the
    entries of a Dict follow one another (`provenance["observation_entries"]` says where), discrete ones one-hot.

    Args:
        source: The id, perhaps after `minari://`, or a `minari.MinariDataset`, of whose episodes those that it was filtered to
            are read.
        observation: Of a Dict: the entry to take, or several.

    Raises:
        ImportError: minari is not installed.
        ValueError: there is no such entry, images are combined with other entries, or its file is damaged or names other files.
    """
    stored = _opened(source.removeprefix(_PREFIX)) if isinstance(source, str) else source
    folder = Path(stored.storage.data_path)
    for file in sorted(folder.glob("*.hdf5")):
        check_hdf5(file)
    with named_if_damaged(folder, _DAMAGE):
        space = choose_entries(stored.observation_space, observation)
        flat_space(space)  # refuses what has no vector before anything is read
        dataset = dataset_from_stream(_episodes(stored, space, observation))
        return with_metadata(dataset, _metadata(stored, space))


def _opened(dataset_id: str) -> Any:
    library, folder = _minari(), _folder() / dataset_id / "data"
    if not folder.exists():
        return library.load_dataset(dataset_id, download=True)
    with named_if_damaged(folder, (*_DAMAGE, ValueError)):
        return library.load_dataset(dataset_id)


def to_minari(dataset: Dataset, dataset_id: str, **facts: Any) -> Any:
    """Store trajectories as a Minari data set on this machine.

    Minari keeps the observation after the last action, which trajectories do not have: the last one is used instead.
    Images are stored without loss.

    Args:
        dataset: The trajectories, with the spaces in their metadata.
        dataset_id: For instance `cartpole/mixed-v0`.
        facts: Arguments of `minari.create_dataset_from_buffers`, such as `author`, `algorithm_name`, `description`.

    Returns:
        The `minari.MinariDataset`.

    Raises:
        ImportError: minari is not installed.
        ValueError: the metadata name no spaces, or Minari holds a data set of that id already.
    """
    metadata = metadata_of(dataset)
    if metadata.observation_space is None or metadata.action_space is None:
        raise ValueError(
            "the data set does not say which spaces its observations and actions have, and Minari needs them: give them, "
            "load_trajectories(dataset, observation_space=..., action_space=...)."
        )
    if metadata.reference_returns is not None:
        facts = dict(zip(("ref_min_score", "ref_max_score"), metadata.reference_returns)) | facts
    buffers = _buffers(dataset)
    stored = _minari().create_dataset_from_buffers(
        dataset_id,
        list(islice(buffers, _EPISODES_AT_ONCE)),
        env=_spec(metadata.env_id),
        observation_space=space_from_dict(metadata.observation_space),
        action_space=space_from_dict(metadata.action_space),
        jpeg_encoding=False,
        **facts,
    )
    while more := list(islice(buffers, _EPISODES_AT_ONCE)):
        stored.update_dataset_from_buffer(more)
    return stored


def _episodes(stored: Any, space: Space, observation: str | Sequence[str] | None) -> Iterator[dict[str, np.ndarray]]:
    for episode in stored.iterate_episodes():
        observations = episode.observations
        if observation is not None:
            observations = observations[observation] if isinstance(observation, str) else observations
        yield {
            "observations": flat_values(space, observations)[: len(episode.rewards)],
            "actions": flat_actions(stored.action_space, episode.actions),
            "rewards": np.asarray(episode.rewards),
            "terminations": np.asarray(episode.terminations, dtype=bool),
            "truncations": np.asarray(episode.truncations, dtype=bool),
        }


def _metadata(stored: Any, space: Space) -> TrajectoryMetadata:
    facts, spec = stored.storage.metadata, stored.env_spec
    reference = (facts.get("ref_min_score"), facts.get("ref_max_score"))
    provenance = {"minari_id": stored.id} | {name: _as_text(facts[name]) for name in _FACTS if name in facts}
    if places := entry_places(space):
        provenance["observation_entries"] = places
    return TrajectoryMetadata(
        env_id=spec.id if spec is not None else None,
        observation_space=flat_space(space),
        action_space=stored.action_space,
        source_observation_space=None if isinstance(space, Box) else space,
        observation_names=entry_names(space),
        reference_returns=None if None in reference else reference,
        max_episode_steps=spec.max_episode_steps if spec is not None else None,
        provenance=provenance,
    )


def _as_text(fact: str | set[str]) -> str:
    return fact if isinstance(fact, str) else ", ".join(sorted(fact))


def _buffers(dataset: Dataset) -> Iterator[Any]:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    columns, space = TrajectoryColumns(dataset), metadata_of(dataset).actions
    for first, end in zip(columns.episode_offsets[:-1], columns.episode_offsets[1:]):
        steps = np.arange(first, end)
        yield EpisodeBuffer(
            observations=columns.observations.take(np.append(steps, end - 1)),
            actions=nested_actions(space, columns.actions.take(steps)),
            rewards=columns.rewards.take(steps),
            terminations=columns.terminations.take(steps),
            truncations=columns.truncations.take(steps),
        )


def _spec(env_id: str | None) -> str | None:
    """The environment, if gymnasium knows it here."""
    import gymnasium

    return env_id if env_id in gymnasium.registry else None


def _folder() -> Path:
    return Path(os.environ.get("MINARI_DATASETS_PATH", Path.home() / ".minari" / "datasets"))


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise ImportError(f"Minari data sets need minari: {install_command('minari')}") from error
    return minari
