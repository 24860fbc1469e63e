"""Data sets go to the Hub, with a card and everything that evaluation needs; `load_trajectories` brings them back."""

from pathlib import Path
from tempfile import TemporaryDirectory

from datasets import Dataset
from huggingface_hub import CommitInfo

from hf_seqrl.data.sources import METADATA_NAME, write_metadata
from hf_seqrl.data.validation import validate_trajectories
from hf_seqrl.hub.data_card import RETURNS_PLOT_NAME, build_data_card, plot_returns
from hf_seqrl.hub.edited_card import keep_edited, sealed
from hf_seqrl.hub.folder import CARD_NAME, GENERATED_CARD_NAME
from hf_seqrl.hub.pushing import open_destination

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
    """Put a data set on the Hub in one commit, as Parquet with a card; the repository is made where absent.

    Episodes that were there before go away in the same commit. A card that somebody has edited stays, with a warning.

    Args:
        dataset (`Dataset`): Trajectories, one row an episode; they are checked first.
        repo_id (`str`): For instance `me/hopper-medium`.
        license (`str`, *optional*): As the Hub names it, for instance `mit`.
        private (`bool`, *optional*): Of a new repository; defaults to the account's setting.
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
