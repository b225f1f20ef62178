import subprocess
import sys

import pytest

COUNT = """
import resource, sys, torch
from hfseg.malloc import keep_freed_memory
torch.set_num_threads(1)
if len(sys.argv) > 1:
    assert keep_freed_memory()
def step():
    return [torch.ones(2**24) for _ in range(4)]  # 64 MiB each: glibc by itself maps such blocks anew each time
for _ in range(10):  # until the heap has its size
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these settings")
def test_a_step_gets_the_memory_of_the_last_one() -> None:
    def pages(*words: str) -> int:
        done = subprocess.run([sys.executable, "-c", COUNT, *words], check=True, capture_output=True, text=True)
        return int(done.stdout)

    assert pages() > 10 * max(pages("keep"), 100)


def test_what_the_environment_says_of_malloc_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    from hfseg.malloc import keep_freed_memory

    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")
    assert not keep_freed_memory()
