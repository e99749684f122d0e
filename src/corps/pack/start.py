"""The first file of a packed Python application: it starts the rest, and nothing else."""

from __future__ import annotations

from typing import TypeAlias, assert_never

import msgspec


class Callable(msgspec.Struct, frozen=True, kw_only=True):
    """A console script: `function` of `module`, known by `name`."""

    name: str
    module: str
    function: str


class Module(msgspec.Struct, frozen=True, kw_only=True):
    """As `python3 -m NAME`."""

    name: str


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the project, as `python3 PATH`."""

    path: str


Start: TypeAlias = Callable | Module | Script

# For any Python 3. The environment is for what the application starts with sys.executable. A child
# of multiprocessing imports this file under another name: it gets its paths and starts nothing.
_HEAD = '''\
"""Starts an application with the packages beside this file. Made by corps."""
import os
import site
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PLACES = [os.path.join(HERE, name) for name in {places!r}]
sys.path[:] = PLACES + [path for path in sys.path if path not in (HERE, *PLACES)]
os.environ["PYTHONPATH"] = os.pathsep.join(
    PLACES + [path for path in [os.environ.get("PYTHONPATH")] if path]
)
site.addsitedir(PLACES[-1])
site.setquit()
site.sethelper()

if __name__ == "__main__":
'''
_CALLABLE = """\
    import functools
    import importlib

    sys.argv[0] = {name!r}
    sys.exit(functools.reduce(getattr, {path!r}, importlib.import_module({module!r}))())
"""
_MODULE = """\
    import runpy

    runpy.run_module({name!r}, run_name="__main__", alter_sys=True)
"""
_SCRIPT = """\
    import runpy

    sys.argv[0] = os.path.join(PLACES[0], *{path!r})
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def starter(start: Start, *, has_app: bool) -> str:
    """The text of start.py."""
    head = _HEAD.format(places=["app", "site"] if has_app else ["site"])
    match start:
        case Callable():
            path = start.function.split(".")
            return head + _CALLABLE.format(name=start.name, module=start.module, path=path)
        case Module():
            return head + _MODULE.format(name=start.name)
        case Script():
            return head + _SCRIPT.format(path=start.path.split("/"))
        case _:
            assert_never(start)
