"""The code of a model in its repository, for loading without this package.

Loading requires `AutoModel.from_pretrained(..., trust_remote_code=True)`, as it runs code from the repository.
"""

import json
import re
from importlib.util import find_spec
from pathlib import Path

from transformers.dynamic_module_utils import custom_object_save

from hf_seqrl.hub.checkpoint import CONFIG_NAME
from hf_seqrl.models.registry import ModelFamily

_OWN_IMPORT = re.compile(r"^from (hf_seqrl\.[\w.]+) import ", re.MULTILINE)


def set_code(folder: str | Path, family: ModelFamily, include: bool) -> None:
    """Make the configs in a folder name the code beside them, which is put there; or else name none.

    Models of configs that transformers has itself get no code: it loads them without.

    Args:
        folder: What `save_pretrained` wrote; configs in subfolders count too.
        family: Whose models they are.
        include: Whether the repository contains the code.
    """
    classes = {
        config.model_type: (config, model)
        for config, model in ((family.config_class, family.model_class), *family.other_models)
    }
    for path in Path(folder).rglob(CONFIG_NAME):
        config = json.loads(path.read_text(encoding="utf-8"))
        config_class, model_class = classes[config["model_type"]]
        config.pop("auto_map", None)  # it may come from where the model was loaded
        if include and not config_class.__module__.startswith("transformers."):
            for own_class in (config_class, model_class):
                custom_object_save(own_class, path.parent)
            _bring_what_is_imported(path.parent)
            config["auto_map"] = {"AutoConfig": _place(config_class), "AutoModel": _place(model_class)}
        path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _bring_what_is_imported(folder: Path) -> None:
    """Put the modules of this package that the code in a folder imports by their full names beside it, and import them
    from there: `custom_object_save` copies the modules of relative imports only."""
    remaining = list(folder.glob("*.py"))
    while remaining:
        path = remaining.pop()
        code = path.read_text(encoding="utf-8")
        for name in dict.fromkeys(_OWN_IMPORT.findall(code)):
            copied = folder / f"{name.rpartition('.')[2]}.py"
            if not copied.exists():
                spec = find_spec(name)
                assert spec is not None and spec.origin is not None, name
                copied.write_text(Path(spec.origin).read_text(encoding="utf-8"), encoding="utf-8")
                remaining.append(copied)
        own = _OWN_IMPORT.sub(lambda found: f"from .{found[1].rpartition('.')[2]} import ", code)
        path.write_text(own, encoding="utf-8")


def _place(own_class: type) -> str:
    return f"{own_class.__module__.rpartition('.')[2]}.{own_class.__name__}"
