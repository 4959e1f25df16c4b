"""Upload the authors' models from a folder of their files to repositories of the Hugging Face Hub.

    python -m studies.official_hub FOLDER OWNER            # upload FOLDER/glnet_4g.pth to OWNER/glnet_4g, and so on
    python -m studies.official_hub FOLDER OWNER --dry-run  # only check the files

Download the files manually from https://github.com/rayleizhu/GLMix#model-card. They are named after the models. The
licence of the weights is MIT, like that of the authors' code.
"""

import argparse
from pathlib import Path

from glmix.errors import InputError
from glmix.hub import push
from glmix.models import OFFICIAL_VARIANTS
from glmix.weights import Loaded, load


def official_files(folder: Path) -> dict[str, Path]:
    """Return the file of each official model.

    Raises:
        InputError: a file is missing.
    """
    files = {name: folder / f"{name}.pth" for name in OFFICIAL_VARIANTS}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise InputError(f"{folder} has no {', '.join(missing)}.")
    return files


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("owner")
    parser.add_argument("--dry-run", action="store_true")
    args = parser.parse_args()
    for name, path in official_files(args.folder).items():
        loaded: Loaded = load(path, name)  # raises an error if the weights do not fit the model
        print(f"{name}: {path}" if args.dry_run else push(loaded, f"{args.owner}/{name}"), flush=True)


if __name__ == "__main__":
    main()
