"""Reading and writing while the model computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 2  # decoding, resizing and compressing leave Python's lock alone; more would take cores from the model


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, *, beside_cpu_model: bool = False
) -> Generator[Result, None, None]:
    """`map` whose next results are computed in threads while the caller uses the last one.

    `concurrent.futures`' own `map` would take all items at once, however many there are.

    Args:
        function: called in a thread; what it raises is raised where its result would have come.
        items: taken as they are needed, in the caller's thread.
        ahead: most results that wait.
        beside_cpu_model: one thread does it, and torch starts no others for it: they would spin on the cores that the
            model computes on.
    """
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(1 if beside_cpu_model else THREADS, thread_name_prefix="hfseg")
    try:
        if beside_cpu_model:
            number = torch.get_num_threads()
            threads.submit(_compute_alone).result()
            torch.set_num_threads(number)  # a thread takes the number that was set last, in whatever other one
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _compute_alone() -> None:
    """Makes torch start no threads for what the calling one computes."""
    torch.set_num_threads(1)
    torch.get_num_threads()  # only now has this thread taken the number
