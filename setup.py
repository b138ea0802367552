"""Puts configs/, launch/ and benchmarks/results/ into the wheel, as lc_jax/repository; see also pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPackage(build_py):
    """Builds the package with the folders that are next to it in a checkout."""

    def run(self) -> None:
        """Builds; an editable install reads these folders where they are."""
        super().run()
        if self.editable_mode:
            return
        for name in ("configs", "launch", "benchmarks/results"):
            target = Path(self.build_lib, "lc_jax", "repository", name)
            shutil.rmtree(target, ignore_errors=True)  # of an earlier build
            shutil.copytree(name, target, ignore=shutil.ignore_patterns("__pycache__"))


setup(cmdclass={"build_py": BuildPackage})
