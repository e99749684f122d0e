"""`corps`: the outermost door of the command line."""

from __future__ import annotations

import io
import os
import sys

from corps.cli import render, tree
from corps.cli.operator import Operator

CLOSED_EXIT_CODE = 141  # what a shell says of a program that SIGPIPE ended


def main() -> int:
    """Carry out the command line of this process; its exit status."""
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(errors="backslashreplace")  # LANG=C has no letter beyond ASCII
    operator = Operator()
    try:
        if "_CORPS_COMPLETE" in os.environ:
            tree.tree.main(sys.argv[1:], tree.PROGRAM, obj=operator)
        status = tree.run(sys.argv[1:], operator)
    except BrokenPipeError:
        render.abandon_stdout()
        return CLOSED_EXIT_CODE
    except Exception as bug:
        return render.bug(bug)
    finally:
        operator.close()
    return status


if __name__ == "__main__":
    sys.exit(main())
