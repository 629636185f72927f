"""Builds the optional native kernels; everything else about the package is in pyproject.toml.

Where they can't be built (another processor, another system, no compiler) the installation goes on without them and
`posttrain.ops.kernels` computes with torch.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

HERE = Path(__file__).parent
NATIVE = Extension(
    "posttrain._native",
    sources=sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").glob("*.cpp")),
    depends=sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").glob("*.h")),
    language="c++",
    # -ffp-contract=off: product and sum are fused only where the source says so, so all instruction sets round alike.
    extra_compile_args=[
        "-std=c++17",
        "-O3",
        "-g0",
        "-fopenmp",
        "-ffp-contract=off",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fno-exceptions",
        "-fno-rtti",
        "-fvisibility=hidden",
        "-Wno-uninitialized",  # GCC's own AVX-512 headers set these two off
        "-Wno-maybe-uninitialized",
    ],
    # Deliberately not linked with -fopenmp: the OpenMP library is the one torch has loaded, so both share its threads.
    optional=True,
)

BUILDABLE = sys.platform == "linux" and platform.machine() in {"x86_64", "AMD64"}

setup(ext_modules=[NATIVE] if BUILDABLE else [])
