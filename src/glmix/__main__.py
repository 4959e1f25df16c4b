"""`python -m glmix` is the command `glmix`."""

import sys

from glmix_cli import main

sys.exit(main())
