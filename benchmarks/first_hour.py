"""What the first hour gives somebody with a folder of pictures: 500 textures, and 800 captioned products.

    apt-get download ufoai-textures nexuiz-textures sweethome3d-furniture          # Debian; 0.9 GB
    for deb in *.deb; do dpkg-deb -x $deb packages; done
    python benchmarks/first_hour.py folders packages runs/first-hour               # two folders of pictures, a minute
    python benchmarks/first_hour.py train runs/first-hour                          # two trainings of an hour each

`folders` writes `textures` (500 square and nearly seamless colour maps of two games, GPL-2 and later, no captions) and
`products` (820 renders of furniture with transparency, CC0 and CC-BY 3.0, each with a caption file: its name, with its
tags, with its category).

`train` gives each of them exactly what the first command of the documentation gives, `sfumato train FOLDER --time 60m`,
then draws a sheet and evaluates. On a machine that has other work, `--set training.steps=N` trains as many steps as a
quiet machine has time for: those that `sfumato train FOLDER --time 60m --dry-run` prints there.

    python benchmarks/first_hour.py costs runs/first-hour
    ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2 \\
        python benchmarks/first_hour.py costs runs/first-hour training.precision=fp32

`costs` prints processor seconds on one core, of a training step of 32 pictures and of a picture drawn in 20 steps, with
what the processor has and with a stand-in for one without AVX-512.
"""

import argparse
import functools
import hashlib
import io
import itertools
import re
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from sfumato.config import load_recipe
from sfumato.durable import write_atomically
from sfumato.errors import UserError
from sfumato.report import Silent
from sfumato.training.prepared import machine_settings, prepare_run, trainer_of
from sfumato.training.samples import sheet_conditions

TEXTURES = 500
PICTURE = re.compile(r"\.(png|jpe?g|tga)$", re.IGNORECASE)
NO_COLOUR_MAP = re.compile(r"_(nm|sm|gm|norm|gloss|glow|bump|pants|shirt|luma|alpha|blend|env)$", re.IGNORECASE)
NO_SURFACE = re.compile(
    r"(tex_pics|tex_shop|tex_common|tex_anim|tex_vehicles|tex_lights|tex_doors|sfx|_fx|sign|logo|flags|documents|"
    r"light|skies|/env|race|portal|water|sky|console|numlock|skull|screen|button|monitor|door|window)",
    re.IGNORECASE,
)
LEAST_SIDE = 128  # pixels
SEAM = 2.0  # the difference across the edge, in differences of inner neighbours
PLAIN = 4.0  # standard deviation of grey levels below which there is nothing to see


def is_texture(picture: Image.Image) -> bool:
    """Whether a picture is square, large enough, not plain, opaque, and goes on across its edges."""
    if picture.width != picture.height or picture.width < LEAST_SIDE:
        return False
    grey = np.asarray(picture.convert("L"), dtype=np.float32)
    if grey.std() < PLAIN or ("A" in picture.getbands() and np.asarray(picture.getchannel("A")).min() < 250):
        return False
    across = (np.abs(grey[0] - grey[-1]).mean() + np.abs(grey[:, 0] - grey[:, -1]).mean()) / 2
    inner = (np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2
    return bool(across <= SEAM * inner + 1)


def textures(packages: Path) -> Iterator[tuple[str, bytes]]:
    """(name, PNG) of the textures in the games' archives: a choice that only the names decide."""
    found = []
    for archive in sorted(packages.rglob("*.pk3")):
        with zipfile.ZipFile(archive) as files:
            for name in files.namelist():
                stem = PICTURE.sub("", name)
                if PICTURE.search(name) and not NO_COLOUR_MAP.search(stem) and not NO_SURFACE.search(name):
                    found.append((hashlib.sha256(name.encode()).hexdigest(), archive, name))
    chosen, seen = 0, set()
    for _, archive, name in sorted(found):
        with zipfile.ZipFile(archive) as files:
            picture = Image.open(io.BytesIO(files.read(name)))
        if not is_texture(picture):
            continue
        pixels = picture.convert("RGB").resize((LEAST_SIDE, LEAST_SIDE), Image.Resampling.LANCZOS)
        if (content := hashlib.sha256(pixels.tobytes()).digest()) in seen:
            continue
        seen.add(content)
        yield re.sub(r"[^\w-]+", "_", PICTURE.sub("", name).removeprefix("textures/")) + ".png", png(pixels)
        chosen += 1
        if chosen == TEXTURES:
            return


def products(packages: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the renders of furniture and their caption files, a line a caption."""
    for archive in sorted(packages.rglob("*.sh3f")):
        with zipfile.ZipFile(archive) as files:
            catalogue = files.read("PluginFurnitureCatalog.properties").decode("latin-1")
            catalogue = re.sub(r"\\u([0-9a-fA-F]{4})", lambda code: chr(int(code[1], 16)), catalogue)
            rows = dict(re.findall(r"^(\w+#\d+)\s*=\s*(.*?)\s*$", catalogue, re.MULTILINE))
            for number in sorted(int(key.split("#")[1]) for key in rows if key.startswith("name#")):
                name, tags, category = (rows.get(f"{key}#{number}", "").lower() for key in ("name", "tags", "category"))
                stem = f"{archive.stem}-{number:03d}"
                yield f"{stem}.png", files.read(rows[f"icon#{number}"].lstrip("/"))
                captions = dict.fromkeys([name, f"{name}, {tags}" if tags else name, f"{name}, {category}"])
                yield f"{stem}.txt", "\n".join(captions).encode()


def png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def make_folders(packages: Path, out: Path) -> None:
    for name, files in (("textures", textures(packages)), ("products", products(packages))):
        folder = out / name
        folder.mkdir(parents=True, exist_ok=True)
        count = 0
        for file, content in files:
            write_atomically(folder / file, content)
            count += file.endswith(".png")
        if not count:
            raise UserError(f"no {name} in {packages}", fix="download and unpack the packages as described above")
        print(f"{folder}: {count} pictures")


def train(out: Path, names: list[str], extra: list[str]) -> None:
    for name in names:
        run = out / f"run-{name}"
        call(["train", str(out / name), "--out", str(run), *(extra or ["--time", "60m"])])
        call(["evaluate", str(run), "--out", str(out / f"report-{name}")])


def costs(out: Path, extra: list[str]) -> None:
    print("side channels captions     step  picture drawn")
    for name, (side, channels) in itertools.product(("textures", "products"), ((32, 32), (32, 64), (64, 32), (64, 64))):
        given = [f"codec.size={side}", f"network.channels={channels}", "training.batch=32", "training.threads=1"]
        lengths = [f"training.{what}=1000" for what in ("steps", "sample_every", "validate_every", "checkpoint_every")]
        config = load_recipe("folder", [f"data.path={out / name}", *given, *lengths, *extra])
        machine_settings(config)
        with tempfile.TemporaryDirectory() as folder:
            trainer = trainer_of(prepare_run(config, Path(folder), Silent()))
        step = processor_seconds(trainer.train_step)
        model = trainer.model.eval()
        conditions = sheet_conditions(trainer)[0]
        draw = functools.partial(model.generate, conditions[0], n=model.lanes)
        with trainer.autocast():
            drawn = processor_seconds(draw) / model.lanes
        print(f"{side:4} {channels:8} {name == 'products'!s:>8} {step:8.2f} {drawn:14.2f}  {trainer.dtype}", flush=True)


def processor_seconds(work: Callable[[], object]) -> float:
    """Of the second time and the third: the first one allocates."""
    work()
    begin = time.process_time()
    work()
    work()
    return (time.process_time() - begin) / 2


def call(command: list[str]) -> None:
    print(f"$ sfumato {shlex.join(command)}", flush=True)
    subprocess.run([sys.executable, "-m", "sfumato", *command], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    make = verbs.add_parser("folders", help="makes the two folders of pictures from the unpacked packages")
    make.add_argument("packages", type=Path)
    make.add_argument("out", type=Path)
    run = verbs.add_parser("train", help="trains on both and evaluates; what is not known here goes to sfumato train")
    run.add_argument("out", type=Path)
    run.add_argument("--only", choices=("textures", "products"))
    timed = verbs.add_parser("costs", help="times training steps and drawing")
    timed.add_argument("out", type=Path)
    arguments, extra = parser.parse_known_args()
    if arguments.verb == "folders":
        make_folders(arguments.packages, arguments.out)
    elif arguments.verb == "costs":
        costs(arguments.out, extra)
    else:
        train(arguments.out, [arguments.only] if arguments.only else ["textures", "products"], extra)


if __name__ == "__main__":
    main()
