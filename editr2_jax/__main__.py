"""`python -m editr2_jax VERB ...`: see editr2_jax/cli/main.py."""

import sys

from editr2_jax.cli.main import main

if __name__ == "__main__":  # worker processes import this file again
    sys.exit(main())
