"""A data worker leaves the telling to its trainer."""

import subprocess
import sys

import pytest

ENDS = {"cut": "pass", "other": "raise ValueError('of another thread')"}
WORKER = """
import socket, threading, time
from multiprocessing import resource_sharer
from hfseg.workers import WorkerInit

WorkerInit()(0)
sharer = resource_sharer._resource_sharer
sharer._start()
trainer = socket.socket(socket.AF_UNIX)
trainer.connect(sharer._address)
trainer.close()  # in the middle of the handshake, as a trainer that ends does


def other():
    {end}


thread = threading.Thread(target=other)
thread.start()
thread.join()
again = socket.socket(socket.AF_UNIX)
again.connect(sharer._address)
assert again.recv(4), "the thread goes on to serve"
print("served")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="tensors travel in another way there")
@pytest.mark.parametrize("end", ENDS)
def test_a_trainer_that_hangs_up_is_not_told_by_its_workers(end: str) -> None:
    script = WORKER.format(end=ENDS[end])
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout == "served\n", result.stderr
    if end == "cut":
        assert result.stderr == ""
    else:
        assert "ValueError: of another thread" in result.stderr
