"""Other libraries' private API: what we read of it is still there, means what we think, and is read in one place."""

import ast
import inspect
from pathlib import Path

import pyarrow as pa
import pytest
from datasets import Dataset
from torch import nn
from transformers import AutoModel, GenerationMixin, PreTrainedModel, Trainer, TrainingArguments

import hf_seqrl
from hf_seqrl import TrajectoryTransformerConfig, TrajectoryTransformerModel, private_api
from hf_seqrl.models.decision_transformer.backbones import backbone_shape
from hf_seqrl.models.registry import families
from hf_seqrl.private_api import (
    attention_implementation,
    modules_kept_whole,
    selected_rows,
    training_batch_size,
    training_collator,
    wait_for_checkpoint_push,
)

PACKAGE = Path(hf_seqrl.__file__).parent
THE_ONE_PLACE = "private_api.py"
SIZES = {"transition_dim": 6, "observation_dim": 3, "action_dim": 1, "n_embd": 16, "n_layer": 1, "n_head": 1}


def moved(what, use):
    return f"{what} moved or changed its meaning in the installed version: mend hf_seqrl/private_api.py, where we read {use}"


def read(function, *args):
    """What a function of `private_api` gives; a private attribute that is gone fails with a sentence."""
    try:
        return function(*args)
    except AttributeError as error:
        pytest.fail(moved(f"a private attribute ({error})", f"it in `{function.__name__}`"))


def test_the_rows_that_a_dataset_selects_are_read():
    dataset = Dataset.from_dict({"x": [10, 11, 12, 13]})
    message = moved("`Dataset._indices` of datasets", "the rows that `select` and `shuffle` leave")
    assert read(selected_rows, dataset) is None, message
    selected = dataset.select([3, 0, 0])
    assert pa.chunked_array(read(selected_rows, selected)).to_pylist() == [3, 0, 0], message
    assert len(selected.data.table) == 4, message  # the table stays as it is


def test_the_attention_of_a_model_is_read_from_its_config():
    message = moved("`PreTrainedConfig._attn_implementation` of transformers", "which attention a model runs")
    for name in ("sdpa", "eager"):
        model = TrajectoryTransformerModel(TrajectoryTransformerConfig(**SIZES, attn_implementation=name))
        assert read(attention_implementation, model.config) == name, message
    model.set_attn_implementation("sdpa")
    assert read(attention_implementation, model.config) == "sdpa", message


def test_the_modules_that_are_not_split_are_read_of_a_model():
    model = AutoModel.from_config(backbone_shape("llama", hidden_size=16, n_layer=1))
    message = moved("`PreTrainedModel._no_split_modules` of transformers", "the blocks that sharding keeps whole")
    assert set(read(modules_kept_whole, model)) == {"LlamaDecoderLayer"}, message


class _Push:
    def __init__(self):
        self.waited = False

    def is_done(self):
        return self.waited

    def wait_until_done(self):
        self.waited = True


def test_the_push_of_a_checkpoint_is_waited_for(tmp_path):
    message = moved("`Trainer._finish_current_push` of transformers", "how a push in the background is waited for")
    trainer = Trainer(nn.Linear(1, 1), TrainingArguments(str(tmp_path), use_cpu=True))
    read(wait_for_checkpoint_push, trainer)  # there is none
    trainer.push_in_progress = push = _Push()
    read(wait_for_checkpoint_push, trainer)
    assert push.waited, message


class _Doubled(nn.Module):
    def forward(self, values):
        return 2 * values


def test_the_collator_drops_what_the_model_does_not_take(tmp_path):
    message = moved(
        "`Trainer._get_collator_with_removed_columns` of transformers", "the collator of a trainer's loaders"
    )
    arguments = TrainingArguments(str(tmp_path), use_cpu=True)
    collator = read(training_collator, Trainer(_Doubled(), arguments, data_collator=list))
    assert collator([{"values": 1, "other": 2}]) == [{"values": 1}], message


def test_the_batch_size_is_that_of_the_arguments_until_it_is_lowered(tmp_path):
    message = moved("`Trainer._train_batch_size` of transformers", "the batch size of a trainer's loaders")
    trainer = Trainer(_Doubled(), TrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=3))
    assert read(training_batch_size, trainer) == 3, message


def private_overrides(cls):
    """The names with one underscore that a class of ours gives to another library's code."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("hf_seqrl")]
    return {name for base in ours for name in vars(base) if name.startswith("_") and not name.startswith("__")}


# What transformers reads from the classes of a model, by its guide on adding models; a name of ours that it does not know
# any more would be ignored without a word.
HOOKS = {
    PreTrainedModel: {
        "_init_weights", "_no_split_modules", "_supports_sdpa", "_supports_attention_backend", "_can_record_outputs",
        "_keys_to_ignore_on_load_unexpected", "_skip_keys_device_placement", "_input_embed_layer",
        "_keep_in_fp32_modules_strict",
    },
    GenerationMixin: {"_supports_default_dynamic_cache"},
}  # fmt: skip


@pytest.mark.parametrize(("base", "name"), [(base, name) for base, names in HOOKS.items() for name in sorted(names)])
def test_transformers_knows_what_our_models_tell_it(base, name):
    assert hasattr(base, name), (
        f"{base.__name__}.{name} of transformers is gone: what our models say by it is ignored now. See which models of ours "
        "set it, and how transformers is told the same today."
    )
    users = {family.model_class for family in families().values()}
    users |= {model for family in families().values() for _, model in family.other_models}
    assert any(name in private_overrides(user) for user in users), (
        f"no model of ours sets {name}: take it off this list"
    )


def defined_names(tree):
    """Names that a module of ours gives to functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr


def private_reads(tree):
    """Attributes with one underscore that a module reads, and its imports of private names and modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            yield node.attr, node.lineno
        elif isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in [*modules, *(alias.name for alias in node.names)]:
                yield from ((part, node.lineno) for part in name.split("."))


def test_no_other_module_reads_private_attributes_of_another_library():
    trees = {path.relative_to(PACKAGE): ast.parse(path.read_text("utf-8")) for path in PACKAGE.rglob("*.py")}
    ours = {name for tree in trees.values() for name in defined_names(tree)}
    ours |= {"_format_args"}  # argparse: the name by which formatters of help are written
    found = {
        (str(path), name, line)
        for path, tree in trees.items()
        for name, line in private_reads(tree)
        if name.startswith("_") and not name.startswith("__") and name not in ours
    }
    assert {path for path, _, _ in found} == {THE_ONE_PLACE}, (
        f"private attributes of other libraries are read: {sorted(found)}; use a public way, or add a function to "
        f"hf_seqrl/{THE_ONE_PLACE} and a test of it here."
    )


def test_every_function_of_private_api_is_tested_here():
    functions = {name for name, _ in inspect.getmembers(private_api, inspect.isfunction)}
    here = Path(__file__).read_text("utf-8")
    assert functions and {name for name in functions if f"read({name}, " not in here} == set()
