"""REINFORCE with its default options on the bicycle and on CartPole: seconds of training, returns of 100 episodes.

    python benchmarks/policy_gradient.py --env_ids hf_seqrl/BicycleGrid-v0 CartPole-v1 --seeds 0 1 2

Prints one line a run: the environment, the seed, wall-clock and processor seconds of training, mean and lowest return.
"""

import argparse
import tempfile
import time

from devices import add_device_option
from transformers import TrainingArguments

from hf_seqrl import rollout
from hf_seqrl.models.registry import family_of
from hf_seqrl.training.run import Judgement, train_agent

EVALUATION_SEED = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env_ids", nargs="+", default=["hf_seqrl/BicycleGrid-v0", "CartPole-v1"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add_device_option(parser)
    arguments = parser.parse_args()
    family = family_of("policy_gradient")
    for env_id in arguments.env_ids:
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                training_arguments = TrainingArguments(
                    folder,
                    **family.training_defaults,
                    seed=seed,
                    use_cpu=arguments.device == "cpu",
                    save_strategy="no",
                    disable_tqdm=True,
                    logging_strategy="no",
                )
                began, processor_began = time.perf_counter(), time.process_time()
                agent = train_agent(
                    family,
                    None,
                    family.options_class(env_id=env_id),
                    training_arguments,
                    judgement=Judgement(num_episodes=0),
                )
                seconds, processor_seconds = time.perf_counter() - began, time.process_time() - processor_began
            result = rollout(agent, env_id, num_episodes=100, num_envs=100, seed=EVALUATION_SEED)
            print(
                f"{env_id:24} seed {seed}  {seconds:6.1f} s ({processor_seconds:.1f} s of processor)  "
                f"mean return {result.mean_return:.1f}, lowest {result.returns.min():.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
