"""The data that a model learns from."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator

from sfumato.settings.base import Settings, within, word


def checked_group(group: str) -> str:
    """`group`, unless it is a pattern (it has a parenthesis) that cannot be used.

    Raises:
        ValueError: it is not a regular expression, or does not have exactly one group.
    """
    if "(" in group:
        try:
            found = re.compile(group).groups
        except re.error as error:
            raise ValueError(
                f"group = {group!r} is not a regular expression ({error}): write e.g. (.+)_[0-9]+"
            ) from None
        if found != 1:
            raise ValueError(f"group = {group!r} has {found} groups: put one pair of ( ) around what is the same")
    return group


class Data(Settings):
    """The data that a model learns from, and how they are fitted to the codec."""

    path: str = Field(min_length=1, description="a folder, or the name of a public data set (`sfumato data get`)")
    fit: Literal["crop", "pad", "stretch"] = word(
        "crop", "how a picture of another shape is fitted: cut at the centre, padded with a border, or distorted"
    )
    depth: int = within(16, 0, 16, "bits that files of 16 bits use (12 of many cameras and scanners); 0: from the data")
    validation: float | None = within(
        0.02, 0, 0.5, "fraction of the pictures held out; null: 2 %, and more in small data, as a release needs"
    )
    group: str = Field(
        "",
        max_length=200,
        description="pictures that stay together when some are held out: folder, a column of the metadata, or a "
        "pattern of the name with one group, e.g. (.+)_[0-9]+; empty: none",
    )
    stacked: bool | Literal["auto"] = word(
        "auto", "whether the first axis of array files counts the samples; auto: yes for a single file, no for several"
    )
    array: str = Field(
        "",
        max_length=200,
        description="which array to read from .npz files or Zarr stores with several; empty: the only one",
    )
    flip: bool = word(False, "mirror half of the pictures; use it if left and right mean the same")
    policy: Literal["stop", "skip", "quarantine"] = word("stop", "what happens to unusable files")
    duplicates: Literal["keep", "drop"] = word(
        "keep",
        "near-duplicates (`sfumato data scan --duplicates`); drop: only the first of each stays, so that less is "
        "learned by heart",
    )

    @field_validator("group")
    @classmethod
    def _group(cls, group: str) -> str:
        return checked_group(group)
