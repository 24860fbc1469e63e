"""The card of a data set, filled by what is in it."""

from importlib.resources import files
from pathlib import Path

import numpy as np
import yaml
from datasets import Dataset
from huggingface_hub import DatasetCard, DatasetCardData
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.description import describe
from hf_seqrl.data.returns import returns_of_episodes
from hf_seqrl.data.spaces import space_from_dict
from hf_seqrl.hub.card import describe_space, number

RETURNS_PLOT_NAME = "returns.png"
_TEMPLATE = files("hf_seqrl.hub").joinpath("templates", "data_card.md.jinja")
_TAGS = ["reinforcement-learning", "offline-reinforcement-learning", "trajectories", "hf-seqrl"]
_EPISODES_OF_CLASS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def build_data_card(dataset: Dataset, repo_id: str, license: str | None = None) -> DatasetCard:
    """Write the card of a data set.

    Args:
        dataset: The trajectories.
        repo_id: The name by which the example loads it.
        license: As the Hub names it, for instance `mit`; without, the card names none.
    """
    facts = describe(dataset)
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters["number"] = number
    rows = [("return", facts["returns"]), ("length (steps)", facts["lengths"])]
    if "normalized_score" in facts:
        rows.insert(1, ("normalised score", facts["normalized_score"]))
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        card_data=_metadata(facts, license).to_yaml(),
        title=f"Trajectories of {facts['env_id']}" if facts["env_id"] else "Trajectories",
        facts=facts,
        rows=rows,
        repo_id=repo_id,
        observation_space=_in_words(facts["observation_space"], facts["observations"]),
        action_space=_in_words(facts["action_space"], facts["actions"]),
        provenance=yaml.safe_dump(facts["provenance"], sort_keys=False).rstrip() if facts["provenance"] else None,
        plot_name=RETURNS_PLOT_NAME,
    )
    return DatasetCard(text)


def plot_returns(dataset: Dataset, path: str | Path) -> None:
    """A histogram of the raw returns of the episodes."""
    returns = returns_of_episodes(TrajectoryColumns(dataset))
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


def _in_words(space: dict | None, kind: dict) -> str:
    return describe_space(space_from_dict(space)) if space else f"{kind['dtype']} of shape {tuple(kind['shape'])}"
