"""The build step that puts the configuration, the sweeps and the methods' cards inside the package.

They stand at the root of the clone, where people edit them; `paredown.core.places` finds either.
"""

from pathlib import Path
from shutil import copytree, ignore_patterns

from setuptools import setup
from setuptools.command.build_py import build_py

INSIDE = {"conf": "conf", "sweeps": "sweeps", "docs/methods": "cards"}


class WithConfiguration(build_py):
    """The modules, and beside them the folders of `INSIDE`; an editable install reads those of the clone."""

    def run(self) -> None:
        """Build the modules, then copy the folders."""
        super().run()
        for source, name in {} if self.editable_mode else INSIDE.items():
            target = Path(self.build_lib) / "paredown" / name
            copytree(source, target, ignore=ignore_patterns("*.png"), dirs_exist_ok=True)


setup(cmdclass={"build_py": WithConfiguration})
