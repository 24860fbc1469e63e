"""What others wrote stays data in cards."""

import ast
import re

import pytest

from hf_seqrl import Agent
from hf_seqrl.hub.markdown import code, fenced, literal, plain, render

HOSTILE = [
    'CartPole-v1")\nimport os; os.system("id")  # ',
    "x\n```\n# own heading\n```python",
    "<img src=x onerror=alert(1)>",
    "a | b ` c `` d",
    "[click](javascript:alert(1))",
    "{{ 7 * 7 }}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_code_and_fences_cannot_be_left(text):
    assert "\n" not in code(text) and "|" not in code(text)
    ticks = re.match("`+", code(text))[0]
    assert len(re.findall(f"(?<!`){ticks}(?!`)", code(text))) == 2
    first, *inner, last = fenced(text, "yaml").split("\n")
    assert first == f"{last}yaml" and not any(line.strip().startswith(last) for line in inner)
    assert ast.literal_eval(literal(text)) == text
    assert plain(text) == code(text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_card_holds_no_code_of_a_stranger(tiny_agent, tmp_path, text):
    tiny_agent.processor.task = tiny_agent.processor.task.updated(env_id=text.replace(":", ";"))
    tiny_agent.save_pretrained(tmp_path / "agent")
    card = (tmp_path / "agent" / "README.md").read_text()
    example = card.split("```python\n")[1].split("\n```")[0]
    calls = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Call)]
    assert {ast.unparse(call.func) for call in calls} == {"Agent.from_pretrained", "rollout", "print", "result.table"}
    body = card.split("---\n", 2)[2]
    assert "\n# own heading" not in body and "<img" not in re.sub("`+[^`]*`+", "", body)
    assert "49" not in body.split("## Results")[0].split("\n# ")[1].split("\n")[0]
    Agent.from_pretrained(tmp_path / "agent")


def test_the_page_of_a_space_quotes_names():
    app = render("space/app.py.jinja", sources=['a", __import__("os"), "'], env_id='x"', requirements=[])
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(app)) if isinstance(node, ast.Call)]
    assert calls == ["build_page", "demo.launch"]
