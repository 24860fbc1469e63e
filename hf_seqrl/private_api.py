"""What this package reads of other libraries' private API, each behind one function.

Nothing public gives the same. A test checks every one of them against the installed versions, and that no other module
reads a private attribute of another library.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedConfig, PreTrainedModel, Trainer


def selected_rows(dataset: "Dataset") -> "pa.ChunkedArray | None":
    """The rows of the table `dataset.data` that `select`, `shuffle` or `filter` have left, in order; `None` for all."""
    indices = dataset._indices
    return None if indices is None else indices.column(0)


def attention_implementation(config: "PreTrainedConfig") -> str:
    """The attention that a model with this config runs: `"sdpa"`, `"eager"`, ..., as `set_attn_implementation` left it."""
    return config._attn_implementation


def modules_kept_whole(model: "PreTrainedModel") -> "list[str] | set[str] | tuple[str, ...] | None":
    """The classes of modules that `device_map` and sharding do not split."""
    return model._no_split_modules


def wait_for_checkpoint_push(trainer: "Trainer") -> None:
    """Wait until the push of a checkpoint that `Trainer` began in the background is done."""
    trainer._finish_current_push()


def training_collator(trainer: "Trainer") -> Callable[[list[Any]], Any]:
    """The collator of a trainer as its own loaders use it: with `remove_unused_columns` it drops what the model does not take."""
    return trainer._get_collator_with_removed_columns(trainer.data_collator, description="training")


def training_batch_size(trainer: "Trainer") -> int:
    """The items of a batch on one process, after `auto_find_batch_size` may have lowered it."""
    return trainer._train_batch_size
