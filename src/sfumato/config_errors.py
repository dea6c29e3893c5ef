"""From a ValidationError to a sentence that a person can act on: field, value, range, fix.

The JSON schema of the settings says what a field may be, so each bound is written once, in `sfumato.settings`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from difflib import SequenceMatcher
from typing import Any

from pydantic import BaseModel, ValidationError

from sfumato.errors import ConfigError, alike, did_you_mean, nearest, shown
from sfumato.lift import lifted_name

Schema = dict[str, Any]

TYPES = {"integer": "a whole number", "number": "a number", "string": "a text", "boolean": "true or false"}
PLURALS = {"integer": "whole numbers", "number": "numbers", "string": "texts"}


MOST_TOLD = 10  # faults that one message lists
LEAST_LIKE = 0.7  # likeness at which an unknown setting may be a misspelt known one


def explain(error: ValidationError, where: str, model: type[BaseModel], given: Iterable[str] = ()) -> ConfigError:
    """All faults of `error` as one ConfigError.

    Args:
        error: the error from validating `model`.
        where: the file that the settings came from, or what they are.
        model: Config, or one group of it.
        given: dotted names of settings from the command line: a fault in one of these is not a fault of the file.
    """
    schema, given = model.model_json_schema(), set(map(lifted_name, given))
    # Each type of a union of plain types reports a fault at the same place: one is enough.
    at = {_without_tags(fault["loc"], schema): fault for fault in reversed(error.errors(include_url=False))}
    faults = list(at.values())[::-1]
    told = dict.fromkeys(_fault(fault, schema) for fault in faults[:MOST_TOLD])
    lines, fixes = [line for line, _ in told], list(dict.fromkeys(fix for _, fix in told))
    if len(faults) > MOST_TOLD:
        lines.append(f"and {len(faults) - MOST_TOLD:,} more")

    elsewhere = given and all(not fault["loc"] or _is_given(fault["loc"], schema, given) for fault in faults)
    place = "" if elsewhere else f"{where}: "
    if len(lines) == 1:
        return ConfigError(f"{place}{lines[0]}", fixes[0])
    return ConfigError("\n  ".join([f"{place}{len(faults):,} settings are wrong", *lines]), "\n".join(fixes))


def _is_given(loc: tuple[Any, ...], schema: Schema, given: set[str]) -> bool:
    """Whether a fault is in one of the settings `given`, or beside one (where a given kind no longer fits)."""
    name = _dotted(_without_tags(loc, schema))
    return any(name == g or name.startswith((f"{g}.", f"{g}[")) or g.startswith(f"{name}.") for g in given)


def _fault(fault: Any, schema: Schema) -> tuple[str, str]:
    """What is wrong, and what to do."""
    path = _without_tags(fault["loc"], schema)
    name, value, kind = _dotted(path), fault["input"], fault["type"]

    if kind == "extra_forbidden":
        tags = tuple((Counter(fault["loc"]) - Counter(path)).elements())
        if name in dict(_settings(schema, schema, (), path)):
            group, meant = _dotted(path[:-1]), _meant(path, schema, tags)
            line = f"{name} is a setting of another {group}.kind{f'; did you mean {meant}?' if meant else ''}"
            return line, f"leave it out, or change {group}.kind"
        if isinstance(value, dict):
            siblings = _at(path[:-1], schema).get("properties", {})
            near = nearest(str(path[-1]), siblings)
            meant = _dotted((*path[:-1], near)) if alike(str(path[-1]), near) else ""
        else:
            meant = _meant(path, schema, tags)
        if not meant:
            return f"{_short(name)} is not a setting", "leave it out; `sfumato recipes emoji` shows all settings"
        return f"{_short(name)} is not a setting: did you mean {meant}?", f"write {meant}, or leave it out"

    if fault["loc"][-1:] == ("[key]",):
        group = _dotted(path[:-2])
        rule = _resolve(_at(path[:-2], schema), schema)["propertyNames"]["description"]
        return f"{group}: {value!r} cannot be a name here: {rule}", f"name it otherwise, e.g. {group}.text"

    if kind in ("union_tag_invalid", "union_tag_not_found"):
        kinds = list(_resolve(_at(path, schema), schema)["discriminator"]["mapping"])
        given = value.get("kind") if isinstance(value, dict) else value
        if given is None:
            return f"{name}.kind is missing", f"set {name}.kind to one of {', '.join(kinds)}"
        line = f"{name}.kind = {shown(given)} is not known{did_you_mean(str(given), kinds)}"
        return line, f"set {name}.kind to one of {', '.join(kinds)}"

    if kind == "missing":
        return f"{name} is missing", f"set {name} to {_allowed(_at(path, schema), schema)}"

    if kind == "value_error":  # raised by a validator of config.py, in these words
        message, _, fix = str(fault["ctx"]["error"]).partition(": ")
        return (f"{name}.{message}" if name else message), fix

    if kind == "string_unicode":  # how Python writes a byte of a file name that is not UTF-8
        return (
            f"{name} = {value!r} is not possible: it holds bytes that are not UTF-8",
            "rename the file or folder, or give a link to it with a plain name",
        )

    allowed = _allowed(_at(path, schema), schema)
    line = f"{name} = {shown(value)} is not possible: it must be {allowed}"
    if kind == "literal_error" and isinstance(value, str):
        line += did_you_mean(value, [str(choice) for choice in _at(path, schema)["enum"]]).replace(":", ";", 1)
    return line, f"set {name} to {allowed}"


def _dotted(path: tuple[Any, ...]) -> str:
    """("training", "ema", 1) -> "training.ema[1]"."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path).removeprefix(".")


def _resolve(schema: Schema, root: Schema) -> Schema:
    while "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "allOf" in schema and len(schema["allOf"]) == 1:
        return _resolve(schema["allOf"][0], root)
    return schema


def _of_any_name(schema: Schema) -> list[Schema]:
    """The schemas below names that the user chooses, such as the names of conditions; none for other groups."""
    return list(schema.get("patternProperties", {}).values())


def _step(schema: Schema, key: Any, root: Schema) -> list[Schema]:
    """The schemas that `key` may have below `schema` (several below a union)."""
    schema = _resolve(schema, root)
    found = [schema["properties"][key]] if key in schema.get("properties", {}) else []
    found += _of_any_name(schema)
    if isinstance(key, int):
        found += schema.get("prefixItems", [])[key : key + 1] or ([schema["items"]] if schema.get("items") else [])
    for branch in schema.get("oneOf", []) + schema.get("anyOf", []):
        found += _step(branch, key, root)
    return found


def _at(path: tuple[Any, ...], root: Schema) -> Schema:
    schema = root
    for key in path:
        below = _step(schema, key, root)
        if not below:
            return {}
        schema = below[0]
    return _resolve(schema, root)


def _without_tags(loc: tuple[Any, ...], root: Schema) -> tuple[Any, ...]:
    """pydantic puts the branch of a union into the path, ("network", "unet", "channels"): leave it out."""
    path: tuple[Any, ...] = ()
    for key in loc:
        at = _at(path, root)
        branch = isinstance(key, str) and "anyOf" in at and not _step(at, key, root)
        if not branch and key not in at.get("discriminator", {}).get("mapping", {}):
            path += (key,)
    return path


def _allowed(schema: Schema, root: Schema) -> str:
    """ "a whole number from 1 to 64", "'a' or 'b'", "a list of 1 to 8 numbers, each from 0 to 1"."""
    schema = _resolve(schema, root)
    if "enum" in schema:
        words = [repr(choice) for choice in schema["enum"]]
        return f"{', '.join(words[:-1])} or {words[-1]}"
    if "const" in schema:
        return repr(schema["const"])
    if "anyOf" in schema:
        return " or ".join(
            "null" if branch.get("type") == "null" else _allowed(branch, root) for branch in schema["anyOf"]
        )
    if schema.get("type") == "array":
        items = _resolve((schema.get("prefixItems") or [schema["items"]])[0], root)
        low, high = schema.get("minItems"), schema.get("maxItems")
        count = f"{low} " if low == high else f"{low or 0} to {high} " if high else ""
        limits = _limits(items)
        return f"a list of {count}{PLURALS[items['type']]}" + (f", each {limits}" if limits else "")
    if schema.keys() & {"properties", "patternProperties", "oneOf"}:
        return "a group of settings (name: value)"
    if "pattern" in schema:
        return schema.get("description", TYPES["string"])
    return " ".join(filter(None, (TYPES.get(schema.get("type", ""), "of another type"), _limits(schema))))


def _limits(schema: Schema) -> str:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    start = f"above {low:g}" if "exclusiveMinimum" in schema else f"from {low:,}" if low is not None else ""
    end = f"to below {high:g}" if "exclusiveMaximum" in schema else f"to {high:,}" if high is not None else ""
    return f"{start} {end}".strip()


def _settings(
    schema: Schema, root: Schema, tags: tuple[Any, ...], path: tuple[Any, ...] = (), prefix: str = ""
) -> Iterator[tuple[str, str]]:
    """All settings as (dotted name, description).

    If one tag of a union is in `tags`, only that branch counts. Names that the user chooses are taken from `path`.
    """
    schema = _resolve(schema, root)
    branches = schema.get("discriminator", {}).get("mapping", {})
    for tag, reference in branches.items():
        if tag in tags or not set(tags) & set(branches):
            yield from _settings({"$ref": reference}, root, tags, path, prefix)
    properties = dict(schema.get("properties", {}))
    for group in _of_any_name(schema):
        depth = prefix.count(".")
        properties[path[depth] if len(path) > depth else "text"] = group
    for key, below in properties.items():
        if "description" in below:  # a value; groups have theirs in $defs
            yield f"{prefix}{key}", below["description"]
        yield from _settings(below, root, tags, path, f"{prefix}{key}.")


def _meant(path: tuple[Any, ...], root: Schema, tags: tuple[Any, ...]) -> str:
    """The known setting most like an unknown one, or "" if none is much like it.

    Its last word or its description decides, and the same group counts in favour.
    """
    group, _, last = _dotted(path).lower().rpartition(".")
    words = last.replace("_", " ")

    def likeness(setting: tuple[str, str]) -> float:
        known_group, _, known = setting[0].rpartition(".")
        named = SequenceMatcher(None, last, known).ratio()
        described = (
            0.9 if len(words) > 2 and words in setting[1].lower() else 0.0
        )  # learning_rate -> lr: "learning rate of AdamW"
        return max(named, described) + 0.3 * SequenceMatcher(None, group, known_group).ratio()

    best = max(_settings(root, root, tags, path), key=likeness)
    return best[0] if likeness(best) >= LEAST_LIKE else ""


def _short(name: str) -> str:
    """A dotted name as a message shows it: without control characters, and cut if it is long."""
    return shown(name)[1:-1]
