"""The autoregressive loop over environments: judging agents, collecting data, scores with confidence intervals.

`hf_seqrl.rollout(agent, env, ...)` is `hf_seqrl.rollout.rolling.rollout`. Python binds this subpackage to the same name in
its parent as soon as a module of it is imported, so the subpackage itself can be called.
"""

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_seqrl.rollout.result import RolloutResult


class _CallablePackage(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> "RolloutResult":
        """See `hf_seqrl.rollout.rolling.rollout`."""
        from hf_seqrl.rollout.rolling import rollout

        return rollout(*args, **kwargs)


sys.modules[__name__].__class__ = _CallablePackage
