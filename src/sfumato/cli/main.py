"""The command line: which verbs there are, and how errors are printed.

A verb's file is imported when the verb is called, so that `sfumato --help` stays instant. Mistakes of the user and
refusals of the system (a full disk, a missing right, no memory) print two lines, what is wrong and the fix, and exit
with 2. Faults of Sfumato keep their traceback. Ctrl-C exits with 130, as shells do.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Sequence

from cyclopts import App, CycloptsError, Parameter

from sfumato import __version__
from sfumato.cli import streams, words
from sfumato.errors import EXTRAS, MissingPackage, Told, UserError, module_of, of_memory, of_system

EXAMPLES = """\
  sfumato generate "a red heart"     draw a picture from a prompt
  sfumato train ./my-pictures        learn from a folder of pictures
  sfumato doctor                     see what this machine can do
"""

# verb -> (where it lives, what it does, examples)
VERBS = {
    "generate": (
        "sfumato.cli.generate:generate",
        "Draw pictures from prompts.",
        """\
  sfumato generate "a red heart"
  sfumato generate "a brown dog" "flag of Japan" --n 4 --grid --film
  sfumato generate "a red apple" --model runs/my-pictures/model --seed 7
""",
    ),
    "rerun": (
        "sfumato.cli.generate:rerun",
        "Draw a picture again from the recipe inside it, byte for byte.",
        "  sfumato rerun pictures/a-red-heart-0.png\n",
    ),
    "train": (
        "sfumato.cli.train:train",
        "Train a model; the same command resumes.",
        """\
  sfumato train ./my-pictures
  sfumato train ./my-pictures --dry-run
  sfumato train --recipe emoji --set network.channels=64 --set training.seed=7
""",
    ),
    "explain": (
        "sfumato.cli.explain:explain",
        "Show the mathematics, and a model at work, on one page.",
        """\
  sfumato explain
  sfumato explain --picture holiday.jpg --out explained
  sfumato explain emoji --prompt "a red heart"
""",
    ),
    "evaluate": (
        "sfumato.cli.evaluate:evaluate",
        "Measure a model on real pictures, in one report.",
        """\
  sfumato evaluate runs/fashion fashion-mnist
  sfumato evaluate emoji ./my-pictures --n 200 --metrics quality --out measured
""",
    ),
    "compare": (
        "sfumato.cli.compare:compare",
        "Compare models, or settings of one, side by side.",
        """\
  sfumato compare runs/first runs/second --data fashion-mnist
  sfumato compare emoji --data emoji --grid steps=5,10,20 --grid guidance=1,2,3
""",
    ),
    "release": (
        "sfumato.cli.release:release",
        "Check a model, then write it with its cards or say why not.",
        """\
  sfumato release runs/fashion
  sfumato release runs/mine --at-most membership.auc=0.6 --at-least accuracy.all=0.9
""",
    ),
    "search-grid": (
        "sfumato.cli.search_grid:search_grid",
        "Find the best times for a few steps of a model.",
        """\
  sfumato search-grid emoji
  sfumato search-grid runs/mine "a red heart" "a brown dog" --steps 4
""",
    ),
    "recipes": (
        "sfumato.cli.recipes:recipes",
        "List the recipes with hardware, time and score.",
        """\
  sfumato recipes
  sfumato recipes emoji > mine.yaml      and then: sfumato train --recipe mine.yaml
""",
    ),
    "doctor": (
        "sfumato.cli.doctor:doctor",
        "Say what this machine can do, and how to fix what is missing.",
        "  sfumato doctor\n",
    ),
}

LONGEST_WORD = 300  # characters of a word in a message
DATA = ("get", "show", "scan")  # the verbs below `data`


def build() -> App:
    """The application with its verbs, none of them imported yet."""
    app = App(
        name="sfumato",
        help="Sfumato: a folder of data becomes a diffusion model, and a prompt becomes a picture.",
        help_prologue=f"Examples:\n{EXAMPLES}",
        help_format="plaintext",
        help_formatter="plain",  # a third of the time of the boxes that the verbs have
        version=f"sfumato {__version__}",
        version_format="plaintext",
        suppress_keyboard_interrupt=False,  # `main` handles it
        default_parameter=Parameter(negative=(), show_default=lambda value: str(value) if value else None),
    )
    app["--help"].help = "Show this text."
    app["--version"].help = "Show the version."
    for place, (verb, (home, meaning, examples)) in enumerate(VERBS.items()):
        prologue = f"Examples:\n{examples}"
        app.command(home, name=verb, help=meaning, sort_key=place, help_prologue=prologue, help_formatter="default")
    app.command("sfumato.cli.data:app", name="data", help="Bring, look at and check data.", sort_key=2.5)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command (`sys.argv` by default) and return its exit code."""
    with streams.prepared(), warnings.catch_warnings():
        warnings.showwarning = show_warning
        return run(arguments)


def show_warning(message: Warning | str, category: type[Warning], file: str, line: int, *_: object) -> None:
    """Print a warning of Sfumato in one line; a warning of another package keeps its place in the code."""
    ours = issubclass(category, Told)
    told = f"warning: {message}" if ours else warnings.formatwarning(message, category, file, line).rstrip()
    print(told, file=sys.stderr)


def run(arguments: Sequence[str] | None) -> int:
    """Run one command, print its errors, and return the exit code."""
    try:
        code = build()(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        if sys.stdout is not None:
            sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except CycloptsError as error:
        chain = error.command_chain or ()
        return complain(words.told(error, example(chain), DATA if chain else (*VERBS, "data")))
    except UserError as error:
        return complain(error)
    except ModuleNotFoundError as error:
        optional = {module_of(name): (name, purpose) for names, purpose in EXTRAS.values() for name in names}
        if error.name not in optional:
            raise
        return complain(MissingPackage(*optional[error.name]))
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    except OSError as error:
        if isinstance(error, BrokenPipeError) and error.filename == streams.ANSWER:
            return 0  # the reader, e.g. `| head`, has seen enough
        return complain(of_system(error))
    except (MemoryError, RuntimeError) as error:
        lacking = of_memory(error)
        if lacking is None:
            raise
        return complain(lacking)


def example(chain: Sequence[str]) -> str:
    """A correct command of a verb, or of `sfumato` itself."""
    if not chain:
        return 'sfumato generate "a red heart"'
    if chain[0] == "data":
        return f"sfumato {' '.join(chain[:2])} {'emoji' if chain[1:] == ('get',) else './my-pictures'}"
    return VERBS[chain[0]][2].splitlines()[0].strip()


def complain(error: UserError) -> int:
    """Print what is wrong and the fix to standard error; 2, the exit code of a wrong use."""
    print(f"error: {harmless(error.message)}", file=sys.stderr)
    if error.fix:
        print("  fix: " + harmless(error.fix).replace("\n", "\n       "), file=sys.stderr)
    return 2


def harmless(text: str) -> str:
    """Make a text harmless that may repeat foreign words: no character controls the terminal, no word is endless."""
    signs = (c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)
    return re.sub(rf"\S{{{LONGEST_WORD}}}\S+", lambda match: f"{match[0][:LONGEST_WORD]}…", "".join(signs))
