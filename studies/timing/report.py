"""Measure the time and the memory of a report on random predictions, by default of the size of ImageNet's validation.

python -m studies.timing.report
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from glmix.reports import ClassPredictions, write_report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000, help="number of images (%(default)s)")
    parser.add_argument("--classes", type=int, default=1000, help="number of classes (%(default)s)")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    targets = random.integers(0, args.classes, args.images)
    logits = np.empty((args.images, args.classes), np.float16)
    for row, target in zip(logits, targets, strict=True):
        row[:] = random.normal(0, 1.5, args.classes)
        row[target] += 6
    names = [f"{k:08d}.jpg" for k in range(args.images)]
    classes = [f"class {k}" for k in range(args.classes)]
    predictions = ClassPredictions(class_names=classes, names=names, targets=targets, logits=logits)
    with tempfile.TemporaryDirectory() as folder:
        predictions.save(Path(folder))
        del predictions, logits
        before, start = _peak(), time.process_time()
        write_report(folder)
        seconds, size = time.process_time() - start, (Path(folder) / "predictions.npz").stat().st_size
    print(f"predictions {size / 1e6:.0f} MB, report {seconds:.1f} s of CPU time")
    print(f"peak memory {_peak() / 1e3:.0f} MB, {before / 1e3:.0f} MB of it reached before the report")


def _peak() -> int:
    """Return the peak memory of this process in kB (Linux)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main()
