"""What a search does: its widths, its objective, what it may see."""

from dataclasses import dataclass

OBJECTIVES = ("return", "likelihood")


@dataclass(frozen=True)
class PlanningOptions:
    """Options of a [`BeamPlanner`]; the defaults are the paper's for Hopper and Walker2d.

    Attributes:
        horizon: Transitions of a plan.
        beam_width: Plans kept after each transition.
        n_expand: Continuations of each that are sampled in a transition.
        k_obs, k_act, k_rew: Only so many likeliest tokens are sampled from; 1 takes the likeliest, `None` is no limit.
            `k_rew` holds for the reward and the value.
        cdf_obs, cdf_act: The least likely tokens that hold less than this probability (0 to 1) are not sampled;
            `None` is no limit.
        discount: By which a reward loses worth with each step.
        estimate: Reward and value of a candidate: `"mean"` of their distributions or a percentile as a fraction
            (0 to 1).
        max_context_transitions: Transitions that the model sees. With `crop`, the one that is planned is among them.
        crop: Whether the model keeps seeing that many (the original's way: the window slides along the plan), or the
            whole plan and `max_context_transitions` transitions before it, which is faster and must fit the model.
        objective: `"return"`: the plan with the greatest rewards and final value. `"likelihood"`: the most likely plan,
            which imitates the data (the paper's algorithm 1; takes `beam_width`, draws nothing, needs no `n_expand`).
        plan_every: Actions that are taken from a plan before the next one is made.
        environments_at_once: Environments searched in one go; more use more memory. `None`: as many as make 256
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
        """Whether a search draws no random numbers: it seeks the likeliest, or takes the likeliest token of all."""
        return self.objective == "likelihood" or self.k_obs == self.k_act == self.k_rew == 1

    def __post_init__(self) -> None:
        for name in ("horizon", "beam_width", "n_expand", "max_context_transitions", "plan_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")
        for name in ("k_obs", "k_act", "k_rew", "environments_at_once"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1, or None for no limit.")
        for name in ("cdf_obs", "cdf_act"):
            if getattr(self, name) is not None and not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected 0 <= {name} < 1, or None for no limit.")
        if self.estimate != "mean" and not (isinstance(self.estimate, float) and 0 < self.estimate <= 1):
            raise ValueError(f"estimate is {self.estimate!r}: expected 'mean' or a fraction such as 0.5.")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective is {self.objective!r}, expected one of {', '.join(OBJECTIVES)}.")
        if self.plan_every > self.horizon:
            raise ValueError(f"plan_every is {self.plan_every}: a plan has only horizon={self.horizon} actions.")
