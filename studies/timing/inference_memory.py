"""Peak memory of `glmix embed` and its worker processes for several numbers of images.

    python -m studies.timing.inference_memory --counts 1000 100000

The images are JPEG files of 32 x 32 pixels in one temporary folder. The memory is the sum of the proportional set sizes
(PSS, in which memory that several processes share counts once) of all processes, ten times per second. Linux only.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
from PIL import Image

import glmix

MIB = 2**20


def write_images(folder: Path, count: int) -> None:
    """Write small JPEG files; a hundred pictures repeat."""
    generator = np.random.default_rng(0)
    contents = []
    for _ in range(100):
        content = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(content, "JPEG")
        contents.append(content.getvalue())
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:08d}.jpg").write_bytes(contents[number % 100])


def processes(root: int) -> list[int]:
    """Return a process and its descendants."""
    found = [root]
    for process in found:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:  # the thread has ended
                continue
    return found


def memory(process: int) -> int:
    """Return the proportional set size of a process in bytes, 0 if it has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:")), 0)


def measure(command: list[str]) -> tuple[int, int, dict[str, float]]:
    """Run a command and return the peak memory of all its processes and of the first one, and the summary it prints."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        peak = own = 0
        while process.poll() is None:
            sizes = [memory(member) for member in processes(process.pid)]
            peak, own = max(peak, sum(sizes)), max(own, sizes[0])
            time.sleep(0.1)
        assert process.stdout is not None
        return peak, own, json.loads(process.stdout.read())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--counts", type=int, nargs="+", default=[1000, 100_000], help="numbers of images (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    print(f"test_glnet at 32 x 32, {args.workers} workers, PSS\n")
    print("| images | peak of all processes (MiB) | of the main process (MiB) | images/s |\n|---:|---:|---:|---:|")
    peaks = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        model = timm.create_model("test_glnet", num_classes=10, pretrained_cfg_overlay={"input_size": (3, 32, 32)})
        glmix.save_model(model, root / "model")
        for count in args.counts:
            write_images(root / str(count), count)
            command = [sys.executable, "-m", "glmix_cli", "embed", str(root / str(count)), "--json"]
            command += [
                "--model",
                f"local-dir:{root}/model",
                "-o",
                f"{root}/out-{count}",
                "--workers",
                str(args.workers),
            ]
            peak, own, summary = measure(command)
            assert summary["computed"] == count
            peaks.append(peak)
            rate = summary["images_per_second"]
            print(f"| {count:,} | {peak / MIB:.0f} | {own / MIB:.0f} | {rate:.0f} |", flush=True)
    print(f"\nThe last peak is {peaks[-1] / peaks[0] - 1:+.1%} from the first.")


if __name__ == "__main__":
    main()
