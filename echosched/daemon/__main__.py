"""The program the supervisor is: run by path, with the number of the descriptor that says what to do."""

import sys
from os.path import abspath, dirname

if __name__ == "__main__":
    # Run with -I -S there is no path to this package yet; nothing else is wanted from site-packages.
    sys.path.append(dirname(dirname(dirname(abspath(__file__)))))
    from echosched.daemon.supervisor import main

    sys.exit(main(sys.argv[1:]))
