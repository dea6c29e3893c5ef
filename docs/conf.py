"""Settings of the website: `sphinx-build docs docs/_build`. Needs no network.

Docstrings in this project are plain text: a paragraph, perhaps an indented formula, and Google-style sections. Sphinx
reads them as reStructuredText, where a lone star or bar is markup; `as_plain_text` keeps formulas as they are written.
"""

import re

import sfumato

project = "Sfumato"
author = "Sfumato authors"
copyright = f"2025, {author}"
release = version = sfumato.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Sfumato {release}"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
# Links that leave docs/ (to the model card) are no pages of the website; tests/test_docs.py checks every link.
suppress_warnings = ["myst.xref_missing"]

default_role = "code"
highlight_language = "none"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_default_options = {"members": True, "show-inheritance": False, "exclude-members": "model_config"}
napoleon_use_ivar = True
napoleon_use_rtype = False

FIELD = re.compile(r":[^:`]+:")
INLINE = re.compile(r"(``.+?``|`[^`]+`)")


def as_plain_text(app, what, name, obj, options, lines: list[str]) -> None:
    """Escape what reStructuredText would take for markup, and set indented blocks verbatim."""
    if what == "module":  # Sphinx takes away the indentation that all lines but the first have in common
        lines[:] = (obj.__doc__ or "").splitlines()
    result: list[str] = []
    in_field = verbatim = False
    for line in lines:
        if not line.strip():
            result.append("")
            continue
        indented = line.startswith("    ") and not in_field
        if indented and not verbatim and (not result or not result[-1]):
            result += ["::", ""]
            verbatim = True
        if not line.startswith(" "):
            if verbatim:
                result.append("")
            verbatim, in_field = False, bool(FIELD.match(line))
        result.append(line if verbatim else escaped(line))
    lines[:] = result


def escaped(line: str) -> str:
    """A line with the special characters outside of `code` and of a leading `:field name:` or `* ` taken literally."""
    head = re.match(r"\s*(:[^:`]+:|[*-] |\.\. |:?:$)?", line)
    start = head.end() if head else 0
    if line.lstrip().startswith((".. ", "::")):
        return line
    parts = INLINE.split(line[start:])
    parts[::2] = [re.sub(r"([*|_`\\])", r"\\\1", part) for part in parts[::2]]
    return line[:start] + "".join(parts)


def setup(app) -> None:
    app.connect("autodoc-process-docstring", as_plain_text, priority=900)  # after napoleon
