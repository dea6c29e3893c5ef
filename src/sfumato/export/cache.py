"""Results that take seconds to make are kept in the user's cache, which may be emptied at any time.

A file's name is made of a hash of everything that its content depends on and of the content's own hash, so neither a
stale nor a damaged file is used. The files that were not used for longest are deleted.
"""

from collections.abc import Callable

from sfumato.durable import sha256, write_atomically
from sfumato.errors import UserError
from sfumato.user_cache import user_cache

KEPT = 8  # files


def kept(made_of: str, make: Callable[[], bytes]) -> bytes:
    """The result of ``make``, or an earlier result for the same ``made_of``.

    Raises:
        UserError: the cache cannot be written.
    """
    folder = user_cache("graphs")
    for file in folder.glob(f"{made_of}-*"):
        content = file.read_bytes()
        if file.name.endswith(sha256(content)):
            file.touch()
            return content
        file.unlink()

    content = make()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"{made_of}-{sha256(content)}", content)
        for old in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to: {error.strerror or error}",
            fix="free some space, or point $SFUMATO_CACHE to another folder",
        ) from error
    return content
