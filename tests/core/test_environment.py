import copy
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import importlib_metadata
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowyml import adapters, encoding, environment, hookimpl
from flowyml.environment import differences, hardware, installed, invocation
from flowyml.errors import AdapterWarning
from flowyml.interfaces import Extractor

KEYS = {
    "python", "implementation", "build", "compiler", "executable", "platform", "machine",
    "hostname", "cpu", "memory_bytes", "gpus", "threads", "variables", "distributions", "adapters",
    "frameworks", "git", "main", "argv", "cwd", "pid",
}  # fmt: skip


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    environment._fixed.cache_clear()
    yield
    environment._fixed.cache_clear()


def test_it_tells_everything_in_a_form_that_records_hold() -> None:
    found = environment.environment()
    assert set(found) == KEYS
    assert encoding.loads(encoding.dumps(found)) == found
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["executable"] == sys.executable
    assert found["cwd"] == os.getcwd()  # noqa: PTH109
    assert found["memory_bytes"] > 1 << 20
    assert found["cpu"]["count"] == os.cpu_count()
    assert 0 < found["cpu"]["available"] <= found["cpu"]["count"]
    assert found["adapters"]["core"].startswith("flowyml-core ")


def test_the_documentation_names_every_key() -> None:
    assert all(f"``{key}``" in str(environment.__doc__) for key in KEYS)


def test_what_somebody_does_to_it_stays_with_him() -> None:
    found = environment.environment()
    found["cpu"]["model"] = "another"
    found["gpus"].append("another")
    found["distributions"]["flowyml-core"] = "another"
    again = environment.environment()
    assert again["cpu"]["model"] != "another"
    assert "another" not in again["gpus"]
    assert again["distributions"]["flowyml-core"] != "another"


def test_what_may_change_is_looked_up_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    environment.environment()
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setenv("SECRET_TOKEN", "x")
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "3"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = environment.environment()
    assert found["threads"]["OMP_NUM_THREADS"] == "3"
    assert found["variables"]["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert "SECRET_TOKEN" not in json.dumps(found)
    assert found["argv"] == ["train.py", "--epochs", "3"]
    assert found["cwd"] == str(tmp_path / "elsewhere")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS" not in environment.environment()["threads"]


def test_bytes_that_are_no_text_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_PLACES", os.fsdecode(b"\xff"))
    monkeypatch.setattr(sys, "argv", [os.fsdecode(b"caf\xe9.py"), 3])
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    found = environment.environment()
    encoding.dumps(found)
    assert found["threads"]["OMP_PLACES"] == "\\udcff"
    assert found["argv"] == ["caf\\udce9.py", "3"]
    assert found["cwd"] == f"{tmp_path}/caf\\udce9"


def test_it_never_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> Any:
        raise OSError("no")

    for name in ("cpu", "gpus", "memory_bytes"):
        monkeypatch.setattr(hardware, name, fail)
    monkeypatch.setattr(environment.platform, "platform", fail)
    monkeypatch.setattr(environment.repository, "describe", fail)
    monkeypatch.setattr(installed, "distributions", fail)
    monkeypatch.delattr(sys, "argv")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    found = environment.environment()
    assert set(found) == KEYS
    assert (found["cpu"], found["gpus"], found["git"], found["argv"]) == ({}, [], None, [])
    assert found["cwd"] is found["platform"] is found["memory_bytes"] is None
    monkeypatch.chdir(tmp_path)


def test_what_takes_long_is_found_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(environment.repository, "describe", asked.append)
    environment.environment()
    once = len(asked)
    environment.environment()
    assert 0 < once == len(asked)


def test_threads_may_ask_at_once() -> None:
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda: found.append(environment.environment())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 8


FORKED = """
import os
from flowyml.environment import environment
{before}
child = os.fork()
if not child:
    environment()
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.parametrize("before", ["", "environment()"])
def test_a_forked_process_may_ask(before: str, run_python: Callable[..., str]) -> None:
    assert run_python(FORKED.format(before=before)).strip() == "7"


STARTED = """
import json
from flowyml.environment import environment
found = environment()
print(json.dumps([found["main"], found["argv"], found["git"] and found["git"]["root"]]))
"""


def started(*command: str, folder: Path) -> Any:
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout)


def test_how_the_process_was_started(tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name in ("train.py", "__main__.py", "__init__.py"):
        (package / name).write_text("" if name == "__init__.py" else STARTED)
    train, main = str(package / "train.py"), str(package / "__main__.py")
    told = started("package/train.py", "--lr", "1", folder=tmp_path)
    assert told == [{"file": train, "module": None}, ["package/train.py", "--lr", "1"], None]
    told = started("-m", "package.train", "x", folder=tmp_path)
    assert told == [{"file": train, "module": "package.train"}, [train, "x"], None]
    told = started("-m", "package", folder=tmp_path)
    assert told == [{"file": main, "module": "package"}, [main], None]
    assert started("-c", STARTED, folder=tmp_path)[0] == {"file": None, "module": None}


def make_repository(folder: Path) -> None:
    (folder / ".git").mkdir(parents=True)
    (folder / ".git/HEAD").write_text("a" * 40)


def test_the_repository_is_that_of_the_main_program(tmp_path: Path) -> None:
    code, here = tmp_path / "code", tmp_path / "here"
    for folder in (code, here):
        make_repository(folder)
    (code / "train.py").write_text(STARTED)
    (tmp_path / "outside.py").write_text(STARTED)
    assert started(str(code / "train.py"), folder=here)[2] == str(code)
    assert started(str(tmp_path / "outside.py"), folder=here)[2] == str(here)
    assert started("-c", STARTED, folder=here)[2] == str(here)
    assert started("-c", STARTED, folder=tmp_path)[2] is None


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (["--token", "abc"], ["--token", "***"]),
        (["-token", "abc"], ["-token", "***"]),
        (["--api-key=abc"], ["--api-key=***"]),
        (["--hfToken=a=b"], ["--hfToken=***"]),
        (["+login.password=abc"], ["+login.password=***"]),
        (["login[password]=abc"], ["login[password]=***"]),
        (["DB_PASSWORD=abc"], ["DB_PASSWORD=***"]),
        (["--password", "--verbose"], ["--password", "--verbose"]),
        (["--password", "-abc"], ["--password", "***"]),
        (["--password", "--token", "abc"], ["--password", "--token", "***"]),
        (["--password", "abc", "def"], ["--password", "***", "def"]),
        (["--password", "--lr=abc", "abc"], ["--password", "--lr=abc", "abc"]),
        (["--secret"], ["--secret"]),
        (["https://me:abc@example.org/x?y"], ["https://***@example.org/x?y"]),
        (["--store=s3://me:abc@host/x"], ["--store=s3://***@host/x"]),
        (["--max-tokens", "5", "token", "x"], ["--max-tokens", "5", "token", "x"]),
        (["--lr=0.1", "a@b", "", "="], ["--lr=0.1", "a@b", "", "="]),
    ],
)
def test_arguments_that_look_secret_are_masked(
    given: list[str], shown: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", given)
    assert invocation.argv() == shown
    assert sys.argv is given


def test_of_many_arguments_the_first_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["x"] * 3000)
    assert invocation.argv() == [*["x"] * 1000, "… and 2,000 more"]


class Framework(Extractor):
    framework = "framework"
    modules = ("framework_module",)
    answer: Any = {"version": "1", "threads": 3, "odd": object}  # noqa: RUF012

    def detect(self, obj: object) -> bool:
        return False

    def extract(self, obj: Any, options: Mapping[str, Any]) -> Mapping[str, Any]:
        return {}

    def environment(self) -> Mapping[str, Any]:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


class Other(Framework):
    framework = "other"
    modules = ()
    answer: Any = {"version": "2"}  # noqa: RUF012


class Plugin:
    @hookimpl
    def flowyml_register_extractors(self) -> list[Extractor]:
        return [Framework(), Other()]


@pytest.fixture
def frameworks() -> Callable[[], dict[str, Any]]:
    adapters.register(Plugin(), name="plugin")

    def ask() -> dict[str, Any]:
        found = environment.environment()["frameworks"]
        return {key: found[key] for key in ("framework", "other") if key in found}

    return ask


def test_a_framework_is_asked_once_it_is_imported(
    frameworks: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert frameworks() == {"other": {"version": "2"}}
    monkeypatch.setitem(sys.modules, "framework_module", sys)
    assert frameworks() == {
        "framework": {"version": "1", "threads": 3, "odd": "<type>"},
        "other": {"version": "2"},
    }
    assert environment.environment()["adapters"]["plugin"].endswith("Plugin")


def test_an_adapter_that_is_left_out_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    out = [attrs.evolve(info, state=s) for info in adapters.list() for s in ("disabled", "broken")]
    monkeypatch.setattr(adapters, "list", lambda: out)
    assert environment.environment()["adapters"] == {}


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ValueError("no"), "ValueError: no"),
        (SystemExit(3), "SystemExit: 3"),
        (["x"], "needed is a mapping"),
        ({"x": "\udcff"}, "has no JSON form"),
    ],
)
def test_one_that_fails_is_told_of_and_takes_nothing_with_it(
    answer: Any,
    reason: str,
    frameworks: Callable[[], dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "framework_module", sys)
    monkeypatch.setattr(Framework, "answer", answer)
    text = f"What framework runs in is not recorded.*'plugin'.*{reason}"
    with pytest.warns(AdapterWarning, match=text):
        assert frameworks() == {"other": {"version": "2"}}


def test_one_that_is_interrupted_is_not_gone_on_with(
    frameworks: Callable[[], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Other, "answer", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        frameworks()


def test_no_framework_is_imported(run_python: Callable[..., str]) -> None:
    code = "import sys; from flowyml.environment import environment; environment(); "
    assert run_python(f"{code} print({{'numpy', 'torch'}} & set(sys.modules))") == "set()\n"


def test_installed_distributions_are_those_of_importlib() -> None:
    expected: dict[str, str] = {}
    for each in importlib_metadata.distributions():
        if each.metadata["Name"]:
            name = importlib_metadata.Prepared.normalize(each.metadata["Name"]).replace("_", "-")
            expected.setdefault(name, each.version)
    assert installed.distributions() == expected


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two folders that alone are on the path."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path / "one"), str(tmp_path / "two")])
    return tmp_path


def install(folder: Path, name: str, text: str | None = "Metadata-Version: 2.1\n") -> None:
    kind = "METADATA" if name.endswith(".dist-info") else "PKG-INFO"
    (folder / name).mkdir()
    if text is not None:
        (folder / name / kind).write_text(text, encoding="utf-8")


def test_names_of_folders_tell_distributions(path: Path) -> None:
    install(path / "one", "Zope.Interface_x-1.0+cu12.dist-info")
    install(path / "one", "old-2.0-py3.11.egg-info")
    (path / "one/older-3.0-py3.11.egg-info").write_text("Name: older\nVersion: 3.0\n")
    install(path / "one", "developed.egg-info", "Name: Developed_Here\nVersion: 4\n\nVersion: 5\n")
    install(path / "one", "two-dashes-1.dist-info", "Name: two-dashes\nVersion: 1\n")
    install(path / "one", "broken-1.0.dist-info", None)
    install(path / "one", "nothing-in-it.dist-info", "")
    install(path / "one", "~emporary-1.0.dist-info")
    (path / "one/package").mkdir()
    assert installed.distributions() == {
        "developed-here": "4", "old": "2.0", "older": "3.0", "two-dashes": "1",
        "zope-interface-x": "1.0+cu12",
    }  # fmt: skip
    assert [*installed.distributions()] == sorted(installed.distributions())


def test_the_first_on_the_path_counts(path: Path) -> None:
    install(path / "one", "Name-1.0.dist-info")
    install(path / "two", "name-2.0.dist-info")
    assert installed.distributions() == {"name": "1.0"}
    sys.path.reverse()
    assert installed.distributions() == {"name": "2.0"}


def test_what_is_installed_meanwhile_is_seen(path: Path) -> None:
    assert installed.distributions() == {}
    install(path / "two", "new-1.0.dist-info")
    os.utime(path / "two", ns=(1, 1))  # were the clock too coarse to tell
    assert installed.distributions() == {"new": "1.0"}


def test_anything_may_be_on_the_path(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path / "file.zip").write_text("no zip file")
    odd: list[Any] = ["", str(path / "file.zip"), str(path / "missing"), "a\0b", 3, None]
    monkeypatch.chdir(path / "one")
    install(path / "one", "here-1.0.dist-info")
    monkeypatch.setattr(sys, "path", odd)
    assert installed.distributions() == {"here": "1.0"}


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


INTEL = "".join(
    f"processor\t: {i}\nmodel name\t: Xeon  (R) @ 2.20GHz\nphysical id\t: {i // 4}\n"
    f"core id\t\t: {i % 2}\n\n"
    for i in range(8)
)


def test_two_processors_of_two_cores_of_two_threads(tmp_path: Path) -> None:
    found = hardware.cpu(write(tmp_path, {"proc/cpuinfo": INTEL}))
    assert (found["model"], found["physical"]) == ("Xeon  (R) @ 2.20GHz", 4)


def test_a_processor_that_has_numbers_instead_of_a_name(tmp_path: Path) -> None:
    text = "processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x3\nCPU part\t: 0xd0c\n"
    found = hardware.cpu(write(tmp_path, {"proc/cpuinfo": text}))
    assert found["model"] == "ARM 0x41 part 0xd0c variant 0x3"
    assert found["physical"] is None


@pytest.mark.parametrize(
    ("files", "available"),
    [
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "99900000 100000"}, None),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "20000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "70000 100000\n",
            },
            0.2,
        ),
        (
            {
                "proc/self/cgroup": "7:memory:/m\n4:cpu,cpuacct:/of/it\n0::/\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "75000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/of/it/cpu.cfs_quota_us": "-1\n",
            },
            0.75,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "damaged"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1 0"}, None),
    ],
)
def test_a_quota_bounds_what_is_available(
    files: dict[str, str], available: float | None, tmp_path: Path
) -> None:
    found = hardware.cpu(write(tmp_path, files))
    assert found["available"] == (available or len(os.sched_getaffinity(0)))


NVIDIA = {
    "proc/driver/nvidia/version": (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.14  Release Build  (x)\n"
        "GCC version:  gcc version 12.2.0\n"
    ),
    **{
        f"proc/driver/nvidia/gpus/0000:{i}a:00.0/information": (
            f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 24\nGPU UUID: \t GPU-{i}\n"
            "Video BIOS: \t 96.00\nGPU Firmware: \t 550.54.14\nGPU Excluded:\t No\n"
        )
        for i in (1, 2)
    },
}


def test_gpus_of_nvidia_as_the_driver_tells(tmp_path: Path) -> None:
    assert hardware.gpus(write(tmp_path, NVIDIA)) == [
        {
            "name": "NVIDIA H100 80GB HBM3", "memory": None, "driver": "550.54.14",
            "uuid": f"GPU-{i}",
        }
        for i in (1, 2)
    ]  # fmt: skip
    closed = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC\n"
    (tmp_path / "proc/driver/nvidia/version").write_text(closed)
    assert {gpu["driver"] for gpu in hardware.gpus(tmp_path)} == {"470.82.01"}


def put_on_path(folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, {f"bin/{name}": f"#!/bin/sh\n{script}\n"})
    (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")


def test_gpus_of_nvidia_as_its_program_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "A100, PCIe, 40960, 550.1, GPU-1\\nB, [N/A], 550.1, GPU-2\\nodd\\n"
    put_on_path(tmp_path, "nvidia-smi", f'printf "{lines}"', monkeypatch)
    assert hardware.gpus(tmp_path) == [
        {"name": "A100, PCIe", "memory": 40 << 30, "driver": "550.1", "uuid": "GPU-1"},
        {"name": "B", "memory": None, "driver": "550.1", "uuid": "GPU-2"},
    ]


@pytest.mark.parametrize("script", ["echo A, 1, 2, 3; exit 9", "echo A, 1, 2, 3; sleep 1000"])
def test_a_program_that_fails_or_hangs_tells_of_no_gpu(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "_SECONDS", 0.2)
    put_on_path(tmp_path, "nvidia-smi", script, monkeypatch)
    assert hardware.gpus(tmp_path) == []


def test_gpus_of_amd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    card = "sys/class/drm/card{}/device/{}"
    files = {
        card.format(0, "vendor"): "0x8086\n",
        card.format(1, "vendor"): "0x1002\n",
        card.format(1, "mem_info_vram_total"): "68702699520\n",
        card.format(1, "product_name"): "AMD Instinct MI210\n",
        card.format(1, "unique_id"): "1f\n",
        card.format(2, "vendor"): "0x1002\n",
        card.format(2, "mem_info_vram_total"): "512\n",
        card.format(2, "device"): "0x1638\n",
        "sys/module/amdgpu/version": "6.3.6\n",
    }
    assert hardware.gpus(write(tmp_path, files)) == [
        {"name": "AMD Instinct MI210", "memory": 68702699520, "driver": "6.3.6", "uuid": "1f"},
        {"name": "AMD 0x1638", "memory": 512, "driver": "6.3.6", "uuid": None},
    ]


def test_a_machine_of_which_nothing_can_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.gpus(tmp_path) == []
    found = hardware.cpu(tmp_path)
    assert (found["model"], found["physical"]) == (None, None)
    assert found["available"] == len(os.sched_getaffinity(0))


THEN: dict[str, Any] = {
    "python": "3.11.2",
    "build": "main",
    "platform": "Linux-6.1",
    "machine": "x86_64",
    "hostname": "there",
    "executable": "/bin/python",
    "cpu": {"model": "Xeon", "physical": 4, "count": 8, "available": 8},
    "memory_bytes": 100,
    "gpus": [
        {"name": "A100", "memory": None, "driver": "550", "uuid": "1"},
        {"name": "A100", "memory": None, "driver": "550", "uuid": "2"},
    ],
    "threads": {"OMP_NUM_THREADS": "4"},
    "variables": {"PYTHONHASHSEED": "0"},
    "distributions": {"torch": "2.12.0", "numpy": "2.0", "old": "1"},
    "adapters": {"core": "flowyml-core 1", "pytorch": "flowyml-pytorch 1"},
    "frameworks": {"pytorch": {"threads": 4, "cudnn": {"benchmark": False}, "extra": 1}},
    "git": {
        "root": "/a", "commit": "a" * 40, "branch": "main", "remote": None, "dirty": True,
        "changed": 1, "diff": "d1", "untracked": 2, "untracked_digest": "u1",
    },
    "main": {"file": "/a/train.py", "module": None},
    "argv": ["train.py", "--lr", "1"],
    "cwd": "/a",
}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "value", "found"),
    [
        ("git commit", "b" * 40, [("code", "git commit aaaaaaa → bbbbbbb")]),
        ("git commit", None, [("code", "git commit aaaaaaa → none")]),
        ("git diff", "d2", [("code", "git: uncommitted changes differ (1 → 1 files)")]),
        ("git changed", 3, [("code", "git: uncommitted changes differ (1 → 3 files)")]),
        ("git changed", None, []),
        (
            "git untracked_digest",
            "u2",
            [("code", "git: untracked files differ (2 → 2 files)")],
        ),
        ("git", None, [("code", "git: a repository → no repository")]),
        ("git branch", "dev", [("other", "git branch main → dev")]),
        ("distributions torch", "2.13.0", [("packages", "torch 2.12.0 → 2.13.0")]),
        ("distributions old", ..., [("packages", "old 1 → not installed")]),
        ("distributions new", "3", [("packages", "new not installed → 3")]),
        ("adapters pytorch", ..., [("packages", "adapter pytorch: flowyml-pytorch 1 → none")]),
        ("python", "3.12.1", [("python", "Python 3.11.2 → 3.12.1")]),
        ("build", "other", [("python", "Python build main → other")]),
        ("cpu model", "EPYC", [("hardware", "CPU: Xeon → EPYC")]),
        ("cpu model", None, []),
        ("cpu available", 1.5, [("hardware", "available CPUs 8 → 1.5")]),
        ("machine", "arm64", [("hardware", "machine: x86_64 → arm64")]),
        ("gpus", [], [("hardware", "GPUs: 2 × A100 → none")]),
        (
            "gpus",
            [{"name": "A100", "driver": "560", "uuid": "1"}] * 2,
            [
                ("hardware", "GPU driver: 2 × 550 → 2 × 560"),
                ("other", "GPUs of the same kind: 1 × 1, 1 × 2 → 2 × 1"),
            ],
        ),
        ("threads OMP_NUM_THREADS", ..., [("settings", "OMP_NUM_THREADS 4 → unset")]),
        ("variables X", "1", [("settings", "X unset → 1")]),
        (
            "frameworks pytorch cudnn benchmark",
            True,
            [("settings", "pytorch.cudnn.benchmark False → True")],
        ),
        ("frameworks pytorch extra", ..., []),
        ("frameworks pytorch", ..., [("settings", "pytorch imported → not imported")]),
        ("frameworks jax", {"x": 1}, [("settings", "jax not imported → imported")]),
        ("hostname", "here", [("other", "hostname there → here")]),
        ("argv", ["train.py"], [("other", "arguments train.py --lr 1 → train.py")]),
        ("cwd", "/b", [("other", "working directory /a → /b")]),
        ("main file", "/b.py", [("other", "main file /a/train.py → /b.py")]),
        ("memory_bytes", 200, [("other", "memory in bytes 100 → 200")]),
        ("distributions", ..., []),
        ("git", ..., []),
        ("gpus", ..., []),
        ("frameworks", ..., []),
        ("adapters", ..., []),
        ("threads", "damaged", []),
    ],
)
def test_differences_are_said(path: str, value: Any, found: list[tuple[str, str]]) -> None:
    now = copy.deepcopy(THEN)
    *above, last = path.split()
    part = now
    for key in above:
        part = part[key]
    if value is ...:
        del part[last]
    else:
        part[last] = value
    assert differences(THEN, now) == found
    assert [kind for kind, _ in differences(now, THEN)] == [kind for kind, _ in found]


def test_without_differences_nothing_is_said() -> None:
    assert differences(THEN, copy.deepcopy(THEN)) == []
    assert differences({"cpu": {"count": float("nan")}}, {"cpu": {"count": float("nan")}}) == []
    here = environment.environment()
    assert differences(here, environment.environment()) == []


def test_kinds_come_in_order_and_long_values_are_cut() -> None:
    now: dict[str, Any] = {
        "hostname": "x" * 1000, "threads": {}, "cpu": {"model": "EPYC"}, "python": "4",
        "distributions": {}, "git": None,
    }  # fmt: skip
    found = differences(THEN, now)
    kinds = [kind for kind, _ in found]
    assert kinds == sorted(kinds, key=environment.KINDS.index)
    assert set(kinds) == {*environment.KINDS}
    assert len(found[-1][1]) < 300


def test_a_record_of_an_older_flowyml_is_compared_as_far_as_it_goes() -> None:
    old = {"python": "3.11.0", "platform": "Linux-6.1", "cpu_count": 3, "adapters": {}}
    assert differences(old, THEN)[-1] == ("python", "Python 3.11.0 → 3.11.2")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers() | st.none() | st.sampled_from(["model", "x"]), inner)
        | st.dictionaries(st.sampled_from([*THEN, *THEN["git"], "name", "driver"]), inner)
    ),
    max_leaves=20,
)
DAMAGED = st.dictionaries(st.sampled_from([*THEN]), ANYTHING) | ANYTHING


@given(DAMAGED, DAMAGED)
def test_any_record_can_be_compared(one: Any, other: Any) -> None:
    for pair in ((one, other), (one, THEN), (THEN, one)):
        for kind, text in differences(*pair):
            assert kind in environment.KINDS
            assert isinstance(text, str)
    assert differences(one, copy.deepcopy(one)) == []
