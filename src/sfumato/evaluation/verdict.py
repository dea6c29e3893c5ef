"""The numbers of a report as answers to plain questions, one sentence each.

Do they look real? Is the variety there? Are they copies? Do they follow what was asked for? Each answer compares a
number of the drawn pictures with the same number of real ones (what a perfect model would reach): yes, if it reaches
their interval or nine tenths of them; no, if it does not reach half; otherwise partly. An answer is only as good as the
features, so it comes from the space in which the drawn pictures do worst.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from sfumato.evaluation.report import Part, Row
from sfumato.measures.interval import digits
from sfumato.page import Figure, Section, marked

NEARLY, HARDLY = 0.9, 0.5  # shares of the value of real pictures
LEAST_PROMPTS = 40
SURELY = 0.001  # p-value of so many near-copies
WORDS = {True: "Yes. ", False: "No. ", None: "Partly. "}


@dataclass(frozen=True)
class Answer:
    """A question, yes (True), no (False) or neither (None), and the sentence that says so."""

    question: str
    holds: bool | None
    sentence: str


def answers(parts: Sequence[Part]) -> list[Answer]:
    """The answers that the parts can give."""
    found = [
        _quality(
            parts,
            "precision",
            "Do they look real?",
            "{drawn} of the drawn pictures lie among real ones; of other real ones {real} do",
        ),
        _quality(
            parts,
            "recall",
            "Is the variety there?",
            "The drawn pictures come near {drawn} of the real ones; as many other real ones come near {real}",
        ),
        _copies(parts),
        _reached(
            "Are they of the class that was asked for?",
            _row(parts, "accuracy", "all"),
            "A classifier takes {drawn} of them for it; of real pictures it is right about {real}.",
        ),
        _prompts(parts),
    ]
    return [answer for answer in found if answer is not None]


def _row(parts: Sequence[Part], part: str, row: str) -> Row | None:
    return next((each for found in parts if found.key == part for each in found.rows if each.key == row), None)


def _quality(parts: Sequence[Part], row: str, question: str, sentence: str) -> Answer | None:
    """By the features in which the drawn pictures reach the smallest part of what real ones do."""
    found = []
    for part in parts:
        value = _row(parts, part.key, row) if part.key.startswith("quality-") else None
        if value is not None and value.real is not None:
            found.append((value.drawn.mean / max(value.real.mean, 1e-9), value, part.key.removeprefix("quality-")))
    if not found:
        return None
    _, value, space = min(found, key=lambda each: each[0])
    return _reached(question, value, f"{sentence} (features {space.replace('-', ' ')}).")


def _reached(question: str, row: Row | None, sentence: str) -> Answer | None:
    if row is None or row.real is None:
        return None
    drawn, real = row.drawn.mean, row.real.mean
    least = min(NEARLY * real, real if row.real.low is None else row.real.low)
    holds = True if drawn >= least else False if drawn < HARDLY * real else None
    return Answer(question, holds, WORDS[holds] + sentence.format(drawn=f"{drawn:.0%}", real=f"{real:.0%}"))


def _prompts(parts: Sequence[Part]) -> Answer | None:
    """By the ten nearest of many prompts; among few, a guess is right too often to say anything."""
    part = next((part for part in parts if part.key == "alignment"), None)
    if part is None:
        return None
    question, prompts = "Do they follow the prompts?", int(part.basis.get("prompts", 0))
    if prompts < LEAST_PROMPTS:
        return Answer(question, None, f"{prompts} unseen prompts are too few to say; raise --n.")
    sentence = (
        f"A picture's own prompt is among the ten nearest of {prompts} unseen prompts for {{drawn}} of the drawn "
        f"pictures and for {{real}} of real ones ({10 / prompts:.0%} by guessing)."
    )
    return _reached(question, next(row for row in part.rows if row.key == "recall-10"), sentence)


def _copies(parts: Sequence[Part]) -> Answer | None:
    """By the space in which most near-copies were found."""
    found = []
    for part in parts:
        rows, space = {row.key: row for row in part.rows}, part.key.removeprefix("memorization-")
        if space != part.key and {"near-copies", "near-copies-p"} <= rows.keys():
            found.append((rows["near-copies-p"].drawn.mean, rows["near-copies"], space))
    if not found:
        return None
    p, row, space = min(found, key=lambda each: each[0])
    expected = "" if row.real is None else f"; a model that copies nothing would have {row.real.mean:.1%}"
    told = f"{row.drawn.mean:.1%} are near-copies of training pictures in the space {space.replace('-', ' ')}{expected}"
    return Answer("Are they new, and not copies?", p >= SURELY, f"{WORDS[p >= SURELY]}{told} (p {digits(p)}).")


def text(parts: Sequence[Part]) -> str:
    """For the terminal; "" without any answer."""
    return "\n".join(f"{answer.question} {answer.sentence}" for answer in answers(parts))


def sections(parts: Sequence[Part], pictures: Sequence[Figure]) -> list[Section]:
    """The pictures and the answers as the first section of a page; none without either."""
    items = [(each.holds, f"<b>{escape(each.question)}</b> {escape(each.sentence)}") for each in answers(parts)]
    if not items and not pictures:
        return []
    return [Section("In short", [*pictures, *([marked(items)] if items else [])])]
