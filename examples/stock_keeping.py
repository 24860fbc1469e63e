"""From the orders of planners to an agent that keeps the stock of a supply chain, judged from the log alone, then checked.

    python examples/stock_keeping.py

A shop sells one product. It orders from a depot, the depot from a factory's store, and that from the factory; goods take 3, 5 and 10
weeks. The chain, its prices and capacities are those of the multi-echelon problem of OR-Gym (Hubbs et al., 2020; Perez et al., 2021),
where unfilled demand is lost; only the mean demand, 20 a week there, is drawn anew for every season. A season has 30 weeks. What is
left at its end is worth nothing.

The log is a table with one row a week: what planners of different skill saw and ordered. Agents learn from it, are judged by it, and only
then is the chain itself asked: how much do they earn in seasons that nobody has seen? They are compared with the planners and with
base-stock policies, the controllers of the trade.
"""

from collections.abc import Callable
from pathlib import Path

import gymnasium as gym
import jobs
import numpy as np
import pandas as pd
from datasets import DatasetDict
from gymnasium.spaces import Box

from hf_seqrl import Runner, load_trajectories, rollout

WEEKS = 30
LEAD_TIMES = np.array([3, 5, 10])  # weeks, to the shop, the depot and the store
CAPACITIES = np.array([100, 90, 80])  # units a week
FIRST_STOCK = np.array([100, 100, 200])
PRICE, UNIT_COST = 2.0, 0.5  # what a customer pays; what the factory makes a unit for
HOLDING = np.array([0.15, 0.10, 0.05])  # a unit and week
UNFILLED = np.array([0.10, 0.075, 0.05, 0.025])  # goodwill, a unit of demand and of orders that was not filled
MEAN_DEMAND = (10.0, 30.0)  # of a season
SEEN = ["weeks_left", "demand_last", "demand_mean"]
SEEN += [f"{what}_{place}" for what in ("stock", "coming") for place in ("shop", "depot", "store")]
ORDERS = ["order_shop", "order_depot", "order_store"]
Planner = Callable[[np.ndarray], np.ndarray]


class SupplyChain(gym.Env):
    """Observations are the columns `SEEN`, actions the orders in units, rewards the profit of the week.

    Args:
        mean_demand: Customers' mean demand a week, drawn between these for each season; Poisson within it.
    """

    observation_space = Box(-np.inf, np.inf, (len(SEEN),), np.float32)
    action_space = Box(0.0, CAPACITIES.astype(np.float32), dtype=np.float32)

    def __init__(self, mean_demand: tuple[float, float] = MEAN_DEMAND) -> None:
        self._mean_demand = mean_demand

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.demands = self.np_random.poisson(self.np_random.uniform(*self._mean_demand), WEEKS)
        self.week, self.stock = 0, FIRST_STOCK.copy()
        self._shipped = np.zeros((WEEKS, 3), np.int64)
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        orders = np.rint(np.clip(action, 0, CAPACITIES)).astype(np.int64)
        supply = np.append(self.stock[1:], orders[-1])  # of raw material there is always enough
        shipped = np.minimum(orders, supply)
        self._shipped[self.week] = shipped
        due = self.week - LEAD_TIMES
        arrived = np.where(due >= 0, self._shipped[np.maximum(due, 0), np.arange(3)], 0)
        sold = min(self.stock[0] + arrived[0], self.demands[self.week])
        self.stock = self.stock + arrived - np.append(sold, shipped[:-1])
        lost = self.demands[self.week] - sold
        unfilled = UNFILLED @ np.append(lost, orders - shipped)
        profit = PRICE * sold - UNIT_COST * shipped[-1] - HOLDING @ self.stock - unfilled
        self.week += 1
        return self._seen(), float(profit), False, self.week == WEEKS, {}

    def _seen(self) -> np.ndarray:
        past = self.demands[: self.week]
        demand = (past[-1], past.mean()) if self.week else (np.mean(MEAN_DEMAND),) * 2
        on_the_way = [
            self._shipped[max(self.week - lead, 0) : self.week, i].sum() for i, lead in enumerate(LEAD_TIMES)
        ]
        return np.array([WEEKS - self.week, *demand, *self.stock, *on_the_way], np.float32)


def base_stock(safety: float = 1.0, belief: float = 5.0, minds_the_end: bool = True) -> Planner:
    """Orders up to what is expected to be sold until the next order arrives in the shop (Clark and Scarf, 1960).

    Args:
        safety: Stock beyond that, in standard deviations of this demand.
        belief: How many weeks of this season's demand weigh as much as the mean of all seasons; infinity: they do not count.
        minds_the_end: Orders nothing that cannot be sold any more.
    """
    until_sold = np.cumsum(LEAD_TIMES + 1)  # weeks; what arrives in a week is passed on in the next

    def orders(seen: np.ndarray) -> np.ndarray:
        seen = np.asarray(seen, np.float64)
        left, usual = seen[:, :1], np.mean(MEAN_DEMAND)
        demand = usual + (seen[:, 2:3] - usual) * (WEEKS - left) / (WEEKS - left + max(belief, 1e-9))
        position = np.cumsum(seen[:, 3:6] + seen[:, 6:9], axis=1)  # in this place, below it, and on the way there
        weeks = np.minimum(until_sold, left) if minds_the_end else until_sold
        wanted = demand * weeks + safety * np.sqrt(demand * weeks) - position
        return np.clip(wanted, 0, CAPACITIES) * ((left >= until_sold) | (not minds_the_end))

    return orders


CONTROLLERS = {
    "base-stock, for the usual demand": base_stock(1.0, belief=np.inf, minds_the_end=False),
    "base-stock, minding the season's end": base_stock(1.0, belief=np.inf),
    "base-stock, minding the season's end and the demand": base_stock(0.5, belief=10.0),
}


def a_planner(rng: np.random.Generator) -> Planner:
    """One of the planners: how they forecast, how careful they are, whether they mind the season's end, how exactly they order."""
    policy = base_stock(rng.normal(0.5, 1.0), rng.choice([0.0, 5.0, 20.0, np.inf]), bool(rng.random() < 0.6))
    units, spread = rng.choice([1, 5, 10]), rng.uniform(0.0, 0.3)

    def orders(seen: np.ndarray) -> np.ndarray:
        meant = policy(seen) * rng.lognormal(0.0, spread, len(ORDERS))
        return np.clip(units * np.rint(meant / units), 0, CAPACITIES)

    return orders


def write_log(seasons: int, seed: int) -> pd.DataFrame:
    """What so many planners saw, ordered and earned: one row a week."""
    rng, chain, rows = np.random.default_rng(seed), SupplyChain(), []
    for season in range(seasons):
        planner, (seen, _), ended = a_planner(rng), chain.reset(seed=seed + season), False
        while not ended:
            orders = planner(seen[None])[0]
            following, profit, _, ended, _ = chain.step(orders)
            rows.append((season, chain.week, *seen, *orders.astype(int), profit))
            seen = following
    return pd.DataFrame(rows, columns=["season", "week", *SEEN, *ORDERS, "profit"])


def load(log: pd.DataFrame, path: Path) -> DatasetDict:
    """The log as a user would load it, a quarter of the seasons held out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    log.to_csv(path, index=False)
    return load_trajectories(
        path,
        episode="season",
        step="week",
        observation=SEEN,
        action=ORDERS,
        reward="profit",
        action_space=SupplyChain.action_space,
        max_episode_steps=WEEKS,
    ).train_test_split(0.25, seed=0)


def earned(policy, seasons: int, first_seed: int = 1_000_000) -> np.ndarray:
    """The profits of seasons that nobody has seen, the same for every policy."""
    return rollout(policy, SupplyChain, seasons, num_envs=50, seed=first_seed, max_episode_steps=WEEKS).returns


def earned_by_planners(seasons: int, rng: np.random.Generator) -> np.ndarray:
    """The same of planners like those of the log, another one for every season."""
    return np.concatenate([earned(a_planner(rng), 1, first_seed=1_000_000 + i) for i in range(seasons)])


def run_a_season(folder: Path) -> None:
    """What the plant sees of it: columns by name in, orders out, rounded to units; what was ordered is told."""
    runner, chain = Runner(folder), SupplyChain()
    runner.begin()
    seen, _ = chain.reset(seed=7)
    profit, ended = 0.0, False
    while not ended:
        orders = [round(units) for units in runner.step(dict(zip(SEEN, seen.tolist()))).values()]
        seen, reward, _, ended, _ = chain.step(np.array(orders))
        runner.observe(reward=reward, action=dict(zip(ORDERS, orders)))
        profit += reward
        if chain.week in (1, 2, WEEKS // 2, WEEKS):
            print(f"week {chain.week:2d}: " + ", ".join(f"{name} {units}" for name, units in zip(ORDERS, orders)))
    print(f"profit of this season: {profit:.0f}")


def main() -> None:
    options = jobs.parser(__doc__, episodes=600, output_dir="outputs/stock-keeping").parse_args()
    log = write_log(options.episodes, seed=0)
    print(f"{options.episodes} seasons, {log.groupby('season').profit.sum().mean():.1f} earned in the mean")
    planners = earned_by_planners(options.checked, np.random.default_rng(1))
    controllers = {name: earned(policy, options.checked) for name, policy in CONTROLLERS.items()}
    exported = jobs.compare(
        load(log, options.output_dir / "log.csv"),
        options,
        lambda policy: earned(policy, options.checked),
        {"planners of the log": planners} | controllers,
    )
    run_a_season(exported)


if __name__ == "__main__":
    main()
