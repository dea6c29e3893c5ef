"""YAML as a person means it: the safe subset, without the traps of YAML 1.1.

`1e-4` is a number (YAML 1.1 wants `1.0e-4`). `no` and `on` are words (YAML 1.1: booleans), as are `12:30` and `010`
(YAML 1.1: 750 and 8). A key given twice is an error and not a setting silently lost. Aliases are refused: settings need
none, and nested ones make an endless document from a small file. Text that JSON wrote is read as the same text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import yaml

from sfumato.bounded import read_bytes
from sfumato.errors import ConfigError, of_system

LARGEST = 64 * 1024  # bytes; the longest recipe has a tenth of that, and reading so much takes a second

# The core schema of YAML 1.2 (section 10.3.2): type -> its pattern, and the characters that it begins with.
CORE = {
    "bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": (r"[-+]?(0|[1-9][0-9]*)", "-+0123456789"),
    "float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+|[-+]?\.(inf|Inf)|\.(nan|NaN)",
        "-+.0123456789",
    ),
}


_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: ClassVar = {
        first: [rule for rule in rules if rule[0].rpartition(":")[2] in ("null", "merge")]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.MarkedYAMLError(None, None, "aliases (*name) are not allowed", self.peek_event().start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict:
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(None, None, f"{key.value!r} is given twice", key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        """Join the two surrogates that JSON writes for a character beyond U+FFFF."""
        value = super().construct_scalar(node)
        if isinstance(value, str) and _PAIR.search(value):
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return value


class _Dumper(yaml.SafeDumper):
    """Groups in block style, lists on one line; quotes text that YAML 1.1 or 1.2 would take for another type."""


for _type, (_pattern, _first) in CORE.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_type}", re.compile(f"^({_pattern})$"), list(_first))

_Dumper.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, True))


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Only a double-quoted scalar escapes what YAML folds as line breaks, U+0085 among them.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def read(file: Path) -> str:
    """The text of a file of settings.

    Raises:
        UserError: it is not a file, too large or not text in UTF-8; names the file.
    """
    try:
        return read_bytes(file, LARGEST, "give a YAML file of settings").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} cannot be read as text: {error}", "give a YAML file in UTF-8") from None
    except OSError as error:
        told = of_system(error)
        raise ConfigError(told.message, told.fix) from None


def load(text: str, where: str) -> Any:
    """The plain value that `text` holds.

    Raises:
        ConfigError: the text is not such YAML; the message begins with `where` and names the line.
    """
    if len(text) > LARGEST:
        raise ConfigError(f"{where}: {len(text):,} characters, more than the limit of {LARGEST:,}", "leave some out")
    try:
        return yaml.load(text, _Loader)  # a SafeLoader: plain values only
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}, line {mark.line + 1}" if mark and "\n" in text else where
        problem = " ".join((getattr(error, "problem", None) or str(error)).split())
        raise ConfigError(f"{place}: {problem}", "write `name: value`, groups nested by two spaces") from None


def dump(settings: dict[str, Any]) -> str:
    """Plain values as YAML that `load` reads back unchanged, in the order given."""
    return yaml.dump(settings, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
