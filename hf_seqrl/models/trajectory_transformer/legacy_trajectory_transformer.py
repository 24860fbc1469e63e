"""Checkpoints from before processors: `CarlCochet/trajectory-transformer-*`, which hold weights and no bins."""

from typing import TYPE_CHECKING

from hf_seqrl.models.registry import LegacyCheckpoint
from hf_seqrl.models.trajectory_transformer.processing_trajectory_transformer import TrajectoryTransformerProcessor

if TYPE_CHECKING:
    from datasets import Dataset


def legacy_processor(checkpoint: LegacyCheckpoint, dataset: "Dataset | None" = None) -> TrajectoryTransformerProcessor:
    """The processor of a checkpoint that was saved without one, its bins fitted to a data set.

    Args:
        checkpoint: Says how many bins there are, and how long a window is.
        dataset: The data that the checkpoint was trained on: other data have other bins, and tokens would mean something
            else than they did in training.

    Raises:
        ValueError: there is no data set, or its transitions do not fit the model.
    """
    config = checkpoint.config
    if dataset is None:
        raise ValueError(
            f"{checkpoint.name!r} holds the weights of a Trajectory Transformer, but no discretizer: nothing says which values "
            "its tokens stand for. Fit one to the data it was trained on: "
            "Agent.from_pretrained(..., dataset=load_trajectories(...)) does so "
            f"(TrajectoryDiscretizer.from_dataset(dataset, num_bins={config['vocab_size']}) gives the bins alone)."
        )
    processor = TrajectoryTransformerProcessor.from_dataset(
        dataset,
        num_bins=config["vocab_size"],
        sequence_transitions=(config["block_size"] + 1) // config["transition_dim"],
    )
    sizes = processor.observation_dim, processor.action_dim
    if sizes != (config["observation_dim"], config["action_dim"]):
        raise ValueError(
            f"the data have observations of {sizes[0]} entries and actions of {sizes[1]}, {checkpoint.name!r} was trained on "
            f"{config['observation_dim']} and {config['action_dim']}: give the data that it was trained on."
        )
    return processor
