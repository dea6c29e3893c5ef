"""Writes the table of all settings: `python docs/settings.py` makes docs/reference/settings.md from the code.

A test compares the page with what this script makes, so that it cannot fall behind.
"""

from pathlib import Path
from typing import Any

from sfumato.config import Config

PAGE = Path(__file__).parent / "reference" / "settings.md"
HEAD = """\
# Settings

Every setting of a run, as a recipe writes it (`network:` and below it `channels: 64`) and as `--set` takes it
(`--set network.channels=64`). A group with a `kind` has the settings of that kind only. `sfumato recipes emoji` prints
a recipe in full. This page is made by `docs/settings.py`.
"""


def page() -> str:
    """The page in Markdown."""
    schema = Config.model_json_schema()
    parts = [HEAD]
    for group, about in schema["properties"].items():
        named = list(about.get("patternProperties", {}).values())  # groups by names that a person chooses
        group, about = (f"{group}.NAME", named[0]) if named else (group, about)
        kinds = about.get("discriminator", {}).get("mapping")
        references = kinds or ({"": about["$ref"]} if "$ref" in about else {})
        for kind, reference in references.items():
            model = schema["$defs"][reference.rpartition("/")[2]]
            title = f"`{group}` with `kind: {kind}`" if kind else f"`{group}`"
            parts.append(f"## {title}\n\n{model['description']}\n")
            rows = {key: field for key, field in model["properties"].items() if "const" not in field}
            if rows:
                parts.append("| setting | default | may be | is |\n|---|---|---|---|")
                parts.append("\n".join(row(f"{group}.{key}", field) for key, field in rows.items()) + "\n")
    return "\n".join(parts)


def row(name: str, field: dict[str, Any]) -> str:
    default = word(field["default"]) if "default" in field else "must be given"
    return f"| `{name}` | {default} | {allowed(field)} | {field.get('description', '')} |"


def word(value: Any) -> str:
    """A value as YAML writes it."""
    if value in ("", []):
        return "empty"
    text = {None: "null", True: "true", False: "false"}.get(value) if isinstance(value, bool | None) else None
    return f"`{text or (list(value) if isinstance(value, list | tuple) else value)}`"


def allowed(field: dict[str, Any]) -> str:
    """What a setting may be, in a few words."""
    if "anyOf" in field:
        return " or ".join(allowed(branch) for branch in field["anyOf"])
    if "enum" in field:
        return ", ".join(word(choice) for choice in field["enum"])
    kind = field.get("type")
    if kind == "array":
        items = (field.get("prefixItems") or [field["items"]])[0]
        low, high = field.get("minItems", 0), field.get("maxItems", "")
        return f"{low} numbers" * (low == high) + f"{low} to {high} values" * (low != high) + f": {allowed(items)}"
    if kind == "boolean":
        return "`true`, `false`"
    if kind == "null":
        return "`null`"
    low, high = field.get("minimum", field.get("exclusiveMinimum")), field.get("maximum", field.get("exclusiveMaximum"))
    if low is None or high is None:
        return "text"
    below = "below " if "exclusiveMaximum" in field else ""
    return f"{'above ' if 'exclusiveMinimum' in field else ''}{low:g} to {below}{int(high) if high >= 1 else high:,}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
