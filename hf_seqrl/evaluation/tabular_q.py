"""Fitted Q evaluation with a table: exact dynamic programming on the transitions of a data set whose states recur."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

from hf_seqrl.evaluation.logged_episodes import LoggedEpisodes, PolicyOnLog

_MOST_ENTRIES = 1 << 24  # numbers of a table for some resamples at once, 128 MiB
_VISITS_FOR_A_TABLE = 10
_PRIOR_VISITS = np.geomspace(0.01, 1, 7)  # more would hide what the actions differ in
_TOLERANCE = 1e-9  # of the range of the values, below which further steps back change nothing


def state_codes(log: LoggedEpisodes) -> np.ndarray:
    """Which of the different observations each step has, `(steps,)` from 0 on."""
    flat = np.ascontiguousarray(log.observations.reshape(log.num_steps, -1))
    rows = flat.view(np.dtype((np.void, flat.dtype.itemsize * flat.shape[1]))).ravel()
    return np.unique(rows, return_inverse=True)[1]


def is_tabular(log: LoggedEpisodes, states: np.ndarray) -> bool:
    """Whether a table is the right function: actions are discrete, and a state recurs at ten steps or more in the mean."""
    return log.num_actions is not None and log.num_steps >= _VISITS_FOR_A_TABLE * (int(states.max()) + 1)


def fitted_prior_visits(log: LoggedEpisodes, states: np.ndarray) -> float:
    """As how many visits the mean of a state should count for each of its actions: what predicts the recorded successors best.

    The successor of each step is predicted by the other visits of its pair of state and action, with the successors of all
    actions in the state as a Dirichlet prior; of the weights up to 1, the one with the greatest likelihood is taken (empirical
    Bayes). It is near 0 where the dynamics are deterministic, and 1 where actions hardly differ: there a pair that was visited
    once would else repeat for ever what happened then.

    Args:
        log: The episodes.
        states: From [`state_codes`].
    """
    followed = np.flatnonzero(~log.is_last | log.terminated)
    if not len(followed):
        return 0.0
    end = int(states.max()) + 1
    successors = np.where(log.is_last[followed], end, np.append(states[1:], end)[followed])
    here, pairs = states[followed], states[followed] * int(log.num_actions or 0) + log.codes[followed]
    of_pair, of_state = _others(pairs), _others(here)
    same_of_pair, same_of_state = _others(pairs * (end + 1) + successors), _others(here * (end + 1) + successors)
    prior = (same_of_state + 1 / (end + 1)) / (of_state + 1)
    likelihoods = [np.log((same_of_pair + weight * prior) / (of_pair + weight)).sum() for weight in _PRIOR_VISITS]
    return float(_PRIOR_VISITS[int(np.argmax(likelihoods))])


def _others(keys: np.ndarray) -> np.ndarray:
    """How many other entries have the same key, `(n,)`."""
    _, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
    return counts[inverse] - 1


@dataclass(frozen=True)
class TabularEstimate:
    """What tables say, one for each row of multiplicities of the episodes.

    Attributes:
        values: The mean value of the first states, `(resamples,)`.
        q_values, state_values: Of each step with as many steps to go as it has, by tables that were fitted without the step's
            own episode, `(steps,)`; for doubly robust estimates.
    """

    values: np.ndarray
    q_values: np.ndarray
    state_values: np.ndarray


@dataclass(frozen=True)
class TabularQ:
    """Values by tables `(states, actions)` that are fitted backwards, one step to go after the other (Le et al., 2019,
    algorithm 3, with the mean of the targets as regression; equal to dynamic programming in the model of observed
    frequencies). `horizon` such steps give the return of `horizon` steps, so that no discount is needed.

    The rewards of a pair of state and action are the mean of the recorded ones, and its successors are those that were
    recorded: the last step of an episode that did not terminate tells its reward and no successor. To both, the means of the
    state are added as `prior_visits` visits more, which is all that a pair has that the data lack.

    Args:
        log: The episodes.
        states: From [`state_codes`].
        policy: Of known probabilities.
        discount: Weight of a reward one step later.
        prior_visits: As how many visits more the mean of the state counts for each of its actions; from [`fitted_prior_visits`].
    """

    log: LoggedEpisodes
    states: np.ndarray
    policy: PolicyOnLog
    discount: float
    prior_visits: float = 0.0
    _node_of_step: np.ndarray = field(init=False)
    _node_states: np.ndarray = field(init=False)
    _node_probabilities: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        # nodes: the different pairs of a state and what the policy does there, on which the value of what follows depends
        probabilities = np.ascontiguousarray(self.policy.probabilities, np.float32)
        rows = np.concatenate([self.states[:, None].astype(np.int32).view(np.float32), probabilities], axis=1)
        keys = np.ascontiguousarray(rows).view(np.dtype((np.void, 4 * rows.shape[1]))).ravel()
        _, first, nodes = np.unique(keys, return_index=True, return_inverse=True)
        object.__setattr__(self, "_node_of_step", nodes)
        object.__setattr__(self, "_node_states", self.states[first])
        object.__setattr__(self, "_node_probabilities", probabilities[first].astype(np.float64))

    @property
    def num_states(self) -> int:
        return int(self.states.max()) + 1

    def unseen(self) -> np.ndarray:
        """The policy's probability of actions that were never recorded in the state, at each step `(steps,)`."""
        seen = np.zeros((self.num_states, int(self.log.num_actions or 0)), bool)
        seen[self.states, self.log.codes] = True
        return (self.policy.probabilities * ~seen[self.states]).sum(axis=1)

    def evaluate(self, counts: np.ndarray) -> TabularEstimate:
        """The values by the data and by resamples of them.

        Args:
            counts: How often each resample holds each episode, `(resamples, episodes)`; the first row is that of the data.
        """
        width = max(2, _MOST_ENTRIES // (self.num_states * int(self.log.num_actions or 1)))
        parts = [
            self._first_values(np.concatenate([counts[:1], counts[start : start + width - 1]]))[1:]
            for start in range(1, len(counts), width - 1)
        ]
        values = np.concatenate([self._first_values(counts[:1]), *parts])
        return TabularEstimate(values, *self._cross_fitted())

    def _first_values(self, counts: np.ndarray) -> np.ndarray:
        for _, _, values in self._backwards(counts):  # noqa: B007
            pass
        firsts = values[self._node_of_step[self.log.first_steps]]  # (episodes, resamples)
        return (counts.T * firsts).sum(axis=0) / counts.sum(axis=1)

    def _cross_fitted(self) -> tuple[np.ndarray, np.ndarray]:
        """Each step's values by the tables of the other half of the episodes."""
        log = self.log
        odd = np.arange(log.num_episodes) % 2
        halves = np.stack([np.ones(log.num_episodes), odd, 1 - odd]).astype(np.float64)
        own = 1 + odd[log.episode_of_step]  # of even episodes the table of the odd ones, and the other way round
        to_go = log.horizon - log.timesteps
        q_values, state_values = np.zeros(log.num_steps), np.zeros(log.num_steps)
        stage = 0
        for stage, table, values in self._backwards(halves):
            here = np.flatnonzero(to_go == stage)
            q_values[here] = table[self.states[here], log.codes[here], own[here]]
            state_values[here] = values[self._node_of_step[here], own[here]]
        rest = np.flatnonzero(to_go > stage)  # the values had converged
        q_values[rest] = table[self.states[rest], log.codes[rest], own[rest]]
        state_values[rest] = values[self._node_of_step[rest], own[rest]]
        return q_values, state_values

    def _backwards(self, counts: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """For 1, 2, ... steps to go: their number, the table `(states, actions, resamples)`, and the values of the nodes
        `(nodes, resamples)`. Ends at the horizon, or where nothing changes any more."""
        model = _ObservedModel(self, counts)
        values = np.zeros((len(self._node_states), len(counts)))
        scale = max(float(np.abs(self.log.rewards).max()), 1e-12)
        for stage in range(1, self.log.horizon + 1):
            table = model.rewards + self.discount * model.following(values)
            updated = self._values_of_nodes(table)
            change = float(np.abs(updated - values).max())
            values = updated
            yield stage, table, values
            if change <= _TOLERANCE * max(scale, float(np.abs(values).max())):
                return

    def leaning(self, confidence: float) -> float:
        """How far the value could be off because rarely taken actions lean on the others of their state.

        The estimated value of an action is drawn towards the mean of its state by the share `prior_visits / (visits +
        prior_visits)`, wholly where the data never take it. This is the sum over an episode, as discounted as rewards, of that share of
        one standard deviation between the actions of a state, weighted by how much farther the policy's probability is from the
        data's frequency than the standard error of that: what is missed where all such actions are better, or all worse, than
        their state's mean. A policy that acts as the data do misses nothing. Of the standard deviation, an upper confidence bound is taken, as few visits hide it.

        Args:
            confidence: Of that bound.
        """
        everything = np.ones((1, self.log.num_episodes))
        model = _ObservedModel(self, everything)
        for _, _, values in self._backwards(everything):  # noqa: B007
            pass
        visits = model.visits[..., 0]  # (states, actions)
        shares = np.where(visits > 0, self.prior_visits / np.maximum(visits + self.prior_visits, 1e-12), 1.0)
        departures = _departures(self._node_probabilities, visits[self._node_states])
        missing = (departures * shares[self._node_states]).sum(axis=1)
        missing *= self._deviation_of_actions(values[:, 0], confidence)
        total = np.zeros((len(missing), 1))
        for _ in range(self.log.horizon):
            updated = missing[:, None] + self.discount * self._values_of_nodes(model.following(total))
            change = float(np.abs(updated - total).max())
            total = updated
            if change <= _TOLERANCE * max(1.0, float(total.max())):
                break
        return float(total[self._node_of_step[self.log.first_steps], 0].mean())

    def _deviation_of_actions(self, values: np.ndarray, confidence: float) -> float:
        """An upper bound of the standard deviation between the actions of a state of what they lead to, by the values of the nodes
        `(nodes,)`.

        By one-way analysis of variance with random effects (Searle, Casella and McCulloch, 1992, section 3.6) within each state
        where an action was taken twice, as the noise differs from state to state; the bound is the estimate's normal one.
        """
        log, count = self.log, int(self.log.num_actions or 0)
        followed = np.flatnonzero(~log.is_last | log.terminated)
        following = np.where(log.is_last, 0.0, values[np.append(self._node_of_step[1:], 0)])
        targets = (log.rewards + self.discount * following)[followed]
        states, codes, size = self.states[followed], log.codes[followed], (self.num_states, count)
        visits = np.bincount(states * count + codes, minlength=size[0] * count).reshape(size)
        sums = np.bincount(states * count + codes, targets, size[0] * count).reshape(size)
        of_state, means = visits.sum(axis=1), sums / np.maximum(visits, 1)
        state_means = sums.sum(axis=1) / np.maximum(of_state, 1)
        within = np.bincount(states, (targets - means[states, codes]) ** 2, size[0])
        between = (visits * (means - state_means[:, None]) ** 2).sum(axis=1)
        freedom, noise_freedom = (visits > 0).sum(axis=1) - 1, of_state - (visits > 0).sum(axis=1)
        tells = (freedom > 0) & (noise_freedom > 0)
        if not tells.any():
            return float(targets.std()) if len(targets) else 0.0
        freedom, noise_freedom, of_state = freedom[tells], noise_freedom[tells], of_state[tells]
        noise = within[tells] / noise_freedom
        sizes = (of_state - (visits[tells] ** 2).sum(axis=1) / of_state).sum()
        variance = (between[tells] - freedom * noise).sum() / sizes
        error = np.sqrt((2 * noise**2 * (freedom + freedom**2 / noise_freedom)).sum()) / sizes
        return float(np.sqrt(max(0.0, variance + NormalDist().inv_cdf(confidence) * error)))

    def _values_of_nodes(self, table: np.ndarray) -> np.ndarray:
        values = np.zeros((len(self._node_states), table.shape[2]))
        for action in range(table.shape[1]):  # an action at a time takes the least memory
            likely = np.flatnonzero(self._node_probabilities[:, action])
            values[likely] += self._node_probabilities[likely, action, None] * table[self._node_states[likely], action]
        return values


class _ObservedModel:
    """The mean rewards and what follows, by observed frequencies in resamples of the episodes.

    Attributes:
        visits: `(states, actions, resamples)`.
        rewards: Means, of the same shape.
    """

    def __init__(self, table: TabularQ, counts: np.ndarray) -> None:
        log, prior = table.log, table.prior_visits
        self._shape = (table.num_states, int(log.num_actions or 0), len(counts))
        pairs = table.states * self._shape[1] + log.codes
        weights = counts.T[log.episode_of_step]  # (steps, resamples)
        by_pair = _Sums(pairs, self._shape[0] * self._shape[1])
        self.visits = by_pair(weights).reshape(self._shape)
        self.rewards = _Means(self.visits, prior)(by_pair(weights * log.rewards[:, None]).reshape(self._shape))
        followed = np.flatnonzero(~log.is_last | log.terminated)
        self._mean_values = _Means(_Sums(pairs[followed], by_pair.size)(weights[followed]).reshape(self._shape), prior)
        going_on = np.flatnonzero(~log.is_last)
        groups, group_pairs, self._group_nodes = _grouped(pairs[going_on], table._node_of_step[going_on + 1])
        self._group_weights = _Sums(groups, len(group_pairs))(weights[going_on])
        self._of_groups = _Sums(group_pairs, by_pair.size)

    def following(self, values: np.ndarray) -> np.ndarray:
        """The mean of the values of the nodes `(nodes, resamples)` that follow each pair, `(states, actions, resamples)`."""
        return self._mean_values(self._of_groups(self._group_weights * values[self._group_nodes]).reshape(self._shape))


def _departures(probabilities: np.ndarray, visits: np.ndarray) -> np.ndarray:
    """By how much more than a standard error probabilities `(n, actions)` differ from the frequencies of the visits to the same
    states, `(n, actions)`, to which one more is added that is spread evenly."""
    totals = visits.sum(axis=1, keepdims=True) + 1
    frequencies = (visits + 1 / visits.shape[1]) / totals
    errors = np.sqrt(frequencies * (1 - frequencies) / totals)
    return np.maximum(0.0, np.abs(probabilities - frequencies) - errors)


class _Sums:
    """Adds up rows `(n, resamples)` by their places `(n,)` among `size`."""

    def __init__(self, places: np.ndarray, size: int) -> None:
        self.size = size
        self._order = np.argsort(places, kind="stable")
        ordered = places[self._order]
        self._starts = np.flatnonzero(np.diff(ordered, prepend=-1))
        self._occupied = ordered[self._starts]

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """`(size, resamples)`."""
        totals = np.zeros((self.size, values.shape[1]))
        if len(self._starts):
            totals[self._occupied] = np.add.reduceat(values[self._order], self._starts, axis=0)
        return totals


def _grouped(pairs: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The group of each transition, and the pair and the following node of each group."""
    span = int(nodes.max(initial=0)) + 1
    keys, groups = np.unique(pairs.astype(np.int64) * span + nodes, return_inverse=True)
    return groups, keys // span, keys % span


class _Means:
    """Divides totals by visits, with `prior_visits` more that have the mean of the state; for a state without a visit, what the
    data say (the first resample).

    Args:
        visits: `(states, actions, resamples)`.
        prior_visits: As of [`TabularQ`].
    """

    def __init__(self, visits: np.ndarray, prior_visits: float) -> None:
        of_state = visits.sum(axis=1, keepdims=True)
        sizes = visits + prior_visits
        self._own = np.where(sizes > 0, 1.0 / np.where(sizes > 0, sizes, 1.0), 0.0)
        self._shared = np.where(sizes > 0, prior_visits * self._own, 1.0) / np.where(of_state > 0, of_state, 1.0)
        self._unseen_states, self._unseen_in = np.nonzero(of_state[:, 0] == 0)

    def __call__(self, totals: np.ndarray) -> np.ndarray:
        """`(states, actions, resamples)`."""
        means = totals * self._own
        means += self._shared * totals.sum(axis=1, keepdims=True)
        means[self._unseen_states, :, self._unseen_in] = means[self._unseen_states, :, 0]
        return means
