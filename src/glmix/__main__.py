"""Entry point of `python -m glmix`, which runs the command `glmix`."""

import sys

from glmix_cli import main

sys.exit(main())
