"""Pairs read by several processes, in order."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from hfseg.audit.pair import Finding, examine_all
from hfseg.audit.survey import Survey
from hfseg.errors import InputError

CHUNK = 16  # pairs a task
FEW = 64  # pairs up to which processes would cost more than they save


def examine_survey(found: Survey, num_workers: int) -> Iterator[Finding]:
    """One finding a sample, in order.

    Args:
        found: the samples; rows of a table are read here and sent on.
        num_workers: processes; 0 or 1 reads here.

    Raises:
        InputError: a process was killed, by the system for want of memory or by hand.
    """
    samples = iter(found.samples)
    if num_workers <= 1 or len(found.samples) <= FEW:
        for sample in samples:
            yield from examine_all([sample], found.labels)
        return
    # Not forked: a copy of a process that runs threads (torch, a progress bar) may hang.
    context = multiprocessing.get_context("spawn")
    # Ctrl-C ends the main process, which ends these; else each would print a traceback.
    with ProcessPoolExecutor(num_workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        waiting: deque[Future[list[Finding]]] = deque()
        try:
            while chunk := list(islice(samples, CHUNK)):
                waiting.append(pool.submit(examine_all, chunk, found.labels))
                if len(waiting) >= 4 * num_workers:  # no more, since a chunk may hold its files' bytes
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise InputError(
                f"One of {num_workers} processes that read pictures was killed, perhaps for want of memory. Give "
                "--num_workers 1."
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
