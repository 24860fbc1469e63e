"""CORL's Decision Transformer, trained by its own script: what `decision_transformer_training.py` compares with.

The script is `algorithms/offline/dt.py` of https://github.com/corl-team/CORL, downloaded by whoever wants the comparison. Its
function `train` runs as it is. What it imports beside PyTorch and NumPy is not needed and replaced for the import: d4rl and gym by
the data at hand, pyrallis, wandb and the progress bar by nothing.
"""

import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
from datasets import Dataset

SOURCE = "algorithms/offline/dt.py of https://github.com/corl-team/CORL"


class D4RLData:
    """What the script asks of an environment: its data set in D4RL's form and the sizes of its spaces.

    Args:
        rows (`Dataset`): One row an episode, with lists `observations`, `actions`, `rewards`.
    """

    def __init__(self, rows: Dataset) -> None:
        names = ("observations", "actions", "rewards")
        arrays = {name: np.concatenate([np.array(row, np.float32) for row in rows[name]]) for name in names}
        ends = np.zeros(len(arrays["rewards"]), bool)
        ends[np.cumsum([len(row) for row in rows["rewards"]]) - 1] = True
        self.arrays = arrays | {"terminals": np.zeros_like(ends), "timeouts": ends}
        self.observation_space, self.action_space = (
            SimpleNamespace(shape=arrays[name].shape[1:]) for name in ("observations", "actions")
        )

    def get_dataset(self) -> dict[str, np.ndarray]:
        return self.arrays


class CorlTraining:
    """The script's training on other data.

    An update is all that the script does between two reports to wandb: a batch from its sampler by a `DataLoader` (without
    worker processes), forward, loss, backward, clip, AdamW, the learning rate, and `loss.item()` for the report. Its evaluations
    are left out.

    Args:
        path (`Path`): The script.
        rows (`Dataset`): As for [`D4RLData`].
    """

    def __init__(self, path: Path, rows: Dataset) -> None:
        data, unchanged = D4RLData(rows), lambda env, function: env
        wrappers = SimpleNamespace(TransformObservation=unchanged, TransformReward=unchanged)
        self.wandb = SimpleNamespace(init=lambda **settings: None, run=SimpleNamespace(save=lambda: None))
        stand_ins = {
            "d4rl": SimpleNamespace(),
            "gym": SimpleNamespace(Env=D4RLData, make=lambda name: data, wrappers=wrappers),
            "pyrallis": SimpleNamespace(wrap=lambda: lambda function: function),
            "wandb": self.wandb,
        }
        with _imported_in_place_of(stand_ins):
            self.script = _module_of(path)
        self.script.trange = lambda count, **settings: range(count)
        self.script.load_d4rl_trajectories = cache(self.script.load_d4rl_trajectories)
        self.longest = max(map(len, rows["rewards"]))

    def updates_per_second(self, steps: int, device: str, clock: Callable[[], float]) -> float:
        """By `clock`, over `steps` updates after a first one; the script's default sizes and rates."""
        ends: list[float] = []
        self.wandb.log = lambda values, step: ends.append(clock())
        config = self.script.TrainConfig(
            update_steps=steps + 1,
            num_workers=0,
            device=device,
            target_returns=(),
            episode_len=max(self.longest, self.script.TrainConfig.episode_len),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            self.script.train(config)
        return steps / (ends[-1] - ends[0])


@contextlib.contextmanager
def _imported_in_place_of(stand_ins: dict[str, object]) -> Iterator[None]:
    """`import NAME` gives the stand-in of that name."""
    replaced = {name: sys.modules[name] for name in stand_ins if name in sys.modules}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name in stand_ins:
            del sys.modules[name]
        sys.modules.update(replaced)


def _module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("corl_dt", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
