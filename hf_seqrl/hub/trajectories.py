"""Data sets on the Hub with a card and their metadata; `load_trajectories` loads them."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import yaml
from datasets import Dataset
from huggingface_hub import CommitInfo, DatasetCard, DatasetCardData
from markupsafe import Markup
from matplotlib.figure import Figure

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.description import describe
from hf_seqrl.data.metadata import metadata_of
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.data.sources import METADATA_NAME, write_metadata
from hf_seqrl.data.task import Task
from hf_seqrl.data.validation import validate_trajectories
from hf_seqrl.hub.card import describe_entries, keep_edited, sealed
from hf_seqrl.hub.checkpoint import CARD_NAME, GENERATED_CARD_NAME
from hf_seqrl.hub.markdown import plain, render
from hf_seqrl.hub.pushing import open_destination

RETURNS_PLOT_NAME = "returns.png"
_TAGS = ["reinforcement-learning", "offline-reinforcement-learning", "trajectories", "hf-seqrl"]
_EPISODES_OF_CLASS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def build_data_card(dataset: Dataset, repo_id: str, license: str | None = None) -> DatasetCard:
    """Write the card of a data set.

    Args:
        dataset: The trajectories.
        repo_id: The name by which the example loads it.
        license: The Hub's name of the license, for instance `mit`; by default the card names none.
    """
    facts = describe(dataset)
    rows = [("return", facts["returns"]), ("length (steps)", facts["lengths"])]
    if "normalized_score" in facts:
        rows.insert(1, ("normalized score", facts["normalized_score"]))
    text = render(
        "data_card.md.jinja",
        card_data=Markup(_metadata(facts, license).to_yaml()),
        title=Markup("Trajectories of {}").format(plain(facts["env_id"])) if facts["env_id"] else "Trajectories",
        facts=facts,
        rows=rows,
        repo_id=repo_id,
        observation_space=_in_words(metadata_of(dataset), "observations", facts),
        action_space=_in_words(metadata_of(dataset), "actions", facts),
        provenance=yaml.safe_dump(facts["provenance"], sort_keys=False).rstrip() if facts["provenance"] else None,
        plot_name=RETURNS_PLOT_NAME,
    )
    return DatasetCard(text)


def plot_returns(dataset: Dataset, path: str | Path) -> None:
    """A histogram of the raw returns of the episodes."""
    returns = returns_of_episodes(TrajectoryColumns.of(dataset))
    figure = Figure(figsize=(6.0, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.hist(returns, bins=min(50, max(5, int(np.sqrt(len(returns))))), color="#2563a8")
    axes.set_xlabel("return of the episode (raw)")
    axes.set_ylabel("episodes")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=140)


def _metadata(facts: dict, license: str | None) -> DatasetCardData:
    size = next((name for most, name in _EPISODES_OF_CLASS if facts["episodes"] < most), "n>1M")
    return DatasetCardData(
        license=license,
        task_categories=["reinforcement-learning"],
        tags=[*_TAGS, *([facts["env_id"]] if facts["env_id"] else [])],
        size_categories=[size],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    )


def _in_words(task: Task, column: str, facts: dict) -> str:
    if getattr(task, f"{column[:-1]}_space"):
        return describe_entries(task, column)
    shape, entries = (
        f"{facts[column]['dtype']} of shape {tuple(facts[column]['shape'])}",
        task.entries_in_words(column),
    )
    return shape if entries is None else f"{shape}: {entries}"


_SHARD_BYTES = 256 << 20  # of Arrow memory; a Parquet file is smaller
_REPLACED = ["data/*.parquet", METADATA_NAME, RETURNS_PLOT_NAME, GENERATED_CARD_NAME]


def push_trajectories(
    dataset: Dataset,
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload trajectories",
) -> CommitInfo:
    """Upload a data set to the Hub in one commit, as Parquet with a card; the repository is created if missing.

    Existing episodes are removed in the same commit. A card that was edited by hand is kept, with a warning.

    Args:
        dataset (`Dataset`): Trajectories, one row per episode; they are validated first.
        repo_id (`str`): For instance `me/hopper-medium`.
        license (`str`, *optional*): The Hub's name of the license, for instance `mit`.
        private (`bool`, *optional*): Visibility of a new repository; defaults to the account's setting.
        token (`str` or `bool`, *optional*): Defaults to the one that `hf auth login` stored.
        revision (`str`, *optional*): The branch to commit to; defaults to `main`.
        commit_message (`str`, *optional*): The commit's first line.

    Raises:
        ValueError: The data are not sound.
        OSError: The Hub cannot be reached or refuses; or somebody else pushed meanwhile, and nothing was changed.
    """
    validate_trajectories(dataset)
    destination = open_destination(repo_id, repo_type="dataset", private=private, token=token, revision=revision)
    with TemporaryDirectory() as directory:
        _write_shards(dataset, Path(directory, "data"))
        write_metadata(dataset, directory)
        plot_returns(dataset, Path(directory, RETURNS_PLOT_NAME))
        card = build_data_card(dataset, destination.repo_id, license)
        Path(directory, CARD_NAME).write_text(sealed(card.content), encoding="utf-8")
        keep_edited(Path(directory), destination.card, destination.repo_id)
        return destination.commit(directory, commit_message, stale=_REPLACED)


def _write_shards(dataset: Dataset, folder: Path) -> None:
    """Files that `datasets` finds, each of some hundred megabytes, written batch by batch."""
    folder.mkdir()
    count = max(1, min(len(dataset), -(-dataset.data.nbytes // _SHARD_BYTES)))
    for index in range(count):
        shard = dataset.shard(count, index, contiguous=True)
        shard.to_parquet(str(folder / f"train-{index:05d}-of-{count:05d}.parquet"))
