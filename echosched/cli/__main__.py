"""``python -m echosched.cli``; also run by its path, so that a worker finds the very package that started it."""

import os
import sys

if not __package__:
    _root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if _root not in sys.path:
        sys.path.insert(0, _root)

from echosched.cli import main

sys.exit(main())
