"""The pages are true: their code runs, their commands parse, and their links and names exist.

Blocks of one page run in order, in one namespace and in a temporary folder that holds `my-pictures`, 32 captioned
drawings. If a block trains, the network is tiny and the run four steps long; everything else is as on the page.
"""

import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

import sfumato
from sfumato.cli.main import build
from sfumato.cli.train import settings
from sfumato.config import Config, change, validate
from sfumato.data.catalogue import CATALOGUE
from sfumato.training import budget, resolve, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
TINY = (
    "network.channels=16",
    "network.groups=4",
    "network.multipliers=[1, 2]",
    "network.blocks=1",
    "codec.size=16",
    "training.steps=4",
    "training.batch=4",
    "training.checkpoint_every=2",
    "training.validate_every=2",
    "sampling.steps=2",
)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, *languages: str) -> list[tuple[int, str]]:
    """(number of its first line, text) of the fenced blocks of a page in one of the languages."""
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    text = page.read_text("utf-8")
    return [(text.count("\n", 0, m.start(2)) + 1, m[2]) for m in found if m[1] in languages]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(tmp_path, monkeypatch):
    """A reader's folder, and training that takes seconds."""
    folder = tmp_path / "my-pictures"
    folder.mkdir()
    for i in range(32):
        colour, shape = ("red", "blue")[i % 2], ("circle", "square")[i // 2 % 2]
        picture = Image.new("RGB", (40, 40), "white")
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "circle" else pen.rectangle)((4 + i // 4, 6, 28 + i // 4, 30), fill=colour)
        picture.save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a {colour} {shape}\n{shape}\n")

    def train_tiny(config, *arguments, **named):
        tiny = validate(change(config.model_dump(mode="json"), TINY), "the tiny settings of this test")
        return run.train(tiny, *arguments, **named)

    monkeypatch.setattr(sfumato, "train", train_tiny)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=name_of)
def test_every_python_block_runs(page, reader):
    namespace = {"__name__": name_of(page)}
    for line, code in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + code, page, "exec"), namespace)  # a traceback names page and line


# --- commands --------------------------------------------------------------------------------------------------------


def commands(page: Path) -> list[list[str]]:
    """The words of every command of the shell blocks of a page; a line may hold several, and `> file`."""
    found = []
    for _, block in blocks(page, "sh", "bash", "console", ""):
        for line in block.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if word in (";", "&&", "||", "|", "&"):
                    found.append(words)
                    words = []
                else:
                    words.append(word)
    return [words[: words.index(">")] if ">" in words else words for words in found if words]


def written_files(page: Path) -> set[str]:
    """What commands of a page write by `> file`."""
    return set(re.findall(r"> ([\w.-]+)", "\n".join(text for _, text in blocks(page, "sh"))))


def sfumato_commands(page: Path) -> list[list[str]]:
    ours = [c[3:] if c[:3] == ["python3", "dev.py", "run"] else c for c in commands(page)]
    return [command[1:] for command in ours if command[:1] == ["sfumato"]]


@pytest.mark.parametrize("page", [p for p in PAGES if sfumato_commands(p)], ids=name_of)
def test_every_sfumato_command_is_one(page):
    app = build()
    for words in sfumato_commands(page):
        if words == ["..."]:
            continue
        function, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        given = bound.arguments
        if function.__name__ == "train":  # recipe and settings exist, too
            recipe = given.get("recipe")
            printed = recipe in written_files(page)  # `sfumato recipes folder > mine.yaml`, further up
            settings(given.get("path"), "folder" if printed else recipe, given.get("out"), given.get("changes", ()))
        if words[:2] == ["data", "get"] and "name" in given:
            assert given["name"] in CATALOGUE
        assert function is not None


def test_the_check_of_commands_has_teeth(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nsfumato data get emoji && sfumato train ./x --sett a=b  # and\nsfumato recipes x > y\n```\n"
    )

    assert sfumato_commands(page) == [
        ["data", "get", "emoji"],
        ["train", "./x", "--sett", "a=b"],
        ["recipes", "x"],
    ]
    with pytest.raises(Exception, match="--sett"):
        build().parse_args(["train", "./x", "--sett", "a=b"], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_verb_of_dev_py_is_one(page):
    known = set(re.findall(r"python3 dev\.py (\w+)", ast.get_docstring(ast.parse((ROOT / "dev.py").read_text())) or ""))

    assert {c[2] for c in commands(page) if c[:2] == ["python3", "dev.py"]} <= known


# --- links and names -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_to_a_file_and_every_test_it_names_is_there(page):
    missing = []
    for words, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", prose(page)):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file = page.parent / target.partition("#")[0] if not target.startswith("#") else page
        if not file.exists():
            missing.append(target)
        elif (test := words.strip("`")).startswith("test_") and f"def {test}(" not in file.read_text("utf-8"):
            missing.append(f"{target}: {test}")
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_name_of_the_code_is_one(page):
    for name in sorted(set(re.findall(r"`(sfumato(?:\.\w+)+)`", prose(page)))):
        found = sfumato
        for depth, part in enumerate(name.split(".")[1:], 2):
            if not hasattr(found, part):
                importlib.import_module(".".join(name.split(".")[:depth]))
            found = getattr(found, part)


def setting_names() -> set[str]:
    schema = Config.model_json_schema()
    names = set()
    for group, below in schema["properties"].items():
        branches = [b["$ref"] for b in below.get("oneOf", [])] or ([below["$ref"]] if "$ref" in below else [])
        for branch in branches:
            names |= {f"{group}.{key}" for key in schema["$defs"][branch.rpartition("/")[2]]["properties"]}
    return names


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_setting_that_is_named_is_one(page):
    groups = "|".join({name.partition(".")[0] for name in setting_names()})
    named = set(re.findall(rf"`((?:{groups})\.[a-z_]+)(?:=[^`]*)?`", prose(page)))

    assert {n for n in named if not n.endswith((".json", ".yaml", ".py"))} <= setting_names()


def test_the_rules_of_the_recipe_folder_are_told_as_they_are():
    page = (ROOT / "docs" / "train-your-own.md").read_text("utf-8")
    sides, channels = (sorted({rung[i] for rung in budget.LADDER}) for i in (0, 1))

    assert f"largest of {sides[0]}, {sides[1]} and {sides[2]} pixels" in page
    assert f"{channels[0]}, {channels[1]} and {channels[2]}\n  channels" in page
    assert f"{budget.ENOUGH:,} pictures can be seen" in page and budget.HOUR == 3600
    assert f"{budget.EPOCHS} epochs ({budget.FEWEST:,} steps at least)" in page
    assert f"at most {budget.SHEETS[0]} times, and a tenth" in page and budget.SHEETS[1] == 0.1
    assert f"of which {budget.SPARE:.0%}".replace("%", " %") in page
    assert f"({resolve.HELD_OUT}, at most an eighth)" in page and resolve.MOST_HELD_OUT == 1 / 8


def test_the_readme_is_short_its_core_fits_into_25_lines_and_each_part_has_one_link():
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8")
    [(_, core)] = blocks(readme, "python")
    rows = [line for line in text.splitlines() if line.startswith("| [")]

    assert len(text.splitlines()) <= 75 and len(text.split()) <= 650
    assert sum(bool(line.strip()) for line in core.splitlines()) <= 25
    assert len(rows) > 10 and all(row.count("](") == 1 for row in rows)
    assert [command[:3] for command in commands(readme)] == [
        ["python3", "dev.py", "demo"],
        ["python3", "dev.py", "test"],
    ]


def test_the_index_has_one_line_for_every_page():
    index = ROOT / "docs" / "index.md"
    rows = [line for line in index.read_text("utf-8").splitlines() if line.startswith("| ")]
    pages = {p.name for p in index.parent.glob("*.md")} - {"index.md"}

    assert {page for page in pages if sum(f"]({page})" in row for row in rows) != 1} == set()


# --- what is made from the code --------------------------------------------------------------------------------------


def script(name: str):
    """A script of docs/ as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_settings_is_that_of_the_code():
    made = script("settings")

    assert made.PAGE.read_text("utf-8") == made.page(), "run: python docs/settings.py"


@pytest.mark.parametrize("name", ["schedules", "unet", "nouns"])
def test_the_diagrams_are_those_of_the_script(name):
    made = script("figures")

    assert (made.FOLDER / f"{name}.svg").read_text("utf-8") == getattr(made, name)(), "run: python docs/figures.py"


def test_every_module_is_in_the_reference():
    modules = {
        ".".join(p.relative_to(ROOT / "src").with_suffix("").parts) for p in (ROOT / "src" / "sfumato").rglob("*.py")
    }
    wanted = {m.removesuffix(".__init__") for m in modules if not re.search(r"\.cli\b|__main__", m)}
    told = "\n".join(p.read_text("utf-8") for p in (ROOT / "docs" / "reference").glob("*.md"))
    named = set(re.findall(r"^\.\. automodule:: (\S+)$", told, re.MULTILINE))

    assert named <= wanted
    assert {m for m in wanted - named if not is_package(m)} == set()


@pytest.mark.slow
def test_the_website_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", tmp_path / "doctrees"]
    done = subprocess.run([*command, ROOT / "docs", tmp_path / "html"], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    told = (tmp_path / "html" / "reference" / "diffusion.html").read_text("utf-8")
    assert "alpha_bar_i = prod_{j &lt;= i} (1 - beta_j)" in told  # formulas of docstrings stay as they are written


def is_package(module: str) -> bool:
    return (ROOT / "src" / Path(*module.split(".")) / "__init__.py").exists()
