"""What every group of settings is made of: typed, bounded, frozen."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

LARGEST_SIZE = 1024

LARGEST_SEED = 2**63 - 1


def within(default: Any, low: float, high: float, meaning: str) -> Any:
    """A number from `low` to `high`."""
    return Field(default, ge=low, le=high, description=meaning)


def word(default: Any, meaning: str) -> Any:
    """One of a few words, a text or a switch: a setting that needs no bounds besides its type."""
    return Field(default, description=meaning)


class Settings(BaseModel):
    """A frozen group of settings; unknown names, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)
