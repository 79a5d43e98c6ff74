"""`python -m pyllmdecode`: the same as the command `pyllmdecode`."""

import sys

from .cli import main

sys.exit(main())
