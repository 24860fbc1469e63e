"""Beam search for the plan with the greatest return, or the most likely one, under a Trajectory Transformer.

Source: [Janner et al. 2021](https://arxiv.org/abs/2106.02039), sections 3.2 and 3.3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch

from hf_seqrl.models.allocator import keep_freed_memory

from .discretizer import TrajectoryDiscretizer
from .generation import Beams, choose_tokens
from .inference import InferenceEngine
from .modeling_trajectory_transformer import TrajectoryTransformerModel

ValueFunction = Callable[[torch.Tensor], torch.Tensor]
Watch = Callable[[torch.LongTensor, torch.FloatTensor], None]
OBJECTIVES = ("return", "likelihood")


@dataclass(frozen=True)
class PlanningOptions:
    """Options of a [`BeamPlanner`]; the defaults are the paper's for Hopper and Walker2d.

    Attributes:
        horizon: Transitions of a plan.
        beam_width: Plans kept after each transition.
        n_expand: Continuations of each that are sampled in a transition.
        k_obs, k_act, k_rew: The number of most likely tokens to sample from; 1 is greedy, `None` is no limit.
            `k_rew` applies to the reward and the value.
        cdf_obs, cdf_act: The least likely tokens with less than this total probability (0 to 1) are not sampled;
            `None` is no limit.
        discount: Discount of the rewards of a plan.
        estimate: Reward and value of a candidate: `"mean"` of their distributions or a percentile as a fraction
            (0 to 1).
        max_context_transitions: Transitions that the model sees; with `crop`, including the one that is planned.
        crop: Whether the model keeps seeing that many (the original's way: the window slides along the plan), or the
            whole plan and `max_context_transitions` transitions before it, which is faster and must fit the model.
        objective: `"return"`: the plan with the greatest rewards and final value. `"likelihood"`: the most likely plan,
            which imitates the data (the paper's algorithm 1; takes `beam_width`, draws nothing, needs no `n_expand`).
        plan_every: Number of actions of a plan that are taken before planning again.
        environments_at_once: Environments per batch of the search; more use more memory. `None`: as many as make 256
            candidates on a CPU and 16,384 elsewhere.
    """

    horizon: int = 15
    beam_width: int = 128
    n_expand: int = 2
    k_obs: int | None = 1
    k_act: int | None = None
    k_rew: int | None = 1
    cdf_obs: float | None = None
    cdf_act: float | None = 0.6
    discount: float = 0.99
    estimate: str | float = "mean"
    max_context_transitions: int = 5
    crop: bool = True
    objective: str = "return"
    plan_every: int = 1
    environments_at_once: int | None = None

    @property
    def deterministic(self) -> bool:
        """Whether the search uses no random numbers: it maximizes the likelihood, or is greedy."""
        return self.objective == "likelihood" or self.k_obs == self.k_act == self.k_rew == 1

    def __post_init__(self) -> None:
        for name in ("horizon", "beam_width", "n_expand", "max_context_transitions", "plan_every"):
            if not _is_count(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)!r}: expected a whole number, at least 1.")
        for name in ("k_obs", "k_act", "k_rew", "environments_at_once"):
            if getattr(self, name) is not None and not _is_count(getattr(self, name)):
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: expected a whole number, at least 1, or None for no limit."
                )
        for name in ("cdf_obs", "cdf_act"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, Real) and 0 <= value < 1):
                raise ValueError(f"{name} is {value!r}: expected 0 <= {name} < 1, or None for no limit.")
        if not (isinstance(self.discount, Real) and 0 <= self.discount <= 1):
            raise ValueError(f"discount is {self.discount!r}: expected a number between 0 and 1.")
        if self.estimate != "mean" and not (isinstance(self.estimate, float) and 0 < self.estimate <= 1):
            raise ValueError(f"estimate is {self.estimate!r}: expected 'mean' or a fraction such as 0.5.")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}, expected one of {', '.join(OBJECTIVES)}.")
        if self.plan_every > self.horizon:
            raise ValueError(f"plan_every is {self.plan_every}: a plan has only horizon={self.horizon} actions.")


def _is_count(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and value >= 1


@dataclass(frozen=True)
class Plan:
    """The best plan of each environment.

    Attributes:
        tokens: `(num_envs, horizon, transition_dim)`.
        scores: The objective, `(num_envs,)`: the discounted return from here in raw units, or the log
            likelihood.
    """

    tokens: torch.LongTensor
    scores: torch.FloatTensor


class BeamPlanner:
    """Searches for plans.

    Args:
        model: A trained [`TrajectoryTransformerModel`]. The planner copies its weights, see `refresh`.
        discretizer: The bins of the model's tokens.
        value_function: A function of raw states `(n, observation_dim)` that returns raw returns `(n,)`. It
            replaces the model's own value tokens at the end of a plan ("+Q": the value of a critic learned by dynamic
            programming, paper section 4.2); then each candidate's next state is sampled before the best are kept.
        dtype: Of the search's forward passes, see [`InferenceEngine`].
        **options: Those of [`PlanningOptions`].

    Raises:
        ValueError: model and discretizer do not match, or the plan does not fit the model.

    Example:

    ```python
    >>> import numpy as np, torch
    >>> from hf_seqrl import BeamPlanner, TrajectoryDiscretizer, TrajectoryTransformerConfig, TrajectoryTransformerModel

    >>> sizes = {"observation_dim": 3, "action_dim": 1}
    >>> config = TrajectoryTransformerConfig(vocab_size=10, transition_dim=6, block_size=59, n_embd=8, n_layer=1, **sizes)
    >>> model = TrajectoryTransformerModel(config)
    >>> discretizer = TrajectoryDiscretizer.fit(np.random.randn(100, 6), num_bins=10, **sizes)
    >>> planner = BeamPlanner(model, discretizer, horizon=4, beam_width=8)
    >>> history = discretizer.encode(np.zeros(3), slice(0, 3))  # nothing but the first observation yet
    >>> planner.plan([history], seeds=[0]).tokens.shape
    torch.Size([1, 4, 6])

    ```
    """

    def __init__(
        self,
        model: TrajectoryTransformerModel,
        discretizer: TrajectoryDiscretizer,
        value_function: ValueFunction | None = None,
        dtype: torch.dtype | None = None,
        **options,
    ):
        config, bins = model.config, discretizer.config
        ours = (config.vocab_size, config.observation_dim, config.action_dim)
        if ours != (bins.num_bins, bins.observation_dim, bins.action_dim):
            raise ValueError(
                f"The model has {ours} bins, observation entries and action entries, the discretizer "
                f"{(bins.num_bins, bins.observation_dim, bins.action_dim)}: they must be trained together."
            )
        self.model, self.config, self.dtype = model, config, dtype
        self.options = PlanningOptions(**options)
        self.discretizer = discretizer
        self.value_function = value_function
        keep_freed_memory()
        self._check_that_plans_fit()
        self.refresh()

    def refresh(self) -> None:
        """Copy the model's current weights and device, after further training or a move."""
        self.discretizer.to(self.model.device)
        self.engine = InferenceEngine(self.model, self.dtype)
        impossible = torch.nn.functional.pad(~self.discretizer.possible, (0, 1), value=True)  # and the stop token
        self.allowed = torch.zeros(impossible.shape, device=self.model.device).masked_fill(impossible, -torch.inf)

    @torch.inference_mode()
    def plan(
        self,
        histories: Sequence[torch.LongTensor],
        generators: Sequence[torch.Generator] | None = None,
        *,
        seeds: Sequence[int] | None = None,
        goals: torch.LongTensor | None = None,
        watch: Watch | None = None,
    ) -> Plan:
        """The best plan of each environment.

        Args:
            histories: For each environment its tokens so far, `(time,)`: whole transitions, then the current
                observation. Their lengths may differ. What the value tokens are does not matter.
            generators: On the CPU, one for each environment: its plan depends on no other environment.
            seeds: Instead of generators; one of both is needed unless nothing is sampled.
            goals: Transitions that stand before everything else, `(num_envs, transition_dim)`: the condition of a model
                trained on sequences that begin with them; see `goal_transition`.
            watch: Called after each transition of a search for the greatest return with the plans that were kept, the
                best first: tokens `(envs, beam_width, transitions, transition_dim)` and what they promise `(envs,
                beam_width)`, for the environments that are searched together.
        """
        if generators is None:
            seeds = range(len(histories)) if seeds is None else seeds
            generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        histories = [self._recent(history) for history in histories]
        tokens = torch.empty(len(histories), self.options.horizon, self.config.transition_dim, dtype=torch.long)
        scores = torch.empty(len(histories))
        for group in self._groups([len(history) for history in histories]):
            known = torch.stack([histories[i] for i in group]).to(self.allowed.device)
            pinned = None if goals is None else goals[group].to(known.device)
            beams = Beams(self.engine, known, self._window(), pinned, alone=self._at_once() == 1)
            best, score = self._search(beams, [generators[i] for i in group], watch)
            tokens[group] = best.view(len(group), -1, self.config.transition_dim).cpu()
            scores[group] = score.cpu()
        return Plan(tokens, scores)

    def goal_transition(self, goals: torch.Tensor) -> torch.LongTensor:
        """Raw states to reach `(num_envs, observation_dim)` as tokens `(num_envs, transition_dim)`.

        The other entries are stop tokens: nothing is said about them.
        """
        tokens = self.discretizer.encode(goals, slice(0, self.config.observation_dim))
        missing = self.config.transition_dim - self.config.observation_dim
        return torch.nn.functional.pad(tokens, (0, missing), value=self.config.vocab_size)

    def _search(
        self, beams: Beams, generators: Sequence[torch.Generator], watch: Watch | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if self.options.objective == "likelihood":
            return self._most_likely(beams)
        return self._most_rewarding(beams, generators, watch)

    def _most_rewarding(
        self, beams: Beams, generators: Sequence[torch.Generator], watch: Watch | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The best rows' tokens `(num_envs, horizon * transition_dim)` and returns `(num_envs,)`."""
        options, num_envs = self.options, beams.num_envs
        observation_dim, transition_dim = self.config.observation_dim, self.config.transition_dim
        returned = torch.zeros(num_envs, device=beams.tokens.device)  # discounted rewards of each row's plan so far
        start = beams.known - observation_dim
        for step in range(options.horizon):
            scores = self._scores(beams)
            copies = options.n_expand if step else options.n_expand * options.beam_width
            beams.expand(copies)
            returned, scores = returned.repeat_interleave(copies), scores.repeat_interleave(copies, 0)
            for dimension in range(observation_dim, transition_dim):
                if dimension == transition_dim - 2:
                    returned = returned + options.discount**step * self._estimate(scores, dimension)
                if dimension == transition_dim - 1:
                    value = self._estimate(scores, dimension)
                beams.append(self._choose(scores, dimension, generators))
                if dimension < transition_dim - 1:
                    scores = self._scores(beams)
            if self.value_function is not None:
                self._observe(beams, generators)
                value = self._value_of_states(beams)
            total = returned + options.discount ** (step + 1) * value
            total, best = total.view(num_envs, -1).topk(options.beam_width)  # (num_envs, beam_width)
            best = (best + torch.arange(num_envs, device=best.device)[:, None] * (len(returned) // num_envs)).flatten()
            returned = returned[best]
            beams.select(best)
            if watch is not None:
                kept = beams.tokens[:, start : start + (step + 1) * transition_dim]
                watch(kept.view(num_envs, options.beam_width, step + 1, transition_dim), total)
            if self.value_function is None and step < options.horizon - 1:
                self._observe(beams, generators)
        end = start + options.horizon * transition_dim
        return beams.tokens[:: options.beam_width, start:end], total[:, 0]

    def _most_likely(self, beams: Beams) -> tuple[torch.Tensor, torch.Tensor]:
        """The most likely rows' tokens `(num_envs, horizon * transition_dim)` and log likelihoods `(num_envs,)`."""
        num_envs, start = beams.num_envs, beams.known - self.config.observation_dim
        total = torch.zeros(num_envs, 1, device=beams.tokens.device)
        while beams.tokens.shape[1] < start + self.options.horizon * self.config.transition_dim:
            likelihood = self._scores(beams).log_softmax(-1)
            num_tokens = likelihood.shape[-1]
            total = (total.view(-1, 1) + likelihood).view(num_envs, -1)  # (num_envs, rows * num_tokens)
            total, best = total.topk(min(self.options.beam_width, total.shape[1]))
            offsets = torch.arange(num_envs, device=best.device)[:, None] * (len(likelihood) // num_envs)
            beams.select((best // num_tokens + offsets).flatten())
            beams.append((best % num_tokens).flatten())
        return beams.tokens[:: total.shape[1], start:], total[:, 0]

    def _scores(self, beams: Beams) -> torch.Tensor:
        """Scores of each row's next token, minus infinity for the stop token and for bins that hold nothing."""
        return beams.next_scores() + self.allowed[beams.tokens.shape[1] % self.config.transition_dim]

    def _choose(self, scores: torch.Tensor, dimension: int, generators: Sequence[torch.Generator]) -> torch.LongTensor:
        options, action_dim = self.options, self.config.action_dim
        if dimension < self.config.observation_dim:
            return choose_tokens(scores, generators, options.k_obs, options.cdf_obs)
        if dimension < self.config.observation_dim + action_dim:
            return choose_tokens(scores, generators, options.k_act, options.cdf_act)
        return choose_tokens(scores, generators, options.k_rew)

    def _observe(self, beams: Beams, generators: Sequence[torch.Generator]) -> None:
        for dimension in range(self.config.observation_dim):
            beams.append(self._choose(self._scores(beams), dimension, generators))

    def _estimate(self, scores: torch.Tensor, dimension: int) -> torch.Tensor:
        probabilities = scores.softmax(-1)
        if self.options.estimate == "mean":
            return self.discretizer.expectation(probabilities, dimension)
        return self.discretizer.percentile(probabilities, self.options.estimate, dimension)

    def _value_of_states(self, beams: Beams) -> torch.Tensor:
        observation_dim = self.config.observation_dim
        states = self.discretizer.decode(beams.tokens[:, -observation_dim:], slice(0, observation_dim))
        return self.value_function(states).reshape(len(states)).to(states)

    def _recent(self, history: torch.LongTensor) -> torch.LongTensor:
        size, keep = self.config.transition_dim, self.options.max_context_transitions
        if len(history) % size != self.config.observation_dim:
            raise ValueError(
                f"A history has {len(history)} tokens: expected whole transitions of {size} and an observation of "
                f"{self.config.observation_dim}."
            )
        return history[max(0, len(history) // size - keep) * size :]

    def _window(self) -> int:
        """Transitions that the model sees."""
        options, longest = self.options, (self.config.block_size + 1) // self.config.transition_dim
        if options.crop:
            return min(options.max_context_transitions, longest)
        return longest

    def _groups(self, lengths: Sequence[int]) -> list[list[int]]:
        """Environments whose histories are equally long, as many together as are searched at once."""
        at_once, groups = self._at_once(), []
        for length in sorted(set(lengths)):
            same = [i for i, other in enumerate(lengths) if other == length]
            groups += [same[i : i + at_once] for i in range(0, len(same), at_once)]
        return groups

    def _at_once(self) -> int:
        options = self.options
        candidates = 256 if self.allowed.device.type == "cpu" else 16_384
        return options.environments_at_once or max(1, candidates // (options.beam_width * options.n_expand))

    def _check_that_plans_fit(self) -> None:
        options, config = self.options, self.config
        transitions = options.max_context_transitions + options.horizon
        needed = transitions * config.transition_dim - 1
        if not options.crop and needed > config.block_size:
            raise ValueError(
                f"Without cropping, {transitions} transitions make {needed} tokens, but the model has "
                f"block_size={config.block_size}: shorten horizon or max_context_transitions, or set crop=True."
            )
