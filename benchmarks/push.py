"""What pushing to the Hub costs a training: SegFormer-B0 on the pets at 64 x 64, a validation and a push each epoch.

HFSEG_TEST_DATA=DIR python -m benchmarks.push   # DIR holds pets/; the Hub is a loopback one, in a process of its own
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROUNDS, EPOCHS = 3, 4
HUB = """
import sys, time
from tests.loopback_hub import LoopbackHub
print(LoopbackHub(sys.argv[1]).start().url, flush=True)
time.sleep(10000)
"""
# Seconds that the training waits for the queue, counted around every call that it makes.
TRAIN = """
import sys, time
from hfseg.push_queue import PushQueue
from hfseg.train import main
def timed(method):
    def call(*args, **kwargs):
        start = time.perf_counter()
        result = method(*args, **kwargs)
        seconds.append(time.perf_counter() - start)
        return result
    return call
seconds = []
PushQueue.push, PushQueue.push_checkpoint = timed(PushQueue.push), timed(PushQueue.push_checkpoint)
assert main(sys.argv[1:]) == 0
print("HELD", sum(seconds), len(seconds))
"""


def main() -> None:
    data = Path(os.environ["HFSEG_TEST_DATA"]) / "pets"
    rates: dict[bool, list[float]] = {False: [], True: []}
    held: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        hub = subprocess.Popen(
            [sys.executable, "-c", HUB, f"{folder}/hub"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert hub.stdout is not None
        url = hub.stdout.readline().strip()
        for number in range(ROUNDS):
            for pushes in (False, True):  # in turn, so that what else the machine does meets both
                run = Path(folder) / f"run{number}{pushes}"
                words = ["recipes/segformer_pets.json", "--weights", "scratch", "--data_dir", data, "--output_dir", run]
                words += ["--num_train_epochs", EPOCHS, "--eval_every_epochs", 1, "--lr_gamma", "none"]
                words += ["--push_to_hub", "true", "--hub_model_id", f"user/m{number}"] if pushes else []
                settings = {"HF_ENDPOINT": url, "HF_TOKEN": "hf_user", "HF_HOME": f"{folder}/home"}
                command = [sys.executable, "-c", TRAIN, *map(str, words)]
                done = subprocess.run(
                    command, cwd=ROOT, env=os.environ | settings, stdout=subprocess.PIPE, text=True, check=True
                )
                log = json.loads((run / "trainer_state.json").read_text())["log_history"]
                rows = [row for row in log if "images_per_second" in row]
                rates[pushes] += [row["images_per_second"] for row in rows[1:]]  # the first epoch warms up
                if pushes:
                    seconds, calls = map(float, done.stdout.rpartition("HELD")[2].split())
                    held.append(seconds / rows[-1]["train_seconds"])
                    print(f"{calls:.0f} hand-overs held the training up for {1000 * seconds:.1f} ms", flush=True)
        hub.kill()
    before, after = (statistics.median(rates[pushes]) for pushes in (False, True))
    spread = max(statistics.stdev(values) / statistics.mean(values) for values in rates.values())
    print(f"waiting for the queue: {100 * statistics.median(held):.2f} % of the training time (target: 2 %)")
    print(
        f"steps beside the uploads: {before:.1f} -> {after:.1f} images/s ({100 * (1 - after / before):+.1f} % slower,"
    )
    print(f"with a spread of {100 * spread:.1f} % between epochs)")


if __name__ == "__main__":
    main()
