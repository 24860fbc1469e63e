"""One spelling of a model's cache for every transformers 5: the field and the keyword `cache`.

transformers 5.24 renamed the field `past_key_values` of its outputs, and the keyword of its models, to `cache`. Our
outputs declare `cache` whatever the installed version, and still answer to the older name.
"""

import warnings
from collections.abc import Mapping
from functools import cache as cached
from inspect import signature
from typing import Any, TypeVar

from transformers import GenerationMixin
from transformers.utils import ModelOutput

LEGACY_NAME = "past_key_values"

AnyCache = TypeVar("AnyCache")


class CachedOutput(ModelOutput):
    """An output with a field `cache` that can be read as `past_key_values` too, as an attribute and as a key."""

    cache: Any

    @property
    def past_key_values(self) -> Any:
        """The cache, under its name before transformers 5.24."""
        return self.cache

    def __contains__(self, key: object) -> bool:
        return super().__contains__(_current_name(key))

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(_current_name(key))

    def get(self, key: Any, default: Any = None) -> Any:
        """The field `key`, or `default` where it is `None`."""
        return super().get(_current_name(key), default)


def chosen_cache(cache: AnyCache | None, past_key_values: AnyCache | None) -> AnyCache | None:
    """The cache that `forward` was given under either keyword.

    Raises:
        ValueError: both keywords are given.
    """
    if cache is not None and past_key_values is not None:
        raise ValueError("both cache and past_key_values are given, which name the same argument: pass cache alone.")
    if past_key_values is not None and cache_keyword() == "cache":
        warnings.warn(
            f"`{LEGACY_NAME}` is deprecated: pass `cache`, as in transformers 5.24.", FutureWarning, stacklevel=3
        )
    return past_key_values if cache is None else cache


def cache_of(output: Mapping[str, Any]) -> Any:
    """The cache in an output of transformers' own, such as that of `generate`, under either name."""
    return output["cache"] if "cache" in output else output[LEGACY_NAME]


@cached
def cache_keyword() -> str:
    """The keyword under which `GenerationMixin.generate` of the installed transformers takes a cache."""
    return "cache" if "cache" in signature(GenerationMixin.prepare_inputs_for_generation).parameters else LEGACY_NAME


def _current_name(key: Any) -> Any:
    return "cache" if key == LEGACY_NAME else key
