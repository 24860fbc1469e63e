"""From a folder or a Hub id to the parts of an agent."""

import os
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file

from hf_seqrl.hub.folder import EVALUATION_NAME, PROCESSOR_NAME
from hf_seqrl.hub.run_record import RUN_RECORD_NAME, RunRecord
from hf_seqrl.models import family_of
from hf_seqrl.models.family import ModelFamily
from hf_seqrl.rollout.result import RolloutResult


def load_model_and_processor(
    name_or_path: str,
    processor: ProcessorMixin | None = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load the model, in eval mode, and its processor, unless one is given; see `Agent.from_pretrained`."""
    source = {"revision": revision or "main", "token": token}
    family = _family_at(name_or_path, source)
    if processor is None:
        processor = _load_processor(family, name_or_path, source)
    model = family.model_class.from_pretrained(name_or_path, dtype=dtype or "auto", **source)
    return model.to(device) if device is not None else model, processor


def load_records(
    name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[RolloutResult | None, RunRecord | None]:
    """The evaluation and the training record that lie beside the weights; `None` for each that does not."""
    source = {"revision": revision or "main", "token": token}
    source["_raise_exceptions_for_connection_errors"] = False  # an agent acts without them, offline too
    evaluation = _optional_file(name_or_path, EVALUATION_NAME, source)
    record = _optional_file(name_or_path, RUN_RECORD_NAME, source)
    return (
        RolloutResult.load(evaluation) if evaluation is not None else None,
        RunRecord.load(record) if record is not None else None,
    )


def _family_at(name_or_path: str, source: dict[str, Any]) -> ModelFamily:
    config, _ = PreTrainedConfig.get_config_dict(name_or_path, **source)
    if "model_type" not in config:
        raise ValueError(f"{name_or_path!r} holds no agent: expected a folder or a Hub id with a config.json.")
    try:
        return family_of(config["model_type"])
    except ValueError as error:
        raise ValueError(f"{name_or_path!r} holds no agent: {error}") from error


def _load_processor(family: ModelFamily, name_or_path: str, source: dict[str, Any]) -> ProcessorMixin:
    if _optional_file(name_or_path, PROCESSOR_NAME, source) is None:
        name = family.processor_class.__name__
        raise ValueError(
            f"{name_or_path!r} holds the weights of a {family.name} but no {PROCESSOR_NAME}, so nothing says how "
            f"observations, returns and actions were encoded in training. Make one from the training data, "
            f"processor = {name}.from_dataset(dataset), and pass it: Agent.from_pretrained(..., processor=processor). "
            f"Trainer(..., processing_class=processor) saves it with every checkpoint."
        )
    return family.processor_class.from_pretrained(name_or_path, **source)


def _optional_file(name_or_path: str, filename: str, source: dict[str, Any]) -> str | None:
    if os.path.isdir(name_or_path):
        path = os.path.join(name_or_path, filename)
        return path if os.path.isfile(path) else None
    return cached_file(name_or_path, filename, **source, _raise_exceptions_for_missing_entries=False)
