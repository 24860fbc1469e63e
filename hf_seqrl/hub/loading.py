"""From a folder or a Hub id to the parts of an agent."""

import os
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file

from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub.folder import CARD_NAME, EVALUATION_NAME, PROCESSOR_NAME
from hf_seqrl.hub.replay import REPLAY_NAMES, Replay
from hf_seqrl.hub.run_record import RUN_RECORD_NAME, RunRecord
from hf_seqrl.models.registry import LegacyCheckpoint, ModelFamily, family_of

if TYPE_CHECKING:
    from datasets import Dataset


def load_model_and_processor(
    name_or_path: str,
    processor: ProcessorMixin | None = None,
    dataset: "Dataset | None" = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load the model, in eval mode, and its processor, unless one is given; see `Agent.from_pretrained`."""
    source = {"revision": revision or "main", "token": token}
    config, family = _family_at(name_or_path, source)
    if processor is None:
        processor = _load_processor(family, name_or_path, config, dataset, source)
    try:
        model = family.model_class.from_pretrained(name_or_path, dtype=dtype or "auto", **source)
    except UnpicklingError as error:
        raise ValueError(
            f"the weights of {name_or_path!r} are a pickle that holds more than tensors, and such a file can run any code: it "
            "was not loaded. Ask its author for safetensors."
        ) from error
    return model.to(device) if device is not None else model, processor


def load_records(
    name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[RolloutResult | None, RunRecord | None, Replay | None]:
    """The evaluation, the training record and the replay that lie beside the weights; `None` for each that does not."""
    source = {"revision": revision or "main", "token": token}
    source["_raise_exceptions_for_connection_errors"] = False  # an agent acts without them, offline too
    evaluation = _optional_file(name_or_path, EVALUATION_NAME, source)
    record = _optional_file(name_or_path, RUN_RECORD_NAME, source)
    films = (_optional_file(name_or_path, name, source) for name in REPLAY_NAMES)
    film = next((path for path in films if path is not None), None)
    return (
        RolloutResult.load(evaluation) if evaluation is not None else None,
        RunRecord.load(record) if record is not None else None,
        Replay(file=Path(film)) if film is not None else None,
    )


def _family_at(name_or_path: str, source: dict[str, Any]) -> tuple[dict[str, Any], ModelFamily]:
    config, _ = PreTrainedConfig.get_config_dict(name_or_path, **source)
    if "model_type" not in config:
        raise ValueError(f"{name_or_path!r} holds no agent: expected a folder or a Hub id with a config.json.")
    try:
        return config, family_of(config["model_type"])
    except ValueError as error:
        raise ValueError(f"{name_or_path!r} holds no agent: {error}") from error


def _load_processor(
    family: ModelFamily, name_or_path: str, config: dict[str, Any], dataset: "Dataset | None", source: dict[str, Any]
) -> ProcessorMixin:
    if _optional_file(name_or_path, PROCESSOR_NAME, source) is not None:
        return family.processor_class.from_pretrained(name_or_path, **source)
    if family.legacy_processor is not None:
        card = _optional_file(name_or_path, CARD_NAME, source)
        text = Path(card).read_text(encoding="utf-8") if card is not None else ""
        config = family.config_class.from_dict(config).to_dict() | config
        return family.legacy_processor(LegacyCheckpoint(name_or_path, config, text), dataset)
    name = family.processor_class.__name__
    raise ValueError(
        f"{name_or_path!r} holds the weights of a {family.name} but no {PROCESSOR_NAME}, so nothing says how "
        f"observations, returns and actions were encoded in training. Make one, a {name}, as for the training, and pass "
        "it: Agent.from_pretrained(..., processor=processor). Trainer(..., processing_class=processor) saves it with "
        "every checkpoint."
    )


def _optional_file(name_or_path: str, filename: str, source: dict[str, Any]) -> str | None:
    if os.path.isdir(name_or_path):
        path = os.path.join(name_or_path, filename)
        return path if os.path.isfile(path) else None
    return cached_file(name_or_path, filename, **source, _raise_exceptions_for_missing_entries=False)
