"""The bicycle: a small grid world for comparing the methods of the package."""

import gymnasium

GRID_SIZE_OF_ID = {
    "hf_seqrl/BicycleGrid-v0": 5,
    "hf_seqrl/BicycleGrid10x10-v0": 10,
    "hf_seqrl/BicycleGrid20x20-v0": 20,
}
MAX_EPISODE_STEPS = 200  # a random policy reaches the goal almost always at grid 5, in one of five episodes at grid 20


def register_environments() -> None:
    """Register the bicycle for `gymnasium.make` and `gymnasium.make_vec`; repeated calls have no effect."""
    for env_id, grid_size in GRID_SIZE_OF_ID.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="hf_seqrl.envs.bicycle:BicycleGridEnv",
                vector_entry_point="hf_seqrl.envs.bicycle_vector:BicycleGridVectorEnv",
                max_episode_steps=MAX_EPISODE_STEPS,
                kwargs={"grid_size": grid_size},
            )
