"""Working directories that belong to users, deleted for a worker that may not even enter them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable

from corps.keeper.rules import Rules


class Clearing:
    """A child for each directory. `tell` gets what became of it: 0, or an errno."""

    def __init__(self, rules: Rules, tell: Callable[[str, int], None]) -> None:
        self._rules, self._tell = rules, tell
        self._under_way: dict[int, str] = {}

    def begin(self, directory: str) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self._tell(directory, error.errno or errno.EAGAIN)
            return
        if pid == 0:
            self._clear(directory)
        self._under_way[pid] = directory

    def ended(self, pid: int) -> bool:
        """Reap it if it is one of these."""
        directory = self._under_way.pop(pid, None)
        if directory is None:
            return False
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        self._tell(directory, code if code >= 0 else errno.EINTR)
        return True

    def _clear(self, directory: str) -> None:
        number = errno.EIO
        try:
            signal.set_wakeup_fd(-1)
            self._rules.clear(directory)
            number = 0
        except FileNotFoundError:
            number = 0
        except OSError as error:
            number = min(error.errno or errno.EPERM, 255)
        finally:
            os._exit(number)
