"""The wheel is whole: every package and every YAML of conf/ is in it, wherever it is installed."""

import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest
from tiny import TINY

ROOT = Path(__file__).parents[1]


def packages() -> set[str]:
    found = {path.parent.relative_to(ROOT) for path in (ROOT / "mari_cli").rglob("__init__.py")}
    return {".".join(path.parts) for path in found} | {"mari_cli.conf"}


def test_every_package_is_listed_for_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["setuptools"]["packages"]) == packages()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed, and nothing is downloaded in a test")
    if find_spec("pip") is None:
        pytest.skip("pip is not installed in this environment")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("mari_cli", "conf"):  # a copy, so that no build/ is left in the working tree
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet",
         "--wheel-dir", str(folder), str(source)],
        check=True,
    )  # fmt: skip
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_every_module_every_yaml_and_every_page(wheel):
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "mari_cli").rglob("*.py")}
    pages = {
        path.relative_to(ROOT).as_posix()
        for kind in ("*.md", "*.json", "*.j2")
        for path in (ROOT / "mari_cli").rglob(kind)
    }
    assert "mari_cli/docs/metrics/truth_ratio.md" in pages
    yamls = {f"mari_cli/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert len(yamls) > 30
    assert modules | yamls | pages | {"mari_cli/conf/__init__.py"} <= held


@pytest.mark.slow
def test_mari_runs_from_the_wheel_in_another_directory(wheel, tmp_path):
    # libraries come from this environment, mari itself from the wheel, and this checkout is not seen
    venv.create(tmp_path / "v", with_pip=False)
    python = tmp_path / "v" / "bin" / "python"
    site = next((tmp_path / "v" / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    libraries = {str(Path(find_spec(name).origin).parents[1]) for name in ("typer", "hydra", "omegaconf")}
    (site / "libraries.pth").write_text("\n".join(sorted(libraries)))
    (tmp_path / "elsewhere").mkdir()
    shown = subprocess.run(
        [str(python), "-m", "mari_cli", "config", "show", "loss=npo"],
        cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert "name: npo" in shown
    asked = "import mari_cli.conf; print(mari_cli.conf.__file__)"
    where = subprocess.run(
        [str(python), "-c", asked], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert where.stdout.startswith(str(site))
    subprocess.run(
        [str(python), "-m", "mari_cli", "unlearn", *TINY, "out=run", "cache=cache"],
        cwd=tmp_path / "elsewhere", check=True,
    )  # fmt: skip
    assert (tmp_path / "elsewhere" / "run" / "report.html").is_file()
