"""Where Sfumato keeps files that it can make or fetch again: data sets, graphs, the compiled kernel."""

import os
import tempfile
from pathlib import Path

from sfumato.errors import UserError


def user_cache(part: str) -> Path:
    """The folder of a part, which may not exist yet: $SFUMATO_CACHE/part, or ~/.cache/sfumato/part.

    If there is no home (a container with `--user 12345`), it is a folder among the temporary files that belongs to this
    user alone.

    Raises:
        UserError: $SFUMATO_CACHE names the home of an unknown user, or there is no home and others may write to the
            temporary folder.
    """
    chosen = os.environ.get("SFUMATO_CACHE")
    try:
        return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "sfumato") / part
    except RuntimeError as error:  # neither $HOME nor an entry in the password file
        if chosen:
            raise UserError(
                f"SFUMATO_CACHE = {chosen!r}: there is no such home", "write the folder out, from the root /"
            ) from error
        return without_home() / part


def without_home() -> Path:
    """A folder among the temporary files that nobody but this user can write to."""
    folder = Path(tempfile.gettempdir()) / f"sfumato-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022 or not folder.is_dir() or folder.is_symlink():
        raise UserError(
            f"{folder} belongs to another user, and there is no home to keep files in",
            "point $SFUMATO_CACHE to a folder of your own",
        )
    return folder
