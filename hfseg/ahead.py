"""Reading and writing while the model computes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = 2  # decoding, resizing and compressing leave Python's lock alone; more would take cores from the model


def map_ahead(function: Callable[[Item], Result], items: Iterable[Item], ahead: int) -> Generator[Result, None, None]:
    """`map` whose next results are computed in threads while the caller uses the last one.

    `concurrent.futures`' own `map` would take all items at once, however many there are.

    Args:
        function: called in a thread; what it raises is raised where its result would have come.
        items: taken as they are needed, in the caller's thread.
        ahead: most results that wait.
    """
    waiting: deque[Future[Result]] = deque()
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="hfseg")
    try:
        for item in items:
            waiting.append(threads.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)
