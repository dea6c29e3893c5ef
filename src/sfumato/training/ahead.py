"""The next batch is made while a step is computed: useful with a graphics card, whose processor would be idle.

On a CPU there is nothing to gain, because the step itself uses every core (a batch was measured at 0.2 to 0.3 % of a
step of the recipes). Batches are functions of their number, so the order in which they are made changes nothing.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """Calls ``make(number)`` ahead: returning one item starts the next, number + 1, in one thread with one item in
    store.

    Args:
        make: called only in that thread, so it needs no locks; its errors are raised when its item is requested.
    """

    def __init__(self, make: Callable[[int], Item]) -> None:
        self.make = make
        self.thread = ThreadPoolExecutor(1, "sfumato-ahead")
        self.store: dict[int, Future[Item]] = {}

    def __call__(self, number: int) -> Item:
        item = (self.store.pop(number, None) or self.thread.submit(self.make, number)).result()
        self.store = {number + 1: self.thread.submit(self.make, number + 1)}
        return item
