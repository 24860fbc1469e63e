"""Loading the parts of an agent from a folder or the Hub, with checks before memory is allocated; no code is run."""

import json
import os
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, ProcessorMixin
from transformers.utils import cached_file

from hf_seqrl.data.environment_ids import trusted_env_id
from hf_seqrl.data.lookup import look_up, nearest
from hf_seqrl.evaluation.offline_results import OfflineEvaluation
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub.checkpoint import (
    CANDIDATES_NAME,
    CARD_NAME,
    CONFIG_NAME,
    CRITIC_FOLDER,
    EVALUATION_NAME,
    MANIFEST_NAME,
    OFFLINE_EVALUATION_NAME,
    PROCESSOR_NAME,
    check_links,
    check_manifest,
    finish_update,
    inside,
)
from hf_seqrl.hub.replay import REPLAY_NAMES, Replay
from hf_seqrl.hub.run_record import RUN_RECORD_NAME, RunRecord
from hf_seqrl.models.registry import LegacyCheckpoint, ModelFamily, family_of

if TYPE_CHECKING:
    from datasets import Dataset

# Limits for untrusted configs; `size_limits` of `Agent.from_pretrained` raises them.
SIZE_LIMITS = {
    "context_length": 16_384,
    "layers": 512,
    "candidates": 16_384,
    "size": 10_000_000,
    "parameters": 10_000_000_000,
}
_KINDS = {
    **dict.fromkeys(("context_length", "horizon", "max_context_transitions"), "context_length"),
    **dict.fromkeys(("n_layer", "num_hidden_layers", "num_layers", "encoder_layers", "decoder_layers"), "layers"),
    **dict.fromkeys(("candidate_actions", "beam_width", "n_expand"), "candidates"),
}
_NO_MEMORY = ("max_episode_steps", "low", "high", "start", "seed")
_ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def load_model_and_processor(
    name_or_path: str,
    processor: ProcessorMixin | None = None,
    dataset: "Dataset | None" = None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    size_limits: Mapping[str, int] | None = None,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load the model, in eval mode, and its processor, unless one is given; see `Agent.from_pretrained`."""
    if isinstance(dtype, str) and dtype != "auto" and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ValueError(f"dtype is {dtype!r}: expected 'auto' or the name of a torch.dtype, for instance 'bfloat16'.")
    source = _source(name_or_path, revision, token)
    limits = {**SIZE_LIMITS, **(size_limits or {})}
    config, family = _family_at(name_or_path, source, limits, trust_remote_code)
    find = partial(_optional_file, name_or_path, source=source)
    check_manifest(name_or_path, find, os.listdir(name_or_path) if os.path.isdir(name_or_path) else None)
    check_links(name_or_path)
    if processor is None:
        processor = _load_processor(family, name_or_path, config, dataset, source, limits)
        trusted_env_id(processor.env_id, f"the agent {name_or_path!r}", trust_remote_code)
    weights = find("model.safetensors") if os.path.isdir(name_or_path) else None
    _check_weights(name_or_path, family, config, limits, weights)
    try:
        model, report = family.model_class.from_pretrained(
            name_or_path, dtype=dtype or "auto", output_loading_info=True, **source
        )
    except UnpicklingError as error:
        raise ValueError(
            f"the weights of {name_or_path!r} are a pickle that holds more than tensors, and such a file can run any code: it "
            "was not loaded. Ask its author for safetensors."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, AttributeError) as error:
        raise ValueError(
            f"the weights of {name_or_path!r} cannot be read: {error} Save or download them again."
        ) from error
    if missing := sorted(report["missing_keys"]):  # transformers would draw them at random
        raise ValueError(
            f"the weights of {name_or_path!r} lack {len(missing)} of the tensors that config.json asks for, among them "
            f"{missing[0]}. Save or download them again."
        )
    return model.to(device) if device is not None else model, processor


def load_records(
    name_or_path: str, *, revision: str | None = None, token: str | bool | None = None
) -> tuple[RolloutResult | None, OfflineEvaluation | None, RunRecord | None, Replay | None]:
    """The evaluations, the training record and the replay of the folder; `None`, with a warning, for each
    that is damaged or belongs to another agent, and `None` for each that is not there."""
    source = _source(name_or_path, revision, token)
    source["_raise_exceptions_for_connection_errors"] = False  # an agent acts without them, offline too
    find = partial(_optional_file, name_or_path, source=source)
    foreign = check_manifest(name_or_path, partial(_found, find))

    def load(name: str, read: Any) -> Any:
        try:
            path = find(name)
            if path is None:
                return None
            if name in foreign:
                raise ValueError("it is damaged, or belongs to another agent")
            return read(path)
        except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
            warnings.warn(f"{name_or_path}: {name} is left out: {error}", stacklevel=4)
            return None

    films = (load(name, lambda path: Replay(file=Path(path))) for name in REPLAY_NAMES)
    return (
        load(EVALUATION_NAME, RolloutResult.load),
        load(OFFLINE_EVALUATION_NAME, OfflineEvaluation.load),
        load(RUN_RECORD_NAME, RunRecord.load),
        next((film for film in films if film is not None), None),
    )


def find_critic(
    name_or_path: str,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    size_limits: Mapping[str, int] | None = None,
) -> tuple[str, dict[str, Any]] | None:
    """The folder of the critic that was saved with an agent, and what it chooses among; `None` where there is none.

    A folder of that name that the manifest does not list is another agent's and left alone.

    Raises:
        ValueError: the file that names the candidates is damaged, or asks for too many.
    """
    source = _source(name_or_path, revision, token)
    find = partial(_optional_file, name_or_path, source=source)
    manifest = find(MANIFEST_NAME)
    names = [f"{CRITIC_FOLDER}/{name}" for name in (CONFIG_NAME, PROCESSOR_NAME, CANDIDATES_NAME, "model.safetensors")]
    if manifest is not None and names[0] not in json.loads(Path(manifest).read_text(encoding="utf-8"))["files"]:
        return None
    config, _, choice, _ = (find(name) for name in names)  # what is on the Hub is brought here
    if config is None:
        return None
    where = f"the agent {name_or_path!r}: {CRITIC_FOLDER}/{CANDIDATES_NAME}"
    try:
        candidates = json.loads(Path(choice).read_text(encoding="utf-8")) if choice else {}
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is damaged ({error!r}). Save the agent again.") from error
    if not isinstance(candidates, dict):
        raise ValueError(f"{where} is damaged: expected a dictionary. Save the agent again.")
    _check_sizes(candidates, where, {**SIZE_LIMITS, **(size_limits or {})})
    known = ("candidate_targets", "candidate_actions")
    return str(Path(config).parent), {name: candidates[name] for name in known if name in candidates}


def _found(find: Any, name: str) -> str | None:
    try:
        return find(name)
    except ValueError:  # a link out of the folder
        return None


def _source(name_or_path: str, revision: str | None, token: str | bool | None) -> dict[str, Any]:
    source = {"revision": revision or "main", "token": token}
    if os.path.isdir(name_or_path):
        finish_update(name_or_path)
        return source
    return source | ({} if look_up(name_or_path, "agent") else {"local_files_only": True})


def _family_at(
    name_or_path: str, source: dict[str, Any], limits: Mapping[str, int], trust_remote_code: bool
) -> tuple[dict[str, Any], ModelFamily]:
    if os.path.isdir(name_or_path) and inside(name_or_path, CONFIG_NAME) is None:
        raise ValueError(f"{name_or_path!r} holds no agent: expected a folder or a Hub id with a config.json.")
    try:
        config, _ = PreTrainedConfig.get_config_dict(name_or_path, **source)
    except OSError as error:
        if "local_files_only" not in source:
            raise
        raise FileNotFoundError(
            f"there is no agent at {name_or_path!r}: no such folder here, nothing of that name from an earlier download, and "
            f"the Hub cannot be reached.{nearest(name_or_path)}"
        ) from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{name_or_path!r} holds no agent: config.json is damaged ({error!r}).") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ValueError(f"{name_or_path!r} holds no agent: expected a folder or a Hub id with a config.json.")
    _check_sizes(config, f"{name_or_path!r}: config.json", limits)
    _check_attention(config, name_or_path, trust_remote_code)
    try:
        return config, family_of(config["model_type"])
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name_or_path!r} holds no agent: config.json: {error}") from error


def _check_attention(config: Any, name: str, trust_remote_code: bool) -> None:
    """Refuse attention kernels, which are code from a repository."""
    for part in config.values():
        if isinstance(part, dict):
            _check_attention(part, name, trust_remote_code)
    for key in _ATTENTION:
        wanted = config.get(key)
        if isinstance(wanted, str) and not wanted.replace("_", "").isalnum() and not trust_remote_code:
            raise ValueError(
                f"{name!r}: config.json names the attention {wanted!r}, whose code would be downloaded and run: pass "
                "trust_remote_code=True if you trust its author, or take the entry out."
            )


def _check_sizes(values: Any, where: str, limits: Mapping[str, int], key: str = "") -> None:
    """Refuse a config whose sizes exceed the limits."""
    if isinstance(values, dict):
        for name, part in values.items():
            _check_sizes(part, where, limits, str(name))
    elif isinstance(values, list) and key not in _NO_MEMORY:
        if key == "shape" and values and all(isinstance(size, int) for size in values):
            product = 1
            for size in values:
                product *= max(abs(size), 1)
            _check_size(product, where, key, "size", limits)
        for part in values:
            _check_sizes(part, where, limits, key)
    elif isinstance(values, int | float) and not isinstance(values, bool) and key not in _NO_MEMORY:
        kind = _KINDS.get(key, "size")
        if isinstance(values, int) or kind != "size":
            _check_size(values, where, key, kind, limits)


def _check_size(value: float, where: str, key: str, kind: str, limits: Mapping[str, int]) -> None:
    if value > limits[kind]:
        raise ValueError(
            f"{where}: {key} is {value}, beyond the limit of {limits[kind]}: pass size_limits={{{kind!r}: ...}} to allow more."
        )


def _check_weights(
    name: str, family: ModelFamily, config: dict[str, Any], limits: Mapping[str, int], file: str | None
) -> None:
    """The number of parameters, computed without allocating them; a file of weights that cannot hold them is refused."""
    try:
        with torch.device("meta"):
            model = family.model_class(family.config_class.from_dict(config))
    except Exception as error:  # whatever the values of a config make a layer raise
        raise ValueError(f"{name!r}: config.json describes no {family.name} ({error!r}).") from error
    size = sum(parameter.numel() for parameter in model.parameters())
    _check_size(size, repr(name), "the number of parameters", "parameters", limits)
    held = size if file is None else os.path.getsize(file)
    if 8 * held < size:  # less than a bit for each
        raise ValueError(
            f"the weights of {name!r} have {held} bytes, and config.json asks for {size} parameters: the file is cut off, or "
            "belongs to another config. Save or download them again."
        )


def _load_processor(
    family: ModelFamily,
    name_or_path: str,
    config: dict[str, Any],
    dataset: "Dataset | None",
    source: dict[str, Any],
    limits: Mapping[str, int],
) -> ProcessorMixin:
    saved = _optional_file(name_or_path, PROCESSOR_NAME, source)
    if saved is not None:
        where = f"the agent {name_or_path!r}: {PROCESSOR_NAME}"
        try:
            values = json.loads(Path(saved).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where} is damaged ({error!r}). Save the agent again.") from error
        _check_sizes(values, where, limits)
        try:
            return family.processor_class.from_pretrained(name_or_path, **source)
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"{where} is damaged ({error}). Save the agent again.") from error
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
        return inside(name_or_path, filename)
    return cached_file(name_or_path, filename, **source, _raise_exceptions_for_missing_entries=False)
