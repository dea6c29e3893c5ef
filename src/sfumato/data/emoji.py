"""The emoji data set: about 1,900 things, each drawn in three open styles, with captions.

Pictures are composited on white at 64 x 64. Skin-tone variants, the bare regional letters and the components are left
out; the country flags are in (two styles draw them). Style words: "fluent 3d style" (also "3d"), "noto style" (also
"soft shading"), "twemoji style" (also "flat"). A picture has several captions, so that a model learns short and long
prompts:

    red apple | red apple, fluent 3d style | a red apple | a red apple, 3d | red apple, fruit, food, fluent 3d style
    | fruit, food

If one basic colour covers half of the drawing and the name has no colour word, the colour is added: "a brown dog".
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from sfumato.data.archives import members
from sfumato.data.faults import DataError

SIZE = 64


@dataclass(frozen=True)
class Style:
    """A set of drawings: their package and place in it, their names, and their owner."""

    name: str
    package: str
    folder: str
    words: tuple[str, str]
    licence: str
    credit: str
    left_out: str = r"(?!)"  # names of drawings in the package that the style's owner did not publish


STYLES = (
    Style(
        "fluent",
        "@lobehub/fluent-emoji-3d@1.1.0",
        "package/assets",
        ("fluent 3d style", "3d"),
        "MIT",
        "Fluent Emoji, copyright Microsoft Corporation, MIT licence (https://github.com/microsoft/fluentui-emoji), "
        "packaged by LobeHub, MIT licence.",
        # These are not in Microsoft's published set, so their author is unknown: they are left out.
        left_out=r"flag of |family|kiss$|kiss of |couple with heart|.* holding hands",
    ),
    Style(
        "noto",
        "emoji-datasource-google@16.0.0",
        "package/img/google/64",
        ("noto style", "soft shading"),
        "Apache-2.0",
        "Noto Emoji, copyright Google LLC, Apache License 2.0 (https://github.com/googlefonts/noto-emoji).",
    ),
    Style(
        "twemoji",
        "emoji-datasource-twitter@16.0.0",
        "package/img/twitter/64",
        ("twemoji style", "flat"),
        "CC-BY-4.0",
        "Twemoji, copyright Twitter, Inc and other contributors, CC-BY 4.0 "
        "(https://creativecommons.org/licenses/by/4.0/), from https://github.com/jdecked/twemoji; "
        "changed here: composited on white at 64 x 64 pixels.",
    ),
)
NAMES_PACKAGE = "emojibase-data@17.0.0"
NAMES_CREDIT = "Names, keywords and groups: emojibase-data, copyright Miles Johnson, MIT licence (from Unicode CLDR)."


@dataclass(frozen=True)
class Concept:
    """One thing: its code points, name for captions, keywords and group."""

    hexcode: str
    name: str
    tags: tuple[str, ...]
    group: str


def convert(packages: dict[str, Path], target: Path, progress: Callable[[int, int], None] | None = None) -> int:
    """Write the pictures and metadata.jsonl of all styles to `target`; return the number of pictures.

    `packages`: package name -> its archive.
    """
    concepts = read_concepts(packages[NAMES_PACKAGE])
    rows: list[dict[str, Any]] = []
    total = len(concepts) * len(STYLES)
    for style in STYLES:
        (target / style.name).mkdir(parents=True)
        prefix = style.folder + "/"
        for name, data in members(packages[style.package], lambda name, prefix=prefix: name.startswith(prefix)):
            concept = concepts.get(key(PurePosixPath(name).stem))
            if concept is None or re.match(style.left_out, concept.name):
                continue
            with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
                rgba = image.convert("RGBA")
            file_name = f"{style.name}/{concept.hexcode}.png"
            if (target / file_name).exists():  # the same code points under a second spelling
                continue
            on_white(rgba).save(target / file_name, optimize=True)
            rows.append(
                {
                    "file_name": file_name,
                    "text": captions(concept, style, colour(rgba)),
                    "concept": concept.name,
                    "style": style.name,
                    "group": concept.group,
                    "hexcode": concept.hexcode,
                    "licence": style.licence,
                    "source": style.package,
                }
            )
            if progress:
                progress(len(rows), total)
    if not rows:
        raise DataError(
            "the emoji packages hold no pictures where they are expected", "report it: their layout changed"
        )
    rows.sort(key=lambda row: row["file_name"])
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (target / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return len(rows)


def key(code: str) -> str:
    """Code points as one spelling: lower case, no leading zeros, no variation selectors ("0023-FE0F" -> "23")."""
    parts = [part.lstrip("0") for part in code.lower().split("-")]
    return "-".join(part for part in parts if part != "fe0f")


def read_concepts(archive: Path) -> dict[str, Concept]:
    """The base concepts of emojibase by `key`, without skin tones, regional letters and components."""
    files = dict(members(archive, lambda name: name in ("package/en/data.json", "package/en/messages.json")))
    groups = {group["order"]: group["key"] for group in json.loads(files["package/en/messages.json"])["groups"]}
    concepts = {}
    for entry in json.loads(files["package/en/data.json"]):
        group = groups.get(entry.get("group"))
        code = key(entry["hexcode"])
        if group in (None, "component") or not re.fullmatch(r"[0-9a-f]+(-[0-9a-f]+)*", code):
            continue
        name = spoken(entry["label"])
        tags = tuple(tag for tag in entry.get("tags", ()) if tag.lower() not in name.lower().split())
        concepts[code] = Concept(code, name, tags, group)
    return concepts


# ---- words

_THE = (
    "United ", "Netherlands", "Philippines", "Bahamas", "Maldives", "Gambia", "Dominican Republic", "Comoros",
    "Central African Republic", "European Union", "Vatican City", "Solomon Islands", "Marshall Islands",
    "Cook Islands", "Cayman Islands", "Faroe Islands", "Falkland Islands", "Seychelles",
)  # fmt: skip


def spoken(label: str) -> str:
    """A label as one would say it: "flag: Japan" -> "flag of Japan", "man: beard" -> "man with beard"."""
    head, colon, rest = label.replace("’", "'").partition(": ")
    if not colon:
        return head
    if head == "flag":
        return f"flag of {'the ' if rest.startswith(_THE) else ''}{rest}"
    if head == "keycap":
        return f"keycap {rest}"
    if rest.endswith("hair") or rest == "beard":
        return f"{head} with {rest}"
    if rest == "bald":
        return f"bald {head}"
    return f"{head} {rest}" if rest == "facing right" else f"{head} of {rest.replace(', ', ' and ')}"


_NO_ARTICLE_HEADS = {
    "people", "women", "men", "feet", "teeth", "poo", "laughing", "up", "down", "away", "fire", "reason",
    "bread", "milk", "butter", "salt", "rice", "honey", "bacon", "sushi", "spaghetti", "meat", "ice", "food", "corn",
    "popcorn", "garlic", "broccoli", "chocolate", "falafel", "curry", "tea", "sake", "poultry", "pasta", "cheese",
    "ginger", "ice cream", "toast", "fog", "lightning", "snow", "wind", "water", "fireworks", "mahjong", "knitting",
    "money", "paper", "mail", "soap", "hair", "clothing", "makeup", "lotion", "fuji", "moon", "travel", "badminton",
    "lacrosse", "ping", "hockey", "golf", "soccer", "tennis", "football", "baseball", "basketball", "softball",
    "volleyball", "cricket", "arts", "music", "dizzy", "zzz", "star-struck", "horizontally", "vertically", "dna",
    "blood", "o'clock", "stationery", "weather", "high voltage", "high-speed", "fuel", "breast-feeding",
}  # fmt: skip
_FACE_HEADS = {
    "face", "cat", "monkey", "heart", "skull", "ogre", "goblin", "ghost", "alien", "monster", "robot", "hole", "head",
    "mark", "letter", "balloon", "bubble", "cloud",
}  # fmt: skip


def with_article(concept: Concept) -> str | None:
    """ "red apple" -> "a red apple", or None if an article does not read well (plurals, masses, names, signs)."""
    name = concept.name
    phrase = re.split(r" (?:with|without|of|in|on|showing|blowing|behind|over|and|holding|from|to|at|for) ", name)[0]
    head = re.sub(r" (?:facing right|vomiting|savoring food|exhaling|screaming)$", "", phrase).split()[-1].lower()
    if concept.group in ("symbols", "flags") or head in _NO_ARTICLE_HEADS or not name[0].isalpha():
        return None
    if concept.group == "smileys-emotion" and head not in _FACE_HEADS:
        return None
    if head.endswith("s") and not head.endswith(("ss", "us", "bus", "is")) and head not in ("gas", "canvas", "lens"):
        return None
    vowel = name[0].lower() in "aeiou" and not re.match(r"(?:uni|use|one|eu|ut)", name.lower())
    return f"{'an' if vowel else 'a'} {name}"


def captions(concept: Concept, style: Style, colour_name: str | None) -> list[str]:
    """The captions of one picture, the shortest first, without repetition."""
    name, tags = concept.name, concept.tags
    long, short = style.words
    said = with_article(concept) or name
    texts = [name, f"{name}, {long}", said, f"{said}, {short}"]
    if concept.group == "flags" and name.startswith("flag of "):
        country = name.removeprefix("flag of ").removeprefix("the ")
        texts += [f"{country} flag", f"{country} flag, {short}"]
    if tags:
        texts.append(", ".join((name, *tags[:3], long)))
    if len(tags) > 1:
        texts.append(", ".join(tags[:4]))
    plain = concept.group in ("animals-nature", "food-drink", "travel-places", "activities", "objects")
    if colour_name and plain and not set(name.lower().split()) & set(COLOURS):
        article = "" if said == name else "an " if colour_name == "orange" else "a "
        texts += [f"{article}{colour_name} {name}", f"{colour_name} {name}, {long}"]
    return list(dict.fromkeys(texts))


# ---- pixels

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "grey")


def on_white(rgba: Image.Image) -> Image.Image:
    """RGBA of any size -> RGB, SIZE x SIZE."""
    flat = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return flat if flat.size == (SIZE, SIZE) else flat.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


def colour(rgba: Image.Image, share: float = 0.5) -> str | None:
    """The basic colour name that covers at least `share` of the opaque pixels, or None."""
    pixels = np.asarray(rgba.resize((32, 32), Image.Resampling.BOX)).reshape(-1, 4)
    opaque = pixels[pixels[:, 3] > 127][:, :3]
    if len(opaque) < 16:
        return None
    hsv = np.asarray(Image.fromarray(opaque[None]).convert("HSV"))[0].astype(float)
    hue, saturation, value = hsv[:, 0] * 360 / 255, hsv[:, 1] / 255, hsv[:, 2] / 255
    reddish = (hue >= 330) | (hue < 15)
    # The first rule that holds names the colour of the pixel. The thresholds were set by eye on the three styles: their
    # dogs, bread and wood are orange by hue, but everyone calls them brown.
    rules = [
        ("black", (value < 0.22) | ((value < 0.32) & (saturation < 0.35))),
        ("white", (saturation < 0.16) & (value > 0.88)),
        ("grey", saturation < 0.16),
        ("brown", ((hue < 42) | (hue >= 345)) & (value < 0.75) & ((saturation < 0.5) | ((hue > 8) & (hue < 42)))),
        ("pink", (hue >= 320) & (saturation < 0.65) | (hue >= 290) & (hue < 330)),
        ("pink", (hue < 12) & (saturation < 0.6) | (hue < 17) & (saturation < 0.5) & (value > 0.88)),
        ("red", reddish),
        ("orange", (hue < 42) & (saturation > 0.66)),
        ("brown", hue < 42),
        ("yellow", hue < 65),
        ("green", hue < 170),
        ("blue", hue < 255),
        ("purple", hue < 320),
    ]
    found = np.select([holds for _, holds in rules], [COLOURS.index(name) for name, _ in rules], default=0)
    shares = np.bincount(found, minlength=len(COLOURS)) / len(found)
    best = int(shares.argmax())
    return COLOURS[best] if shares[best] >= share else None
