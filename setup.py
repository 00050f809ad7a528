"""Build of the compiled parts; everything static is in pyproject.toml, the machinery in build_backend/."""

import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.sdist import sdist

sys.path.insert(0, str(Path(__file__).parent.resolve() / "build_backend"))

from pyaegpu_native import NinjaBuild, source_commit


class SourceDistribution(sdist):
    """Notes the commit in the sdist, which has no git folder to ask."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        Path(base_dir, "COMMIT").write_text(source_commit(Path.cwd()) + "\n", encoding="utf-8")


setup(
    packages=[*find_packages(include=["pyaegpu", "pyaegpu.*"]), "pyaegpu.kernels"],
    # In the checkout the kernels stand beside the package; installed they are part of it, since a top-level
    # `kernels` would clash with a package of that name.
    package_dir={"pyaegpu.kernels": "kernels"},
    package_data={"pyaegpu": ["py.typed", "_build.json"]},
    # One entry stands for both objects: NinjaBuild decides what is compiled. It makes the wheel a platform's.
    ext_modules=[Extension("pyaegpu._C_cpu", sources=[], py_limited_api=True)],
    cmdclass={"build_ext": NinjaBuild, "sdist": SourceDistribution},
    # No object touches the Python ABI: one wheel serves every CPython from 3.10.
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
