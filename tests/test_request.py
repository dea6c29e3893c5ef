"""Requests for pictures. (test_model.py tests how a model answers bad requests.)"""

import dataclasses

import pytest

from sfumato.errors import UserError
from sfumato.request import LARGEST_COUNT, LARGEST_PROMPT, Request
from sfumato.settings.base import LARGEST_SEED, LARGEST_SIZE


def test_every_prompt_has_the_same_seeds():
    assert list(Request(("a", None), n=2, seed=5).seeds) == [5, 6]


def test_a_request_cannot_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Request(("a",)).n = 2  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "limits",
    [
        {"n": LARGEST_COUNT},
        {"seed": 0},
        {"seed": LARGEST_SEED},
        {"seed": LARGEST_SEED - 1, "n": 2},
        {"size": 4},
        {"size": LARGEST_SIZE},
        {"prompts": ("x" * LARGEST_PROMPT,)},
        {"prompts": ('é 🍎 \n\t\0 "quoted"',)},
    ],
)
def test_the_limits_themselves_are_allowed(limits):
    Request(**{"prompts": ("a",)} | limits)


@pytest.mark.parametrize(
    "beyond",
    [
        {"n": LARGEST_COUNT + 1},
        {"seed": LARGEST_SEED + 1},
        {"seed": LARGEST_SEED, "n": 2},
        {"size": 3},
        {"size": LARGEST_SIZE + 1},
        {"prompts": ("x" * (LARGEST_PROMPT + 1),)},
        {"negative": "x" * (LARGEST_PROMPT + 1)},
        {"prompts": ("a",) * 101, "n": 100},
    ],
)
def test_one_step_beyond_is_refused_with_field_and_fix(beyond):
    with pytest.raises(UserError) as caught:
        Request(**{"prompts": ("a",)} | beyond)
    field = (
        "prompt" if "prompts" in beyond and "n" not in beyond else "n" if "prompts" in beyond else next(iter(beyond))
    )
    assert caught.value.message.startswith(f"{field}: ")
    assert caught.value.fix
    assert len(str(caught.value)) < 200
