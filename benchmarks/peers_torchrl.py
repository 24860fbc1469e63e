"""torchrl's Decision Transformer with torchrl's loss: what `decision_transformer_training.py` compares with.

Put together as in its example `sota-implementations/decision_transformer`: `DTActor` in a `ProbabilisticActor` with `TanhDelta`,
`DTLoss` with the squared error. It attends to padded steps and counts their loss, and has no embedding of the timestep.
"""

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import DTActor, ProbabilisticActor, TanhDelta
from torchrl.objectives import DTLoss

SIZES = {
    "n_embd": 128,
    "n_layer": 3,
    "n_head": 1,
    "n_inner": 512,
    "activation": "relu",
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "attn_pdrop": 0.1,
}


class TorchrlModel(nn.Module):
    """Actor and loss behind the interface of the stock model.

    Args:
        state_dim, act_dim (`int`): Entries of a state and of an action in [-1, 1].
        device (`str`): Of the bounds of the actions, too, which `Module.to` would not move.
    """

    def __init__(self, state_dim: int, act_dim: int, device: str) -> None:
        super().__init__()
        network = TensorDictModule(
            DTActor(state_dim, act_dim, transformer_config=SIZES, device=device),
            in_keys=["observation_cat", "action_cat", "return_to_go_cat"],
            out_keys=["param"],
        )
        actor = ProbabilisticActor(
            module=network,
            in_keys=["param"],
            out_keys=["action"],
            distribution_class=TanhDelta,
            distribution_kwargs={
                "low": -torch.ones(act_dim, device=device),
                "high": torch.ones(act_dim, device=device),
            },
            cache_dist=False,
            return_log_prob=False,
        )
        self.loss = DTLoss(actor, loss_function="l2", device=torch.device(device))
        self.loss.set_keys(action_target="action_cat")

    def forward(
        self, states: torch.Tensor, actions: torch.Tensor, returns_to_go: torch.Tensor, **others: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The loss of a batch of windows.

        Args:
            states: `(batch, time, state_dim)`.
            actions: `(batch, time, act_dim)`.
            returns_to_go: `(batch, time, 1)`.
            others: What else a batch of ours holds; not read.
        """
        windows = {"observation_cat": states, "action_cat": actions, "return_to_go_cat": returns_to_go}
        return {"loss": self.loss(TensorDict(windows, states.shape[:1]))["loss"]}
