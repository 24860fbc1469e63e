"""Training on a stream: what a family prepares from its sample, the loader that knows where it is, and going on from there."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_seqrl.data.columns import TrajectoryColumns
from hf_seqrl.data.durable import write_whole
from hf_seqrl.data.stream import TrajectoryStream
from hf_seqrl.data.window_stream import StreamedWindow, WindowStream
from hf_seqrl.data.windows import GatheredDataset
from hf_seqrl.models.registry import ModelFamily, Prepared
from hf_seqrl.private_api import selected_rows


def prepare_stream(family: ModelFamily, stream: TrajectoryStream, options: Any) -> Prepared:
    """What a family prepares from the sample of a stream, with the windows of the stream in the place of the sample's.

    Episodes of the sample that are held out do not occur in the stream.

    Raises:
        ValueError: the family's items cannot be made of further episodes.
    """
    prepared = family.prepare(stream.sample, options)
    windows = prepared.train_dataset
    if not isinstance(windows, GatheredDataset):
        raise ValueError(
            f"a {family.name} cannot be trained on a stream: its items are a {type(windows).__name__}, which is no GatheredDataset."
        )
    columns = TrajectoryColumns.of(stream.sample)
    note = f"statistics: of a sample of {columns.num_episodes} episodes ({columns.num_steps} steps) of the stream"
    if (whole := columns.metadata.whole) is not None:
        note += (
            f", and those that are stored with the data, of {whole.num_episodes} episodes ({whole.num_steps} steps)"
        )
    return replace(
        prepared,
        train_dataset=WindowStream(stream, windows, _held_out(prepared.eval_dataset)),
        notes=(f"{note}.", *prepared.notes),
    )


def _held_out(eval_dataset: GatheredDataset | None) -> Sequence[int]:
    """The numbers in the sample of the episodes that are held out."""
    if eval_dataset is None:
        return ()
    rows = selected_rows(eval_dataset.dataset)
    return range(len(eval_dataset.dataset)) if rows is None else rows.to_pylist()


class StreamLoader(DataLoader):
    """A `DataLoader` of a [`~hf_seqrl.data.window_stream.WindowStream`] that tells it which batch was the last one.

    Args:
        windows: This process's part of the stream.
        collate_fn: The collator of the family.
        options: As for `DataLoader`.
    """

    def __init__(self, windows: WindowStream, collate_fn: Callable, **options: Any) -> None:
        generator = torch.Generator().manual_seed(windows.stream.seed)
        # one of its own, or every new iterator would move that of the training, and a resumed run would differ
        super().__init__(windows, collate_fn=_WithPosition(collate_fn), generator=generator, **options)

    def __iter__(self) -> Iterator[Any]:
        for batch, (worker, position) in super().__iter__():
            self.dataset.note(worker, max(1, self.num_workers), position)
            yield batch


class _WithPosition:
    """A collator whose batches carry the position of the stream behind them."""

    def __init__(self, collate_fn: Callable) -> None:
        self._collate_fn = collate_fn

    def __call__(self, windows: list[StreamedWindow]) -> tuple[Any, tuple[int, dict[str, Any]]]:
        return self._collate_fn(windows), (windows[-1].worker, windows[-1].position)


class StreamPositions(TrainerCallback):
    """Writes into every checkpoint where the stream of each process is."""

    def __init__(self, windows: WindowStream) -> None:
        self._windows = windows

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(_position_file(folder, args.process_index), json.dumps(self._windows.state_dict()) + "\n")


def load_position(windows: WindowStream, checkpoint: str | Path, process_index: int) -> None:
    """Let a stream go on where it was at a checkpoint.

    Raises:
        FileNotFoundError: the checkpoint holds no position for this process.
    """
    file = _position_file(Path(checkpoint), process_index)
    if not file.exists():
        raise FileNotFoundError(
            f"{checkpoint} does not say where the stream was ({file.name} is missing): it was written without a stream or by fewer "
            "processes; resume with the data and the number of processes that the run was started with."
        )
    windows.load_state_dict(json.loads(file.read_text(encoding="utf-8")))


def _position_file(checkpoint: Path, process_index: int) -> Path:
    return checkpoint / f"stream_position_{process_index}.json"
