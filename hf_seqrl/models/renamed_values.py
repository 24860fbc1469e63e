"""The former field `values` of outputs: its name is that of a method of every dictionary, which an output is.

A field of this name hides `dict.values`, which pytrees, `torch.export` and FSDP2 call. The fields have other names now. What
read `output.values` as a tensor goes on working, with a warning.
"""

import warnings
from collections import OrderedDict
from typing import Any, ClassVar

import torch
from transformers.utils import ModelOutput


class RenamedValues:
    """What `output.values` gives: the method of a dictionary when it is called, else the tensor that had this name.

    Args:
        output: Where it is read.
        name: The field that holds the tensor now.
    """

    def __init__(self, output: ModelOutput, name: str) -> None:
        self._output, self._name = output, name

    def __call__(self) -> Any:
        return OrderedDict.values(self._output)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tensor(), name)

    def __getitem__(self, index: Any) -> torch.Tensor:
        return self._tensor()[index]

    def __len__(self) -> int:
        return len(self._tensor())

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return function(*(value._tensor() if isinstance(value, cls) else value for value in args), **(kwargs or {}))

    def _tensor(self) -> Any:
        warnings.warn(
            f"output.values is deprecated, because a dictionary has a method of this name: read output.{self._name}.",
            FutureWarning,
            stacklevel=3,
        )
        return getattr(self._output, self._name)


def _forwarded(name: str) -> Any:
    return lambda self, *others: getattr(self._tensor(), name)(*others)


for _name in ("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "pow", "neg", "iter", "float"):
    setattr(RenamedValues, f"__{_name}__", _forwarded(f"__{_name}__"))


class OutputWithRenamedValues(ModelOutput):
    """An output whose field `values` is now called `_values_name`."""

    _values_name: ClassVar[str]

    @property
    def values(self) -> Any:
        """See [`RenamedValues`]."""
        return RenamedValues(self, self._values_name)

    def __getitem__(self, key: Any) -> Any:
        return RenamedValues(self, self._values_name)._tensor() if key == "values" else super().__getitem__(key)
