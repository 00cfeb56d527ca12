"""What `make libasa` installs: a C program finds it by CMake and by pkg-config, and runs."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import libasa
import pytest

import asa_engine

PREFIX = libasa.LIBRARY.parents[1]
PROGRAM = """\
#include <asa.h>
#include <stdio.h>

int main(void) {
  asa_grader *grader = NULL;
  asa_error error;
  if (!asa_grader_open("missing.asa", NULL, &grader, &error)) return 1;
  printf("%s: %s", asa_version(), asa_status_name(error.status));
  return 0;
}
"""
PROJECT = """\
cmake_minimum_required(VERSION 3.20)
project(consumer LANGUAGES C CXX)
find_package(asa REQUIRED)
add_executable(static program.c)
target_link_libraries(static PRIVATE asa::asa)
add_executable(shared program.c)
target_link_libraries(shared PRIVATE asa::asa_shared)
"""

pytestmark = pytest.mark.usefixtures("library")


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "program.c").write_text(PROGRAM)
    return tmp_path


@pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not here")
def test_cmake_finds_it(program: Path) -> None:
    (program / "CMakeLists.txt").write_text(PROJECT)
    run("cmake", "-S", ".", "-B", "build", f"-DCMAKE_PREFIX_PATH={PREFIX}", cwd=program)
    run("cmake", "--build", "build", cwd=program)
    for name in ("static", "shared"):
        assert run(program / "build" / name, cwd=program) == f"{asa_engine.__version__}: file"


@pytest.mark.skipif(shutil.which("pkg-config") is None, reason="pkg-config is not here")
def test_pkg_config_finds_it(program: Path) -> None:
    where = {"PKG_CONFIG_PATH": str(libasa.LIBRARY.parent / "pkgconfig")}
    flags = run("pkg-config", "--cflags", "--libs", "asa", cwd=program, **where).split()
    strict = ("-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic")
    run("cc", *strict, "program.c", *flags, "-o", "program", cwd=program)
    where = {"LD_LIBRARY_PATH": str(libasa.LIBRARY.parent)}
    assert run(program / "program", cwd=program, **where) == f"{asa_engine.__version__}: file"
