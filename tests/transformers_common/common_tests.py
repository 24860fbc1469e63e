"""transformers' common tests for each of our model classes: a small configuration, inputs, and the tests that are skipped.

Run by `run.py`, which puts transformers' `tests` on the path; pytest does not collect this file by itself.
"""

import copy
import unittest
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from run import OURS
from tests.generation.test_utils import GenerationTesterMixin
from tests.test_configuration_common import ConfigTester
from tests.test_modeling_common import ModelTesterMixin
from transformers import DecisionTransformerConfig, PreTrainedConfig, PreTrainedModel

import hf_seqrl  # noqa: F401 - registers the models
from hf_seqrl.models.critic.configuration_critic import CriticConfig
from hf_seqrl.models.critic.modeling_critic import CriticModel
from hf_seqrl.models.decision_transformer.modeling_decision_transformer import TrainableDT
from hf_seqrl.models.policy.configuration_policy import PolicyConfig, PolicyGradientConfig
from hf_seqrl.models.policy.modeling_policy import PolicyGradientModel, PolicyModel
from hf_seqrl.models.registry import families
from hf_seqrl.models.trajectory_seq2seq.configuration_trajectory_seq2seq import TrajectorySeq2SeqConfig
from hf_seqrl.models.trajectory_seq2seq.modeling_trajectory_seq2seq import TrajectorySeq2SeqModel
from hf_seqrl.models.trajectory_transformer.configuration_trajectory_transformer import TrajectoryTransformerConfig
from hf_seqrl.models.trajectory_transformer.discretizer import TrajectoryDiscretizer, TrajectoryDiscretizerConfig
from hf_seqrl.models.trajectory_transformer.modeling_trajectory_transformer import TrajectoryTransformerModel

BATCH, TIME = 3, 7


@dataclass
class Case:
    """One model class, small.

    Attributes:
        model_class, config_class: What is tested.
        sizes: Arguments of the config.
        inputs: `inputs(config)`: a batch for `forward`.
        labels: `labels(config)`: what a batch needs beside it for a loss.
        attributes: What transformers' tests want to know of a model tester beyond the batch size, such as `num_hidden_layers`.
        settings: Class attributes of the test case that differ from transformers' defaults.
        skipped: Names of tests that do not hold, each with the reason.
        attention: The attention implementation, where it is not transformers' default.
    """

    model_class: type[PreTrainedModel]
    config_class: type[PreTrainedConfig]
    sizes: dict[str, Any]
    inputs: Callable[[PreTrainedConfig], dict[str, torch.Tensor]]
    labels: Callable[[PreTrainedConfig], dict[str, torch.Tensor]] = lambda config: {}
    attributes: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    attention: str | None = None


class ModelTester:
    """Answers what transformers' tests ask of a model tester."""

    def __init__(self, case: Case, parent: unittest.TestCase) -> None:
        self.case, self.parent = case, parent
        self.batch_size, self.seq_length, self.is_training = BATCH, TIME, True
        for name, value in case.attributes.items():
            setattr(self, name, value)

    def get_config(self) -> PreTrainedConfig:
        return self.case.config_class(**self.case.sizes, attn_implementation=self.case.attention)

    def prepare_config_and_inputs_for_common(self) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        return config, self.case.inputs(config)


def _decisions(config: DecisionTransformerConfig) -> dict[str, torch.Tensor]:
    return {
        "states": torch.randn(BATCH, TIME, config.state_dim),
        "actions": torch.randn(BATCH, TIME, config.act_dim).tanh(),
        "rewards": torch.randn(BATCH, TIME, 1),
        "returns_to_go": torch.randn(BATCH, TIME, 1),
        "timesteps": torch.randint(0, 20, (BATCH, TIME)),
        "attention_mask": torch.ones(BATCH, TIME, dtype=torch.long),
    }


def _tokens(config: TrajectoryTransformerConfig) -> dict[str, torch.Tensor]:
    return {"trajectories": torch.randint(0, config.vocab_size + 1, (BATCH, TIME))}


def _transitions(config: TrajectoryDiscretizerConfig) -> dict[str, torch.Tensor]:
    return {"transitions": torch.randn(BATCH, TIME, config.transition_dim)}


def _histories(config: TrajectorySeq2SeqConfig) -> dict[str, torch.Tensor]:
    return {
        "states": torch.randn(BATCH, TIME, config.state_size),
        "actions": torch.randint(0, config.action_size, (BATCH, TIME)),
        "decoder_input_ids": torch.randint(0, config.action_size, (BATCH, TIME)),
    }


def _next_symbols(config: TrajectorySeq2SeqConfig) -> dict[str, torch.Tensor | None]:
    return {"labels": torch.randint(0, config.action_size, (BATCH, TIME)), "decoder_input_ids": None}


def _observations(config: PolicyConfig) -> dict[str, torch.Tensor]:
    return {"observations": torch.randn(BATCH, config.observation_size)}


def _taken_actions(config: PolicyConfig) -> dict[str, torch.Tensor]:
    return {"actions": torch.randint(0, config.action_size, (BATCH, 1))}


def _transition_batch(config: CriticConfig) -> dict[str, torch.Tensor]:
    return {
        "observations": torch.randn(BATCH, config.observation_size),
        "actions": torch.randn(BATCH, config.action_size),
    }


def _outcomes(config: CriticConfig) -> dict[str, torch.Tensor]:
    return {
        "rewards": torch.randn(BATCH),
        "next_observations": torch.randn(BATCH, config.observation_size),
        "terminations": torch.zeros(BATCH, dtype=torch.bool),
    }


NO_TOKENS = "vectors come in through linear layers; there is no table of token embeddings"
NO_HIDDEN_STATES = "it returns no hidden states"
SEVERAL_TABLES = dict.fromkeys(
    ("test_model_get_set_embeddings", "test_resize_embeddings_untied", "test_resize_tokens_embeddings"),
    "states, actions and targets have an embedding each, and none of them stands for the others",
) | {"test_model_base_model_prefix": "there is no base model below a head"}
CHECKPOINTING = (
    "test_enable_input_require_grads_with_gradient_checkpointing",
    "test_gradient_checkpointing_backward_compatibility",
    "test_gradient_checkpointing_enable_disable",
    "test_peft_gradient_checkpointing_enable_disable",
    "test_training_gradient_checkpointing",
    "test_training_gradient_checkpointing_use_reentrant_false",
    "test_training_gradient_checkpointing_use_reentrant_true",
)
SEQ2SEQ = {
    "state_size": 4,
    "action_size": 6,
    "continuous_states": True,
    "hidden_size": 16,
    "num_attention_heads": 2,
}
SEQ2SEQ_ATTRIBUTES = {
    "num_hidden_layers": 2,
    "expected_num_hidden_layers": 2,  # one for each layer, without the embeddings
    "num_attention_heads": 2,
    "hidden_size": 16,
    "encoder_seq_length": 2 * TIME + 1,
}

CASES = [
    Case(
        TrainableDT,
        DecisionTransformerConfig,
        {
            "state_dim": 5,
            "act_dim": 2,
            "hidden_size": 16,
            "n_layer": 2,
            "n_head": 2,
            "max_ep_len": 20,
            "n_positions": 64,
        },
        _decisions,
        attributes={"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "seq_length": 3 * TIME},
        settings={"additional_model_inputs": ["actions", "returns_to_go", "timesteps"]},
        skipped={
            "test_config": "the configuration is transformers' own",
            "test_model_get_set_embeddings": NO_TOKENS,
            "test_resize_tokens_embeddings": NO_TOKENS,
        },
    ),
    Case(
        TrajectoryTransformerModel,
        TrajectoryTransformerConfig,
        {
            "vocab_size": 11,
            "observation_dim": 2,
            "action_dim": 1,
            "transition_dim": 5,
            "block_size": 29,
            "n_layer": 2,
            "n_head": 2,
            "n_embd": 16,
        },
        _tokens,
        lambda config: {"labels": torch.randint(0, config.vocab_size + 1, (BATCH, TIME))},
        {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16},
        skipped={
            "test_resize_tokens_embeddings": "a table for each dimension is resized at once, not one by so many rows"
        },
    ),
    Case(
        TrajectoryDiscretizer,
        TrajectoryDiscretizerConfig,
        {"num_bins": 6, "observation_dim": 2, "action_dim": 1},
        _transitions,
        attributes={"is_training": False},
        settings={"has_attentions": False, "test_resize_embeddings": False},
        skipped={
            "test_model_get_set_embeddings": NO_TOKENS,
            "test_model_outputs_equivalence": "it returns a tensor of tokens",
            "test_hidden_states_output": NO_HIDDEN_STATES,
            "test_retain_grad_hidden_states_attentions": NO_HIDDEN_STATES,
        },
    ),
    Case(
        TrajectorySeq2SeqModel,
        TrajectorySeq2SeqConfig,
        SEQ2SEQ | {"backbone": "transformer"},
        _histories,
        _next_symbols,
        SEQ2SEQ_ATTRIBUTES,
        {"is_encoder_decoder": True, "additional_model_inputs": ["actions"]},
        SEVERAL_TABLES
        | {"test_attention_outputs": "its output holds the context of the history beside the usual fields"},
        attention="eager",
    ),
    Case(
        TrajectorySeq2SeqModel,
        TrajectorySeq2SeqConfig,
        SEQ2SEQ | {"backbone": "gru"},
        _histories,
        _next_symbols,
        SEQ2SEQ_ATTRIBUTES,
        {"is_encoder_decoder": True, "additional_model_inputs": ["actions"], "has_attentions": False},
        SEVERAL_TABLES
        | dict.fromkeys(CHECKPOINTING, "a GRU has no layers to checkpoint, and says so")
        | dict.fromkeys(
            ("test_capture_outputs_decorator", "test_model_outputs_equivalence"),
            "a GRU has no attention, and refuses output_attentions=True",
        ),
    ),
    *(
        Case(
            model_class,
            config_class,
            {"observation_size": 4, "action_size": 3, "hidden_size": 16},
            inputs,
            labels,
            {"num_hidden_layers": 2, "hidden_size": 16},
            {"has_attentions": False, "test_resize_embeddings": False},
            {
                "test_model_get_set_embeddings": NO_TOKENS,
                "test_model_outputs_equivalence": NO_HIDDEN_STATES,
                "test_hidden_states_output": NO_HIDDEN_STATES,
                "test_retain_grad_hidden_states_attentions": NO_HIDDEN_STATES,
            },
        )
        for model_class, config_class, inputs, labels in (
            (PolicyModel, PolicyConfig, _observations, _taken_actions),
            (PolicyGradientModel, PolicyGradientConfig, _observations, _taken_actions),
            (CriticModel, CriticConfig, _transition_batch, _outcomes),
        )
    ),
]


def _test_case(case: Case) -> type[unittest.TestCase]:
    """The tests of one model class."""
    mixins = (ModelTesterMixin, GenerationTesterMixin) if case.model_class.can_generate() else (ModelTesterMixin,)

    def set_up(self: unittest.TestCase) -> None:
        self.model_tester = ModelTester(case, self)
        self.config_tester = ConfigTester(
            self, config_class=case.config_class, has_text_modality=False, common_properties=[], **case.sizes
        )

    def test_config(self: unittest.TestCase) -> None:
        self.config_tester.run_common_tests()

    def prepare(self: unittest.TestCase, inputs: dict, model_class: type, return_labels: bool = False) -> dict:
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same labels whenever they are asked for
            labels = case.labels(self.model_tester.get_config()) if return_labels else {}
        return copy.deepcopy(inputs) | labels

    namespace = {
        "setUp": set_up,
        "_prepare_for_class": prepare,
        "test_config": test_config,
        "all_model_classes": (case.model_class,),
        **case.settings,
    }
    for name, reason in case.skipped.items():
        if name != "test_config" and not any(hasattr(mixin, name) for mixin in mixins):
            raise AttributeError(f"{name} is not one of transformers' tests: take it off the list.")
        namespace[name] = unittest.skip(OURS + reason)(lambda self: None)
    name = f"{case.model_class.__name__}{case.sizes.get('backbone', '').title()}Test"
    return type(name, (*mixins, unittest.TestCase), namespace)


for case in CASES:
    test_case = _test_case(case)
    globals()[test_case.__name__] = test_case
del case, test_case


def test_every_model_class_is_tested() -> None:
    """A new model class belongs into `CASES`."""
    known = {case.model_class for case in CASES}
    for family in families().values():
        for model_class in (family.model_class, *(model for _, model in family.other_models)):
            assert model_class in known or model_class.__module__.startswith("transformers."), model_class
