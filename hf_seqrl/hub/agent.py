"""`Agent`: a model with its processor that acts, and that is saved, loaded and shared as one folder."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from huggingface_hub import CommitInfo
from transformers import PreTrainedModel, ProcessorMixin

from hf_seqrl.data.durable import write_whole
from hf_seqrl.data.environment_ids import trusted_env_id
from hf_seqrl.evaluation.offline_results import OfflineEvaluation
from hf_seqrl.evaluation.results import RolloutResult
from hf_seqrl.hub.benchmark_results import check_benchmark, write_benchmark_result
from hf_seqrl.hub.card import build_card, keep_edited, sealed, write_results
from hf_seqrl.hub.checkpoint import (
    BELONGS_TO_WEIGHTS,
    BENCHMARK_RESULTS_NAME,
    CANDIDATES_NAME,
    CARD_NAME,
    CONFIG_NAME,
    CRITIC_FOLDER,
    OFFLINE_EVALUATION_NAME,
    PROCESSOR_NAME,
    HoldsForItsWeights,
    drop_outdated,
    inside,
    replacing,
    write_manifest,
)
from hf_seqrl.hub.loading import find_critic, load_model_and_processor, load_records
from hf_seqrl.hub.pushing import open_destination
from hf_seqrl.hub.remote_code import set_code
from hf_seqrl.hub.replay import Replay
from hf_seqrl.hub.run_record import RunRecord
from hf_seqrl.models.actor import Actor
from hf_seqrl.models.compiled_actor import CompiledActor
from hf_seqrl.models.registry import ModelFamily, family_of
from hf_seqrl.models.values import BestOfCandidates, Values

if TYPE_CHECKING:
    from datasets import Dataset


class Agent:
    """A model and its processor, acting.

    The calls of one step are `act`, before the environments step, and `observe`, after; `hf_seqrl.rollout` makes them.
    The interface is the same for every model family.

    Args:
        model (`PreTrainedModel`): A model of any family of this package.
        processor (`ProcessorMixin`): The processor of that family, with the statistics of the training data.
        critic (`Agent`, *optional*): A critic, such as `Agent.from_pretrained("runs/critic")`, that is saved with the agent. It says
            which return to ask for, `target_return="auto"`, and which candidate is best.
        candidate_targets (`list[float]`, *optional*): With a critic: raw target returns at which actions are proposed at every
            step; the one with the highest value is taken. The agent then takes no target.
        candidate_actions (`int`, *optional*): With a critic: so many actions are drawn at every step, and the one with the highest
            value is taken. For agents that sample.
        compile (`bool` or `str`, *optional*, defaults to `False`): Whether to compile what is computed at a step, and on a GPU to
            replay it as one CUDA graph; a name is that of a backend of `torch.compile`. For agents that neither plan nor sample:
            see [`~hf_seqrl.models.compiled_actor.CompiledActor`].
        acting_options: Options of the family's actor, for instance `beam_width` of a planner.

    Attributes:
        evaluation: The `RolloutResult` that the card reports, or `None`.
        offline_evaluation: The `OfflineEvaluation` that the card reports beside it, or `None`.
        run: The `RunRecord` of the training, or `None`.
        candidates: `candidate_targets` and `candidate_actions`, as they were given.
        replay: The `Replay` that is saved with it, or `None`; `record_replay` makes one.

    All but `candidates` hold for the weights that the model has when they are set. If it is trained further, they are left out with
    a warning when the agent is saved or pushed.

    Raises:
        ValueError: The model is of no family of this package.
    """

    evaluation: RolloutResult | None = HoldsForItsWeights()
    offline_evaluation: OfflineEvaluation | None = HoldsForItsWeights()
    run: RunRecord | None = HoldsForItsWeights()
    replay: Replay | None = HoldsForItsWeights()

    def __init__(
        self,
        model: PreTrainedModel,
        processor: ProcessorMixin,
        critic: "Agent | None" = None,
        candidate_targets: Sequence[float] | None = None,
        candidate_actions: int | None = None,
        compile: bool | str = False,
        **acting_options: Any,
    ) -> None:
        self.model = model
        self.processor = processor
        self.critic = critic
        self.acting_options = acting_options
        self.candidates: dict[str, Any] = {
            "candidate_targets": candidate_targets,
            "candidate_actions": candidate_actions,
        }
        make_actor = self.family.make_actor
        self._actor = None if make_actor is None else make_actor(model, processor, **acting_options)
        if compile:
            self._actor = self._compiled(compile)
        if critic is not None and self._actor is not None:
            self._actor = self._guided(self._actor, critic)
        elif candidate_targets is not None or candidate_actions is not None:
            raise ValueError("candidate_targets and candidate_actions need a critic that chooses: give critic=...")

    def _compiled(self, backend: bool | str) -> Actor:
        actor = CompiledActor(self.actor, self.model, self.processor, self.family.step_graph, backend)
        if options := sorted(self.acting_options.keys() - {"missing_values"}):
            raise ValueError(
                "compile computes the step as the family does by default, in float32: leave out "
                f"{', '.join(options)}, or compile."
            )
        return actor

    def _guided(self, actor: Actor, critic: "Agent") -> Actor:
        """The actor with what the critic adds to it."""
        values = critic.values
        if actor.is_conditioned and values.return_discount == actor.discount:
            actor.return_estimator = values.supported_returns
        targets, draws = self.candidates.values()
        return actor if targets is None and draws is None else BestOfCandidates(actor, values, targets, draws)

    @property
    def values(self) -> Values:
        """What a critic says of observations and actions, raw.

        Raises:
            ValueError: the model is no critic.
        """
        if self.family.make_values is None:
            raise ValueError(f"a {self.family.name} is no critic: train one with `hf-seqrl train critic`.")
        return self.family.make_values(self.model.eval(), self.processor)

    @property
    def actor(self) -> Actor:
        """The actor that chooses the actions.

        Raises:
            ValueError: the model chooses no actions.
        """
        if self._actor is None:
            raise ValueError(f"a {self.family.name} chooses no actions: roll out an agent of another family.")
        return self._actor

    @property
    def family(self) -> ModelFamily:
        """The family that the model belongs to."""
        return family_of(self.model.config.model_type)

    @property
    def env_id(self) -> str | None:
        """The gymnasium id of the environment that the training data come from."""
        return self.processor.env_id

    @property
    def target_returns(self) -> list[float]:
        """Suggested target returns in raw units, the default first; empty for an agent that is not conditioned on a return."""
        return self.processor.target_returns if self.candidates["candidate_targets"] is None else []

    @property
    def data_returns(self) -> tuple[float, float] | None:
        """The lowest and the highest raw return of the training data, `None` where they are not recorded."""
        data = self.run.data if self.run is not None else None
        return (data["return_min"], data["return_max"]) if data else None

    @property
    def is_conditioned(self) -> bool:
        """Whether it is conditioned on a target return."""
        return self.actor.is_conditioned

    @property
    def returns_to_go(self) -> np.ndarray:
        """The current returns-to-go `(num_envs,)` in raw units, for an agent that is conditioned on a return."""
        return self.actor.returns_to_go

    def reset(self, num_envs: int, target_return: Any = None, seed: Any = None, history: Any = None) -> None:
        """Start `num_envs` parallel episodes and set the model to eval mode.

        Args:
            num_envs (`int`): Number of parallel environments.
            target_return (`float` or `(num_envs,)`, *optional*): Raw target returns; defaults to the first of
                `target_returns`.
            seed (`int` or `(num_envs,)`, *optional*): For agents that sample.
            history (list of mappings, *optional*): The steps so far of each episode: `observations`, `actions`
                and `rewards`; see [`~hf_seqrl.models.actor.Actor`].
        """
        self.model.eval()
        self.actor.reset(num_envs, target_return, seed, history)

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Choose actions `(num_envs, *action_shape)` for raw observations `(num_envs, *observation_shape)`."""
        return self.actor.act(observations)

    def observe(self, rewards: np.ndarray, dones: np.ndarray, actions: np.ndarray | None = None) -> None:
        """Record the raw rewards `(num_envs,)`, which episodes have ended `(num_envs,)`, and the executed actions
        `(num_envs, *action_shape)`, if they differ from the chosen ones."""
        self.actor.observe(rewards, dones, actions)

    def restart(self, env_indices: np.ndarray, target_return: Any = None, seed: Any = None) -> None:
        """Start new episodes in these environments `(n,)`; targets and seeds are scalars or `(n,)`."""
        self.actor.restart(env_indices, target_return=target_return, seed=seed)

    def select(self, env_indices: np.ndarray) -> None:
        """Keep only these environments, in this order."""
        self.actor.select(env_indices)

    def record_replay(self, env: Any = None, seed: int = 0) -> Replay:
        """Record a video of one episode for the agent's folder.

        Args:
            env (*optional*): As `rollout` takes it; defaults to `env_id`.
            seed (`int`, *optional*, defaults to `0`): Seed of the episode.

        Returns:
            The replay. If the environment cannot be rendered here, it holds the reason, which the card reports.
        """
        self.replay = Replay.record(self, env or trusted_env_id(self.env_id, "this agent"), seed)
        return self.replay

    def save_pretrained(
        self,
        directory: str | Path,
        results: RolloutResult | None = None,
        *,
        run: RunRecord | None = None,
        repo_id: str | None = None,
        include_code: bool = False,
    ) -> None:
        """Write the whole agent into one folder: weights, config, processor, evaluation, plot and card.

        The folder is written completely or not at all, even if the process is killed. An existing agent is replaced; other
        files and a card that was edited by hand are kept. Plain transformers loads the model from the same folder.

        Args:
            directory (`str` or `Path`): The folder; created if missing.
            results (`RolloutResult`, *optional*): What the card reports; defaults to `self.evaluation`.
            run (`RunRecord`, *optional*): How the weights were trained; defaults to `self.run`.
            repo_id (`str`, *optional*): The name by which the card's example loads the agent; defaults to the
                folder's.
            include_code (`bool`, *optional*, defaults to `False`): Whether to include the code of the model, so that
                `AutoModel.from_pretrained(..., trust_remote_code=True)` loads it where hf_seqrl is not installed.
        """
        if results is not None:
            self.evaluation = results
        if run is not None:
            self.run = run
        drop_outdated(self)
        with replacing(directory) as folder:
            self._write_parts(folder, include_code)
            self.write_documents(folder, repo_id=repo_id or Path(directory).name, former_card=_card_in(directory))

    def _write_parts(self, directory: str | Path, include_code: bool) -> None:
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)
        set_code(directory, self.family, include_code)
        if self.critic is not None:
            beside = Path(directory, CRITIC_FOLDER)
            self.critic._write_parts(beside, include_code)
            (beside / CANDIDATES_NAME).write_text(json.dumps(self.candidates, indent=2) + "\n", encoding="utf-8")

    def write_documents(
        self,
        directory: str | Path,
        *,
        repo_id: str | None = None,
        former_card: str | None = None,
        **metadata: Any,
    ) -> None:
        """Write the card, the evaluation with its plot, and the training record.

        Args:
            directory (`str` or `Path`): The folder of the agent.
            repo_id (`str`, *optional*): The name by which the card's example loads the agent; defaults to the
                folder's.
            former_card (`str`, *optional*): The text of the card to replace; defaults to the one in the folder. A card
                that was edited by hand is kept, with a warning.
            metadata: Entries for the card's metadata block, for instance `license`; `tags` are added to ours.
        """
        folder = Path(directory)
        if self.run is not None:
            self.run.save(folder)
        if self.evaluation is not None:
            write_results(
                self.evaluation,
                folder,
                self.target_returns,
                self.data_returns,
                deterministic=self.actor.deterministic,
            )
        if self.offline_evaluation is not None:
            self.offline_evaluation.save(folder / OFFLINE_EVALUATION_NAME)
        replay_name = self.replay.save(folder) if self.replay is not None else None
        no_replay = self.replay.missing_because if self.replay is not None else "none was recorded"
        replay = replay_name, no_replay
        card = build_card(
            self.model,
            self.processor,
            self.evaluation,
            self.run,
            repo_id or folder.name,
            replay,
            offline=self.offline_evaluation,
        )
        tags = metadata.pop("tags", [])
        card.data.tags += [tags] if isinstance(tags, str) else tags
        for name, value in metadata.items():
            setattr(card.data, name, value)
        former_card = former_card or _card_in(folder)
        write_whole(folder / CARD_NAME, sealed(card.content))
        keep_edited(folder, former_card, repo_id or str(directory))

    def export(self, directory: str | Path, **options: Any) -> Path:
        """Write the agent as ONNX with a runner that needs NumPy and onnxruntime alone; see [`~hf_seqrl.export_agent`].

        Args:
            directory (`str` or `Path`): The folder; it must not exist.
            options: `quantize`, `program`, `env_id`, `num_episodes`, `overwrite`.
        """
        from hf_seqrl import export_agent  # by its public name: what deploys agents is built on this module

        return export_agent(self, directory, **options)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path,
        *,
        processor: ProcessorMixin | None = None,
        dataset: "Dataset | None" = None,
        revision: str | None = None,
        token: str | bool | None = None,
        device: str | torch.device | None = None,
        dtype: torch.dtype | str | None = None,
        trust_remote_code: bool = False,
        size_limits: Mapping[str, int] | None = None,
        **acting_options: Any,
    ) -> "Agent":
        """Load an agent of any family from a folder (a checkpoint of a `Trainer` is one) or from the Hub.

        Args:
            name_or_path (`str` or `Path`): A folder or the id of a repository.
            processor (`ProcessorMixin`, *optional*): For checkpoints that were saved without theirs.
            dataset (`Dataset`, *optional*): Also for such checkpoints: the trajectories they were trained on, from which
                the processor is created.
            revision (`str`, *optional*): Branch, tag or commit.
            token (`str` or `bool`, *optional*): For private repositories.
            device, dtype (*optional*): Device and precision of the model; default to the CPU and to the precision of
                the file.
            trust_remote_code (`bool`, *optional*, defaults to `False`): Whether an environment id `module:Name-v0` or an
                attention kernel that the files name may run its author's code.
            size_limits (`dict`, *optional*): In place of those of `hf_seqrl.hub.loading.SIZE_LIMITS`, for instance
                `{"context_length": 50_000}`: what the config may ask for before memory is taken.
            acting_options: As for `Agent`.

        Raises:
            OSError: There is no such folder or repository, or files of a model are missing in it.
            ValueError: The model is of no family of this package, its processor is missing, a file is damaged or belongs to
                another agent, or the files ask for code or for memory that was not allowed.
        """
        model, processor = load_model_and_processor(
            str(name_or_path),
            processor,
            dataset,
            revision=revision,
            token=token,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            size_limits=size_limits,
        )
        stored: dict[str, Any] = {}
        if "critic" not in acting_options and (
            found := find_critic(str(name_or_path), revision=revision, token=token, size_limits=size_limits)
        ):
            folder, candidates = found
            limits = {"device": device, "trust_remote_code": trust_remote_code, "size_limits": size_limits}
            stored = {"critic": cls(*load_model_and_processor(folder, **limits)), **candidates}
        try:
            agent = cls(model, processor, **stored | acting_options)
        except Exception as error:  # whatever the values of the files make an actor raise
            damage = _damage(str(name_or_path), cls, model, processor, stored)
            if damage is None:
                raise
            raise damage from error
        records = load_records(str(name_or_path), revision=revision, token=token)
        agent.evaluation, agent.offline_evaluation, agent.run, agent.replay = records
        if agent.run is not None and not agent.run.is_finished:
            warnings.warn(
                f"{name_or_path} was saved while it was trained, after {agent.run.updates} of {agent.run.planned_updates} updates.",
                stacklevel=2,
            )
        return agent

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload agent",
        include_code: bool = False,
        benchmark: str | None = None,
    ) -> CommitInfo:
        """Upload the agent to the Hub in one commit; the repository is created if missing.

        Results and weights of a previous agent are removed in the same commit. A card that was edited by hand is kept, with
        a warning, and the new one is uploaded as a separate file.

        Args:
            repo_id (`str`): For instance `me/dt-hopper-medium`.
            private (`bool`, *optional*): Visibility of a new repository; defaults to the account's setting.
            token (`str` or `bool`, *optional*): Defaults to the one that `hf auth login` stored.
            revision (`str`, *optional*): The branch to commit to; defaults to `main`.
            commit_message (`str`, *optional*, defaults to `"Upload agent"`): The commit's first line.
            include_code (`bool`, *optional*, defaults to `False`): As for `save_pretrained`.
            benchmark (`str`, *optional*): `OWNER/DATASET:TASK`, a benchmark data set on the Hub and a task of its `eval.yaml`: the mean
                return of `evaluation` is reported to its leaderboard, in `.eval_results/hf-seqrl.yaml`.

        Raises:
            ValueError: There is no evaluation to report to the benchmark, or its name has another form.
            OSError: The Hub cannot be reached or rejects the push, or the repository changed meanwhile; then nothing is uploaded.
        """
        drop_outdated(self)
        if benchmark is not None:
            check_benchmark(benchmark, self.evaluation)
        destination = open_destination(repo_id, private=private, token=token, revision=revision)
        with TemporaryDirectory() as directory:
            self._write_parts(directory, include_code)
            self.write_documents(directory, repo_id=destination.repo_id, former_card=destination.card)
            write_manifest(directory)
            if benchmark is not None and self.evaluation is not None:
                write_benchmark_result(self.evaluation, self.target_returns, benchmark, destination.repo_id, directory)
            stale = [*BELONGS_TO_WEIGHTS, BENCHMARK_RESULTS_NAME, f"{CRITIC_FOLDER}/*"]
            return destination.commit(directory, commit_message, stale=stale)


def _damage(
    name: str, make: type[Agent], model: PreTrainedModel, processor: ProcessorMixin, stored: dict[str, Any]
) -> ValueError | None:
    """An error that names the files which describe no agent; `None` if it is what was asked for that does not fit them."""
    for files, options in (
        (f"{PROCESSOR_NAME} or {CONFIG_NAME}", {}),
        (f"{CRITIC_FOLDER}/{CANDIDATES_NAME}", stored),
    ):
        try:
            make(model, processor, **options)
        except Exception as error:
            return ValueError(f"the agent {name!r}: {files} is damaged ({error}). Save the agent again.")
    return None


def _card_in(directory: str | Path) -> str | None:
    try:
        card = inside(directory, CARD_NAME)
        return Path(card).read_text(encoding="utf-8") if card is not None else None
    except ValueError:  # a link out of the folder, or no text
        return None
