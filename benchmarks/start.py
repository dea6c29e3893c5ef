"""How long does a program take to start? Seconds of an import and of `--help`, ours and the peers'.

    python benchmarks/start.py

Processes take turns; the table has medians, of the clock on the wall and of the processor. `from sfumato import Model`
loads all that draws, as the imports of the peers do; `import torch` is the least that such a program can take.
"""

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

COMMANDS = {
    "import sfumato": ["-c", "import sfumato"],
    "sfumato --help": ["-m", "sfumato", "--help"],
    "from sfumato import Model": ["-c", "from sfumato import Model"],
    "import torch": ["-c", "import torch"],
    "import diffusers": ["-c", "import diffusers"],
    "from diffusers import DDPMPipeline": ["-c", "from diffusers import DDPMPipeline"],
    "import denoising_diffusion_pytorch": ["-c", "import denoising_diffusion_pytorch"],
    "import azula.nn.unet": ["-c", "import azula.nn.unet"],
}
TORCHVISION = (
    f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import torchvision_import as t; "
    "t.import_torchvision(); "
)


def run(command: list[str]) -> tuple[float, float]:
    """Seconds on the wall and of the processor of one process of Python.

    Raises:
        CalledProcessError: it failed.
    """
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *command], capture_output=True, check=True)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def working(command: list[str]) -> list[str] | None:
    """The command itself, or with help for torchvision where it needs that, or None: the peer is not there."""
    for attempt in (command, [command[0], TORCHVISION + command[1]]):
        if subprocess.run([sys.executable, *attempt], capture_output=True).returncode == 0:
            return attempt
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()

    found = {name: working(command) for name, command in COMMANDS.items()}
    commands = {name: command for name, command in found.items() if command is not None}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
    for _ in range(arguments.repeats):
        for name, command in commands.items():
            taken[name].append(run(command))

    print("| command | seconds | of the processor |")
    print("|---|---|---|")
    for name in COMMANDS:
        walls, processors = zip(*taken[name], strict=True) if name in taken else ((), ())
        cells = (f"{median(walls):.2f}", f"{median(processors):.2f}") if walls else ("not installed", "")
        print(f"| `{name}` | {cells[0]} | {cells[1]} |")


if __name__ == "__main__":
    main()
