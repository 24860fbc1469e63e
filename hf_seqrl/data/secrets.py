"""No token, key or password in anything that is written down."""

import os
import re
from collections.abc import Sequence
from typing import Any

_SECRET_WORDS = (
    r"token(?!iz)|secret|passw|passphrase|credential|api_?key|access_?key|private_?key|auth(?!or)"  # in a name
)
_SECRET_NAME = re.compile(_SECRET_WORDS, re.I)
_NOT_SECRET = re.compile(r"num_|max_|_per_|tokens\b|pad_token|bos_token|eos_token|token_id|average_tokens", re.I)
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|gh[pousr]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|xox[abp]-[\w-]{10,}|sk-[\w-]{20,}"
    r"|AKIA[0-9A-Z]{16}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})\b"
)
_OPTION = re.compile(r"(--[\w-]+(?:=|\s+))(?!-)\S+")  # and its value, in a command
_ENTRY = re.compile(  # of a dictionary or a query, in a text
    rf"([\w-]*(?:{_SECRET_WORDS})[\w-]*)" + r"""(['"]?\s*[=:]\s*['"]?)([^\s'"&,;(){}\[\]]*\w[^\s'"&,;(){}\[\]]*)"""
)
_SIGNATURE = re.compile(r"([?&](?:sig|signature|x-amz-[\w-]+|x-goog-[\w-]+)=)[^&\s]+", re.I)
_URL_LOGIN = re.compile(r"(:/{1,2})[^/\s]+(?=@)")  # a path has lost one of the slashes
_SHORTEST = 6  # of an environment variable's value that is looked for in texts
MASK = "***"


def is_secret(name: str) -> bool:
    """Whether something of this name is better not written down.

    Example:
        >>> is_secret("--hub_token"), is_secret("WANDB_API_KEY"), is_secret("--tokenizer_name"), is_secret("num_tokens")
        (True, True, False, False)
    """
    name = name.replace("-", "_")
    return bool(_SECRET_NAME.search(name)) and not _NOT_SECRET.search(name)


def masked(value: Any) -> Any:
    """A copy of texts, lists and dictionaries with every secret in the place of `***`.

    Secret is what stands under a secret name or behind an option of such a name, the value of an environment variable of such a
    name, what has the form of a known kind of token, and the login and the signature in an address.

    Example:
        >>> masked({"hub_token": "abc", "name": "https://me:pass@host/data", "steps": 3})
        {'hub_token': '***', 'name': 'https://***@host/data', 'steps': 3}
        >>> masked("https://host/data.csv?api_key=abc&rows=5")
        'https://host/data.csv?api_key=***&rows=5'
    """
    return _masked(value, _secrets_of_environment())


def masked_arguments(arguments: Sequence[str]) -> list[str]:
    """A command line with every secret masked.

    Example:
        >>> masked_arguments(["train", "--hub_token", "abc", "--api-key=def", "--max_steps", "5"])
        ['train', '--hub_token', '***', '--api-key=***', '--max_steps', '5']
    """
    clean, hidden, secrets = [], False, _secrets_of_environment()
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        if hidden and not argument.startswith("--"):
            clean.append(MASK)
        elif equals and name.startswith("-") and is_secret(name):
            clean.append(f"{name}={MASK}")
        else:
            clean.append(_masked_text(argument, secrets))
        hidden = argument.startswith("-") and not equals and is_secret(argument)
    return clean


def _secrets_of_environment() -> list[str]:
    """The values of environment variables of secret names, which are looked for in texts; paths are none."""
    return [
        value
        for name, value in os.environ.items()
        if (is_secret(name) or name.endswith("_KEY")) and len(value) >= _SHORTEST and not os.path.exists(value)
    ]


def _masked(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, dict):
        return {_masked(name, secrets): _masked_entry(name, part, secrets) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_masked(part, secrets) for part in value) if type(value) in (list, tuple) else value
    return _masked_text(value, secrets) if isinstance(value, str) else value


def _masked_entry(name: Any, value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(name, str) and isinstance(value, str | bytes | list | tuple | dict) and value and is_secret(name):
        return MASK
    return _masked(value, secrets)


def _masked_text(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    text = _OPTION.sub(lambda option: f"{option[1]}{MASK}" if is_secret(option[1]) else option[0], text)
    text = _URL_LOGIN.sub(rf"\g<1>{MASK}", _SECRET_VALUE.sub(MASK, text))
    text = _ENTRY.sub(lambda entry: f"{entry[1]}{entry[2]}{MASK}" if is_secret(entry[1]) else entry[0], text)
    return _SIGNATURE.sub(rf"\g<1>{MASK}", text)
