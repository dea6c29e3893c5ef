"""Where Sfumato keeps what it can make or fetch again: data sets, graphs, the compiled kernel."""

import os
from pathlib import Path


def user_cache(part: str) -> Path:
    """The folder of a part, which may not be there yet: $SFUMATO_CACHE/part, or ~/.cache/sfumato/part."""
    chosen = os.environ.get("SFUMATO_CACHE")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "sfumato") / part
