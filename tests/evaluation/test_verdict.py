"""The verdict answers in plain words, and never says yes of pictures that are far from real ones."""

from dataclasses import replace

import pytest

from sfumato.evaluation.report import Part, Row
from sfumato.evaluation.verdict import answers, sections, text
from sfumato.measures.interval import Interval
from sfumato.page import Figure


def part(key, **rows):
    return Part(key, key, "", [Row(name.replace("_", "-"), name, *values) for name, values in rows.items()])


def share(mean, half=0.05):
    return Interval(mean, mean - half, mean + half)


@pytest.mark.parametrize(("drawn", "holds"), [(0.95, True), (0.86, True), (0.6, None), (0.3, False)])
def test_pictures_look_real_when_as_many_lie_among_real_ones_as_real_ones_do(drawn, holds):
    quality = part("quality-learned-by-class", precision=(share(drawn), share(0.9)))
    (answer,) = answers([quality])
    assert answer.question == "Do they look real?" and answer.holds is holds
    assert f"{drawn:.0%}" in answer.sentence and "90%" in answer.sentence


def test_the_features_in_which_they_do_worst_decide_and_those_without_neighbours_say_nothing():
    kind, strict = (
        part("quality-a", precision=(share(0.98), share(1))),
        part("quality-b-c", precision=(share(0.4), share(0.8))),
    )
    (answer,) = answers([kind, strict])
    assert answer.holds is None and "40% of the drawn" in answer.sentence and "features b c" in answer.sentence
    assert answers([part("quality-random-convolutions", kid=(share(0.1), share(0)))]) == []


def test_copies_are_told_by_the_space_that_finds_most():
    found = [
        part(f"memorization-{space}", near_copies=(share(0.02), share(0.001, 0)), near_copies_p=(share(p, 0),))
        for space, p in (("pixels", 0.4), ("learned-by-class", 1e-6))
    ]
    (answer,) = answers(found)
    assert answer.holds is False and "2.0% are near-copies" in answer.sentence and "learned by class" in answer.sentence
    (answer,) = answers(found[:1])
    assert answer.holds is True


def test_few_prompts_say_nothing():
    few = replace(part("alignment", recall_10=(share(1.0), share(0.8))), basis={"prompts": 11})
    (answer,) = answers([few])
    assert answer.holds is None and answer.sentence == "11 unseen prompts are too few to say; raise --n."


def test_every_question_is_answered_in_the_terminal_and_on_the_page():
    parts = [
        part("quality-learned-without-labels", precision=(share(0.9), share(0.9)), recall=(share(0.2), share(0.9))),
        part("accuracy", all=(share(0.7), share(0.9))),
        replace(part("alignment", recall_10=(share(0.5), share(0.6))), basis={"prompts": 100}),
        part("speed", rate=(share(5.0),)),
    ]
    told = text(parts).splitlines()
    assert [line.partition("? ")[2].partition(".")[0] for line in told] == ["Yes", "No", "Partly", "Partly"]
    (section,) = sections(parts, [Figure("samples.png", b"", "x", "")])
    assert (
        section.figures and '<li class="no">' in str(section.parts[1]) and "Is the variety there?" in str(section.parts)
    )
    assert sections([], []) == []
