"""Policies that need no learning, for small data sets, examples and tests. Each takes observations to actions."""

import numpy as np


def balance_cartpole(observations: np.ndarray) -> np.ndarray:
    """CartPole-v1, return about 500: push towards where the pole falls, and the cart back to the middle.

    A linear feedback law on position, velocity, angle (radians) and angular velocity.

    Args:
        observations: `(num_envs, 4)`.

    Returns:
        `(num_envs,)` int64: 0 pushes to the left, 1 to the right.
    """
    feedback = observations @ np.array([0.1, 0.3, 3.0, 1.0])
    return (feedback > 0).astype(np.int64)


def climb_mountain(observations: np.ndarray) -> np.ndarray:
    """MountainCar-v0, return about -120: always accelerate the way the car is moving, which pumps energy into it.

    Args:
        observations: `(num_envs, 2)`: position and velocity.

    Returns:
        `(num_envs,)` int64: 0 accelerates to the left, 2 to the right.
    """
    return np.where(observations[:, 1] >= 0, 2, 0)


def swing_up_pendulum(observations: np.ndarray) -> np.ndarray:
    """Pendulum-v1, return about -145: pump energy while it hangs (Astrom and Furuta 2000), hold it upright by feedback.

    Args:
        observations: `(num_envs, 3)`: cosine and sine of the angle from upright, angular velocity in radians a second.

    Returns:
        `(num_envs, 1)` float32 torques, within the bounds of +-2.
    """
    cosine, sine, velocity = observations.T
    energy = velocity**2 / 6 + 5 * (cosine - 1)  # 0 at rest upright: m = l = 1, g = 10, inertia 1/3
    pumping = np.where(energy < 0, 2.0, -2.0) * np.where(velocity >= 0, 1.0, -1.0)
    holding = -12.0 * np.arctan2(sine, cosine) - 3.0 * velocity
    torque = np.where(cosine > 0.9, holding, pumping)
    return np.clip(torque, -2.0, 2.0).astype(np.float32)[:, None]
