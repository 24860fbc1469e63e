"""What the pages of the documentation show is what happens."""

import ast
import doctest
import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DecisionTransformerModel, TrainingArguments

import hf_seqrl.training.run  # before `TrainingArguments` is replaced
from hf_seqrl.cli.main import main
from hf_seqrl.cli.options import help_text
from hf_seqrl.models import registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
HELP = ROOT / "tests" / "cli" / "help"
FAMILY_HELP = ROOT / "hf_seqrl" / "cli" / "help"
_FENCE = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def blocks(page, language):
    """Title and text of each block of a language on a page."""
    found = _FENCE.findall((DOCS / page).read_text(encoding="utf-8"))
    return [(title, text) for kind, title, text in found if kind == language]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_trainings(monkeypatch):
    """`small_trainings(max_steps=2)` lets `TrainingArguments` take these values, whatever a page says."""

    def shrink(**overrides):
        chosen = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", **overrides}
        made = lambda *a, **k: TrainingArguments(*a, **{**k, **chosen})  # noqa: E731
        monkeypatch.setattr("transformers.TrainingArguments", made)

    return shrink


@pytest.fixture
def behavior_mlp(folder, monkeypatch):
    """The package of the page "Adding a model family", not yet imported; forgotten afterwards."""
    for name, text in blocks("adding-a-family.md", "python"):
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(folder)
    yield "behavior_mlp"
    registry._REGISTERED.pop("behavior-mlp", None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "behavior_mlp"]:
        del sys.modules[name]


def test_concepts_hold():
    results = doctest.testfile(str(DOCS / "concepts.md"), module_relative=False)
    assert results.failed == 0 and results.attempted > 40


def test_a_family_from_outside_is_trained_rolled_out_saved_and_loaded(behavior_mlp, small_trainings):
    small_trainings()
    (program,) = [text for title, text in blocks("adding-a-family.md", "python") if not title]
    names = {}
    exec(compile(program, "adding-a-family.md", "exec"), names)
    assert names["agent"].evaluation.mean_return > 300  # a random policy: 22
    assert names["again"].returns.tolist() == names["agent"].evaluation.returns.tolist()
    judgement = names["judge_offline"](names["loaded"], names["held_out"])
    assert judgement.loss < 0.8 * judgement.uninformed_loss
    assert type(names["AutoModel"].from_pretrained("runs/behavior-mlp")).__name__ == "BehaviorMLPModel"
    assert "behavior-mlp" in Path("runs/behavior-mlp/README.md").read_text()


def test_an_installed_package_announces_its_family(behavior_mlp, folder, capsys):
    ((_, announcement),) = blocks("adding-a-family.md", "toml")
    metadata = folder / "behavior_mlp-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: behavior-mlp\nVersion: 1.0\n")
    group, line = re.search(r"\"([\w.]+)\"\]\n(.*)", announcement).groups()
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")

    assert "behavior_mlp" not in registry.families()
    small = {
        "collect": ["--num_episodes", "3"],
        "train": ["--max_steps", "3", "--eval_episodes", "2", "--use_cpu", "--disable_tqdm", "true"],
        "evaluate": ["--num_episodes", "2"],
    }
    ((_, commands),) = blocks("adding-a-family.md", "bash")
    for line in commands.splitlines():
        _, verb, *arguments = shlex.split(line)
        assert main([verb, *arguments, *small[verb]]) == 0, capsys.readouterr().err
    assert "behavior_mlp" in sys.modules
    assert main(["train", "--help"]) == 0
    assert "policy-gradient, behavior-mlp" in capsys.readouterr().out


def test_a_family_is_named_after_its_model_type_and_takes_nobodys_place(behavior_mlp):
    from dataclasses import replace

    import behavior_mlp

    with pytest.raises(ValueError, match="is named 'mine': expected 'behavior-mlp'"):
        hf_seqrl.register_family(replace(behavior_mlp.FAMILY, name="mine"))
    with pytest.raises(ValueError, match="'policy_gradient' is a family of hf_seqrl"):
        hf_seqrl.register_family(replace(behavior_mlp.FAMILY, model_type="policy_gradient"))


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The built documentation, which was built without a single warning."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    warnings = [line for line in (built.stdout + built.stderr).splitlines() if not line.startswith("INFO")]
    assert (built.returncode, warnings) == (0, [])
    return target


def test_a_link_that_leads_nowhere_fails_the_build(tmp_path):
    """Without warnings there is nothing that `--strict` could count: the fixture above relies on them."""
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("![A picture](nowhere.png)\n")
    (tmp_path / "mkdocs.yml").write_text("site_name: broken\n")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert built.returncode == 1 and "nowhere.png" in built.stdout + built.stderr


def test_reference_has_every_public_name_once(site):
    shown = [
        path
        for page in (site / "api").rglob("index.html")
        for path in re.findall(r'<h2 id="(hf_seqrl[\w.]+)"', page.read_text(encoding="utf-8"))
    ]
    wanted = [f"{module}.{name}" for name, module in hf_seqrl._MODULE_OF_NAME.items()]
    assert sorted(shown) == sorted(set(shown))
    assert set(wanted) <= set(shown)


def test_docstrings_are_shown_in_their_grammar(site):
    page = (site / "api" / "decision-transformer" / "index.html").read_text(encoding="utf-8")
    assert (
        "<p><strong>Args</strong></p>\n<ul>\n<li><code>task</code> (<code>Task</code> or <code>dict</code>, <em>optional</em>)"
        in page
    )
    visible = re.sub(r"<[^>]+>", "", page)
    assert (
        "`" not in visible
        and "[TrajectoryWindows]" not in visible
        and ">>>" not in re.sub(r"&gt;&gt;&gt;", "", visible)
    )
    link = r'<a [^>]*href="\.\./data/#hf_seqrl\.data\.windows\.TrajectoryWindows"><code>TrajectoryWindows</code></a>'
    assert re.search(link, page)


def test_the_extension_does_what_its_example_says():
    spec = importlib.util.spec_from_file_location("hf_docstrings", DOCS / "hf_docstrings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert doctest.testmod(module) == (0, 1)


def test_pages_fetch_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 10
    for page in pages:
        loaded = re.findall(
            r'<(?:link|script|img)[^>]+(?:href|src)="(https?:[^"]+)"', page.read_text(encoding="utf-8")
        )
        assert loaded == [], page


def test_the_command_line_page_shows_every_verb_and_family(site):
    page = (site / "cli" / "index.html").read_text(encoding="utf-8")
    texts = [*HELP.glob("*.txt"), *FAMILY_HELP.glob("*.txt")]
    assert len(texts) > 10
    for text in texts:
        usage = text.read_text(encoding="utf-8").splitlines()[0]
        assert usage.replace(">", "&gt;") in re.sub(r"<[^>]+>", "", page), text.name


@pytest.mark.parametrize("name", registry.family_names())
def test_options_of_a_family_are_as_the_page_shows_them(name, monkeypatch):
    family = registry.family_named(name)
    monkeypatch.setenv("COLUMNS", "100")
    approved = FAMILY_HELP / f"train-{family.name}.txt"
    if os.environ.get("HF_SEQRL_APPROVE_HELP"):
        approved.write_text(help_text(family))
    assert help_text(family) == approved.read_text()


def _new_sides(page):
    """The code of a page in its order: of a difference, what remains and what is added."""
    for language, _, text in _FENCE.findall((DOCS / page).read_text(encoding="utf-8")):
        if language == "python":
            yield text
        if language == "diff":
            yield "".join(line[1:] for line in text.splitlines(keepends=True) if not line.startswith("-"))


def _random_episodes(state_dim, act_dim):
    """In the columns of the post's data set."""
    rng = np.random.default_rng(0)
    length, steps = 12, range(6)
    return Dataset.from_dict(
        {
            "observations": [rng.normal(size=(length, state_dim)).tolist() for _ in steps],
            "actions": [rng.uniform(-1, 1, size=(length, act_dim)).tolist() for _ in steps],
            "rewards": [rng.normal(size=length).tolist() for _ in steps],
            "dones": [[False] * (length - 1) + [True] for _ in steps],
        }
    )


@pytest.fixture
def short_episodes(monkeypatch):
    """Twenty steps in the environments of the pages."""
    pytest.importorskip("mujoco")
    for env_id in ("HalfCheetah-v5", "Hopper-v5"):
        monkeypatch.setattr(gymnasium.spec(env_id), "max_episode_steps", 20)


@pytest.mark.filterwarnings("ignore:target_return is")  # the data of this test are no half-cheetah's
def test_migration_runs_line_by_line(folder, small_trainings, short_episodes):
    small_trainings(max_steps=2, per_device_train_batch_size=4, save_strategy="no")
    _random_episodes(17, 6).save_to_disk("edbeeching/decision_transformer_gym_replay")
    _random_episodes(11, 3).save_to_disk("data/hopper-medium")
    sizes = {"observation_dim": 11, "action_dim": 3, "transition_dim": 16, "vocab_size": 10, "block_size": 159}
    config = hf_seqrl.TrajectoryTransformerConfig(**sizes, n_layer=1, n_head=2, n_embd=8)
    old = folder / "CarlCochet" / "trajectory-transformer-hopper-medium-v2"
    config.save_pretrained(old)
    torch.save(hf_seqrl.TrajectoryTransformerModel(config).state_dict(), old / "pytorch_model.bin")

    names = {"torch": torch}
    for code in _new_sides("migration.md"):
        exec(compile(code, "migration.md", "exec"), names)
    assert names["tokens"].tolist() == [[0] * 16]
    assert names["result"].env_id == "Hopper-v5" and len(names["result"].returns) == 2
    plain = DecisionTransformerModel.from_pretrained("dt-halfcheetah")
    assert plain.config.state_dim == 17
    assert names["agent"].processor.discretizer.config.num_bins == 10


def test_the_bicycle_is_as_its_page_says():
    names, promised = {}, []
    for _, code in blocks("bicycle.md", "python"):
        exec(compile(code, "bicycle.md", "exec"), names)
        promised += re.findall(r"^(\w.*\))\s+# (\d+\.\d+)", code, flags=re.MULTILINE)
    assert len(promised) == 2
    for expression, value in promised:
        assert eval(expression, names) == float(value)


@pytest.mark.parametrize(
    "page", sorted((ROOT / "hf_seqrl" / "models").glob("*/README.md")), ids=lambda page: page.parent.name
)
def test_pages_of_the_families_import_what_exists(page):
    code = "\n".join(text for kind, _, text in _FENCE.findall(page.read_text(encoding="utf-8")) if kind == "python")
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(ast.Module(imports, type_ignores=[]), str(page), "exec"), {})
    files = re.findall(r"`(\w+\.py)`", page.read_text(encoding="utf-8"))
    missing = [
        name for name in files if not list(ROOT.glob(f"hf_seqrl/**/{name}")) + list(ROOT.glob(f"benchmarks/{name}"))
    ]
    assert missing == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page):
    """mkdocs checks those of the site; here, that they lead somewhere in the repository, too."""
    for link in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
