"""`corps`: the outermost door of the command line."""

from __future__ import annotations

import gc
import io
import os
import sys

CLOSED_EXIT_CODE = 141  # what a shell says of a program that SIGPIPE ended
INTERRUPTED_EXIT_CODE = 130


def main() -> int:
    """Carry out the command line of this process; its exit status."""
    try:
        return _main()
    except KeyboardInterrupt:
        return INTERRUPTED_EXIT_CODE  # while importing: nothing has begun


def _main() -> int:
    _open_streams()
    gc.disable()  # nothing that is imported is garbage: looking for it would cost 10 ms
    from corps.cli import render, tree  # noqa: PLC0415  # after the line above
    from corps.cli.operator import Operator  # noqa: PLC0415  # as above

    gc.freeze()
    gc.enable()
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(errors="backslashreplace")  # LANG=C has no letter beyond ASCII
    operator = Operator(os.environ.pop("CORPS_TOKEN", "") or None)  # no child of ours has it then
    try:
        if "_CORPS_COMPLETE" in os.environ:
            tree.tree.main(sys.argv[1:], tree.PROGRAM, obj=operator)
        return tree.run(sys.argv[1:], operator)
    except BrokenPipeError:
        render.abandon_stdout()
        return CLOSED_EXIT_CODE
    except Exception as bug:
        return render.bug(bug)
    finally:
        operator.close()


def _open_streams() -> None:
    """A caller may have closed them (`>&-`): then nothing else may get their numbers."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115  # open as long as we are


if __name__ == "__main__":
    sys.exit(main())
