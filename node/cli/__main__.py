"""The command line, where its script isn't at hand: `python -P -m node.cli`."""

import sys

from node.cli import main

sys.exit(main())
