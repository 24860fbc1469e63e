"""Secrets are masked whatever their form."""

import pytest

from hf_seqrl.data.secrets import masked, masked_arguments


@pytest.mark.parametrize(
    "arguments",
    [
        ["--hub_token", "MARK"],
        ["--hub-token=MARK"],
        ["--api_key", "MARK"],
        ["--password=MARK"],
        ["--push_to_hub_token", "MARK"],
    ],
)
def test_arguments_of_secret_names(arguments):
    clean = masked_arguments(["train", *arguments, "--max_steps", "3"])
    assert "MARK" not in " ".join(clean)
    assert clean[-2:] == ["--max_steps", "3"] and arguments[0].split("=")[0] in clean[1]


def test_values_of_the_environment_and_known_forms(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef")
    text = "x 0123456789abcdef hf_" + "a" * 34 + " https://me:secret@host/x"
    assert masked({"note": [text]}) == {"note": ["x *** *** https://***@host/x"]}


@pytest.mark.parametrize(
    "text",
    [
        "https://host/data.csv?token=MARK&rows=5",
        "https://host/data.csv?rows=5&X-Amz-Signature=MARK",
        "https://host/data.csv?sig=MARK",
        "https://me:p@MARK@host/data.csv",
        "{'api_key': 'MARK', 'rows': 5}",
        '{"password": "MARK"}',
        "secret=MARK",
        "--password: MARK",
        "github_pat_MARK" + "a" * 20,
        "glpat-MARK" + "a" * 20,
        "xoxb-MARK" + "1" * 10,
    ],
)
def test_secrets_within_a_text(text):
    assert "MARK" not in masked(text) and "***" in masked(text)


def test_keys_of_the_environment(monkeypatch):
    monkeypatch.setenv("TRACKER_KEY", "MARK-0123")
    assert masked("run MARK-0123") == "run ***"


def test_lists_under_a_secret_name_and_options_in_a_text():
    assert masked({"hub_token": ["MARK"], "auth": {"user": "MARK"}}) == {"hub_token": "***", "auth": "***"}
    text = "hf-seqrl train --resume --hub_token MARK --api-key=MARK --max_steps 3"
    assert masked(text) == "hf-seqrl train --resume --hub_token *** --api-key=*** --max_steps 3"


def test_what_is_no_secret_stays():
    kept = {
        "num_tokens": 3,
        "tokenizer": "x",
        "author": "me",
        "family": "decision-transformer",
        "name": "hf_seqrl/data",
    }
    assert masked(kept) == kept
    for text in ("pass token=..., and try again", "hf-seqrl train run.yaml --seed 3", "author: me", "reward_key: r"):
        assert masked(text) == text
    assert masked_arguments(["--max_tokens", "5", "hf_seqrl"]) == ["--max_tokens", "5", "hf_seqrl"]
