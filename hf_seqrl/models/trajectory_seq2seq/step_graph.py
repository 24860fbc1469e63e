"""An encoder-decoder's step as a graph: it reads the whole history again and writes the symbols of one action."""

import torch
from gymnasium.spaces import Box
from torch import Tensor, nn

from hf_seqrl.models.step_graph import ActionCodec, ReturnReader, Standardized, StepGraph, step_inputs
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_seq2seq.outputs import EncodedHistory
from hf_seqrl.models.trajectory_seq2seq.processing_trajectory_seq2seq import TrajectorySeq2SeqProcessor


def step_graph(model: TrajectorySeq2SeqModel, processor: TrajectorySeq2SeqProcessor) -> StepGraph:
    """See `ModelFamily.step_graph`.

    Raises:
        ValueError: the model was trained to write something else than the next action.
    """
    if processor.target != "next_action":
        raise ValueError(f"target is {processor.target!r}: only a model that writes the 'next_action' can act.")
    steps = processor.context_length
    inputs = step_inputs(processor, "observation", "last_action", "return_to_go", "timestep")
    memory = {
        "states": torch.zeros(1, steps - 1, model.config.state_size),
        "actions": torch.zeros(1, steps - 1, model.config.action_size),
    }
    return StepGraph.acting(HistoryStep(model, processor), inputs, memory, f"the history of the last {steps} states")


class HistoryStep(nn.Module):
    """Encodes the last `context_length` states with the actions between them, and decodes an action."""

    def __init__(self, model: TrajectorySeq2SeqModel, processor: TrajectorySeq2SeqProcessor) -> None:
        super().__init__()
        self.model = model
        self.actions = ActionCodec(processor)
        self.returns = ReturnReader(processor)
        is_box = isinstance(processor.task.observations, Box)
        self.standardized = Standardized(*((processor.state_mean, processor.state_std) if is_box else (None, None)))
        self.writes_numbers = isinstance(processor.task.actions, Box)

    def forward(
        self,
        observation: Tensor,
        last_action: Tensor,
        return_to_go: Tensor,
        timestep: Tensor,
        past_states: Tensor,
        past_actions: Tensor,
    ) -> tuple[Tensor, ...]:
        """The step's inputs and what came before them, `(batch, context_length - 1, size)`; discrete entries are one-hot."""
        states = torch.cat([past_states, self.standardized(observation)[:, None]], dim=1)  # (B, K, size)
        actions = torch.cat([past_actions, self.actions.encode(last_action)[:, None]], dim=1)
        steps = states.shape[1]
        count = (timestep + 1).clamp(max=steps)  # (B,) states of the history
        # the history stands at the end, newest last; the encoder reads it from the front
        places = (torch.arange(steps, device=count.device) + steps - count[:, None]) % steps  # (B, K)
        following = torch.cat([actions[:, 1:], torch.zeros_like(actions[:, :1])], dim=1)  # the action after each state
        num_tokens = 2 * count + self.returns.is_conditioned  # states, the actions between them, EOS
        mask = torch.arange(2 * steps + self.returns.is_conditioned, device=count.device) < num_tokens[:, None]
        embeddings = self.model.source_embedding(
            _at(states, places),
            _at(following, places)[:, :-1],
            self.returns(return_to_go, timestep) if self.returns.is_conditioned else None,
            mask,
        )
        encoded = self.model.history_encoder(embeddings, mask)
        return self._written(encoded), states[:, 1:], actions[:, 1:]

    def _written(self, encoded: EncodedHistory) -> Tensor:
        """The action `(batch, entries)`: the vector at the first symbol, or one symbol a component."""
        decoder, groups = self.model.target_decoder, self.actions.groups
        cache = decoder.new_cache()
        symbols = torch.full_like(encoded.attention_mask[:, :1], self.model.config.bos_token_id, dtype=torch.int64)
        choices: list[Tensor] = []
        while True:
            hidden = decoder(self.model.target_embedding(symbols), encoded, cache)[:, -1]
            if self.writes_numbers and self.model.value_head is not None:
                values = self.model.value_head(hidden)
                return self.actions.assemble([], values[:, : self.actions.num_numbers])
            scores = self.model.head(hidden)[:, : groups[len(choices)]]
            choices.append(scores.argmax(dim=-1))
            if len(choices) == len(groups):
                return self.actions.assemble(choices, scores[:, :0])
            symbols = choices[-1][:, None]


def _at(entries: Tensor, places: Tensor) -> Tensor:
    """Entries `(batch, n, size)` in another order, `places` `(batch, n)`."""
    return entries.gather(1, places.unsqueeze(-1).expand(-1, -1, entries.shape[-1]))
