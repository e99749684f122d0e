"""Python packages for tests: wheels made by hand, and a project that builds itself offline."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

# a build backend (PEP 517) that lies in the project, so that nothing is fetched to build it
BACKEND = """
import pathlib, zipfile
def build_wheel(directory, config_settings=None, metadata_directory=None):
    name = "shop-2.0-py3-none-any.whl"
    info = "shop-2.0.dist-info"
    with zipfile.ZipFile(pathlib.Path(directory, name), "w") as wheel:
        wheel.write("shop.py")
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: shop\\nVersion: 2.0\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/entry_points.txt", "[console_scripts]\\nshop = shop:main\\n")
        wheel.writestr(info + "/RECORD", "")
    pathlib.Path("build").mkdir()  # as setuptools leaves it
    return name
"""
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "shop"
version = "2.0"
"""


def a_wheel(
    directory: Path,
    name: str,
    files: Mapping[str, str | bytes],
    *,
    scripts: Mapping[str, str] | None = None,
    requires: tuple[str, ...] = (),
    tag: str = "py3-none-any",
) -> Path:
    """`name`-1.0 with these files."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}-1.0-{tag}.whl"
    info = f"{name}-1.0.dist-info"
    needed = "".join(f"Requires-Dist: {other}\n" for other in requires)
    points = "".join(f"{script} = {target}\n" for script, target in (scripts or {}).items())
    with zipfile.ZipFile(path, "w") as wheel:
        for file, content in files.items():
            wheel.writestr(file, content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needed}"
        )
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/entry_points.txt", f"[console_scripts]\n{points}")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def a_project(root: Path, *requires: str) -> Path:
    """An installable one whose console script `shop` prints what `colour` says."""
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / "backend.py").write_text(BACKEND)
    (root / "shop.py").write_text("import colour\ndef main():\n    print('shop', colour.NAME)\n")
    (root / "requirements.txt").write_text("".join(f"{name}\n" for name in requires))
    return root
