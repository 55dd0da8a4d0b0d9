"""The checks of the repository: `nox` runs all, `nox -s lint` runs one, `nox -l` lists them."""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (nox itself runs on older ones)
    sys.exit(f"flowyml needs Python 3.11 or newer; this is Python {sys.version.split()[0]}.")

import atexit
import os
import shutil
import tempfile
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import nox

PYTHONS = ["3.11", "3.12", "3.13"]
CORE, PYTORCH = "./flowyml-core", "./flowyml-pytorch"
SKLEARN = "./docs/examples/flowyml-sklearn"
ROOT = Path(__file__).parent
CONSTRAINTS = str(ROOT / "constraints.txt")

nox.needs_version = ">=2024.10.9"
nox.options.sessions = [
    "lint",
    "types",
    "core",
    "pytorch",
    "adapters",
    "packaging",
    "compat",
    "docs",
]
nox.options.reuse_venv = "yes"
# pip alone reads pip's configuration, which on some machines is where torch comes from.
nox.options.default_venv_backend = "virtualenv"
# A machine with one of the Python versions is enough, under CI too: the others are skipped by name.
nox.options.error_on_missing_interpreters = False
nox.options.download_python = "never"

# pyenv's python3.12 is a shim that fails unless its version is enabled, so enable what there is.
if shutil.which("pyenv"):
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = [entry.name for python in PYTHONS for entry in sorted(versions.glob(f"{python}.*"))]
    if found:
        os.environ.setdefault("PYENV_VERSION", ":".join(found))

reports: dict[str, Path] = {}


def install(session: nox.Session, *requirements: str) -> None:
    # Compiling all of torch takes longer than installing it; Python compiles what it imports.
    session.install("--no-compile", "-c", CONSTRAINTS, *requirements)


PARALLEL = ("-n=auto", "--dist=worksteal")  # most tests wait for processes and the disk
IN_GROUPS = ("-n=auto", "--dist=loadgroup")  # tests that share started processes run in one


def run_pytest(session: nox.Session, *args: str, python: str = "python") -> None:
    folder = next(arg for arg in args if not arg.startswith("-"))
    report = Path(session.virtualenv.location, f"{folder.replace('/', '-')}.xml")
    report.unlink(missing_ok=True)
    reports[f"{session.name} {folder}"] = report
    session.run(python, "-m", "pytest", f"--junit-xml={report}", *args, external=python != "python")


@atexit.register
def print_totals() -> None:
    """Repeat what pytest counted in each session, where a reader of a long log looks first."""
    for name, report in reports.items():
        if not report.exists():  # pytest did not run, or crashed: nox has said so
            continue
        suite = ElementTree.parse(report).getroot()[0]  # noqa: S314  (pytest wrote it)
        counts = {key: int(suite.attrib[key]) for key in ("failures", "errors", "skipped")}
        passed = int(suite.attrib["tests"]) - sum(counts.values())
        rest = "".join(f", {count} {key}" for key, count in counts.items() if count)
        print(f"{name}: {passed} passed{rest} in {float(suite.attrib['time']):.1f} s")


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and formatting."""
    install(session, "ruff")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def fix(session: nox.Session) -> None:
    """Let ruff fix and format what it can (not run by default)."""
    install(session, "ruff")
    session.run("ruff", "check", "--fix")
    session.run("ruff", "format")


@nox.session
def types(session: nox.Session) -> None:
    """mypy --strict over the source trees; what users write, under mypy and pyright."""
    tools = ("mypy", "numpy", "pyright[nodejs]", "pytest")
    install(session, f"{CORE}[testing]", f"{PYTORCH}[safetensors]", SKLEARN, *tools)
    session.run("mypy", *session.posargs)
    run_pytest(session, "tests/typing")


@nox.session(python=PYTHONS)
def core(session: nox.Session) -> None:
    """The tests of the core and its conformance kit, where no framework is installed."""
    install(session, f"{CORE}[numpy,testing]", "hypothesis", "ipython", "pytest-xdist")
    without_torch = "import importlib.util as u; assert not u.find_spec('torch'), 'torch is here'"
    session.run("python", "-c", without_torch)
    # What the disk, git, processes, and faulty adapters do doesn't hang on Python's version.
    first = session.python == PYTHONS[0]
    elsewhere = ("test_durability.py", "test_repository.py", "test_saving_together.py")
    left_out = () if first else (f"--ignore=tests/core/{name}" for name in elsewhere)
    run_pytest(session, "tests/core", *left_out, *PARALLEL, *session.posargs)
    kit = "tests/testing" if first else "tests/testing/test_conformance.py"
    run_pytest(session, kit, *PARALLEL, *session.posargs)


@nox.session
def pytorch(session: nox.Session) -> None:
    """The PyTorch adapter's tests, then those of two adapters in one process."""
    tools = ("hypothesis", "pytest-xdist", "scikit-learn", "torchdata", "tqdm", "transformers")
    install(session, f"{CORE}[numpy,testing]", f"{PYTORCH}[safetensors]", *tools)
    run_pytest(session, "tests/pytorch", *IN_GROUPS, *session.posargs)
    install(session, SKLEARN, "ipython", "jedi")
    run_pytest(session, "tests/adapters", *PARALLEL, *session.posargs)


@nox.session
def packaging(session: nox.Session) -> None:
    """Build the three wheels and try them in a fresh environment, away from the checkout."""
    install(session, "build", "hatchling")
    with tempfile.TemporaryDirectory(prefix="flowyml-") as name:
        folder = Path(name)
        wheels, env = folder / "wheels", folder / "env"
        for project in (".", CORE, PYTORCH):
            session.run("python", "-m", "build", "--no-isolation", f"--outdir={wheels}", project)
        session.run("python", "-m", "venv", str(env))
        python = str(env / ("Scripts" if os.name == "nt" else "bin") / "python")
        pip = (python, "-m", "pip", "install", "--quiet", "--no-compile", "-c", CONSTRAINTS)
        packages = map(str, wheels.glob("flowyml_*.whl"))
        metapackage = (f"{wheel}[pytorch]" for wheel in wheels.glob("flowyml-*.whl"))
        session.run(*pip, "hatchling", "pytest", *packages, *metapackage, external=True)

        shutil.copytree(ROOT / "tests" / "packaging", folder / "tests")
        session.env["FLOWYML_WHEELS"] = str(wheels)
        options = (f"--config-file={ROOT / 'pyproject.toml'}", f"--rootdir={folder}")
        with session.chdir(folder):
            run_pytest(session, *options, "tests", *session.posargs, python=python)


@nox.session
def adapters(session: nox.Session) -> None:
    """The example of a third party's adapter, where no other framework is installed."""
    install(session, f"{CORE}[testing]", f"{SKLEARN}[test]", "pytest-xdist")
    run_pytest(session, f"{SKLEARN}/tests", *PARALLEL, *session.posargs)


@nox.session
def compat(session: nox.Session) -> None:
    """Newest core with the oldest adapter that it takes, and the other way around."""
    install(session, f"{CORE}[testing]", "./tests/compat/flowyml-first")
    run_pytest(session, "tests/compat", *session.posargs)

    oldest, newest = versions_of_the_core()
    if oldest == newest:
        session.log(f"No core is older than {oldest}, with which the session pytorch has run.")
        return
    session.run("python", "-m", "pip", "uninstall", "--yes", "flowyml-core", "flowyml-first")
    tools = ("hypothesis", "pytest", "scikit-learn")
    install(session, f"flowyml-core[testing]=={oldest}", f"{PYTORCH}[safetensors]", *tools)
    run_pytest(session, "tests/pytorch/test_conformance.py", *session.posargs)


def versions_of_the_core() -> tuple[str, str]:
    """Return the oldest core that the PyTorch adapter takes, and the one in this checkout."""
    project = tomllib.loads(Path(PYTORCH, "pyproject.toml").read_text())["project"]
    (oldest,) = (
        requirement.removeprefix("flowyml-core>=")
        for requirement in project["dependencies"]
        if requirement.startswith("flowyml-core>=")
    )
    return oldest, project["version"]


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site, then run every code block of the README and the pages."""
    tools = ("mkdocs-material", "pymdown-extensions")
    projects = (f"{CORE}[testing]", f"{PYTORCH}[safetensors]", SKLEARN, ".[pytorch,examples]")
    install(session, *projects, *tools)
    session.run("mkdocs", "build", "--strict", f"--site-dir={session.virtualenv.location}/site")
    run_pytest(session, "tests/docs", *session.posargs)
