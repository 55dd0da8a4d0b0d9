"""The launcher on torch's elastic agent: real processes, real signals, real kills."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing.api import SignalException

from flowyml import adapters
from flowyml.errors import LaunchError
from flowyml.interfaces import Job
from flowyml_pytorch import Elastic
from flowyml_pytorch.launching.interrupts import Interrupts
from flowyml_pytorch.launching.place import Place
from flowyml_pytorch.launching.streams import Streams

pytestmark = pytest.mark.xdist_group("elastic")

JOIN = """
import json, os, signal, sys, threading, time
import torch, torch.distributed as dist
from flowyml import adapters
from flowyml.errors import LaunchError
torch.set_num_threads(1)

def note(group, **facts):
    with open(f"rank{group.rank}.{group.restarts}.json", "w") as file:
        json.dump(facts, file)

with adapters.launcher("elastic").join() as group:
    train(group)
"""

HANG_UP = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("ready", "w").close()
print("ready", flush=True)
time.sleep(600)
"""


def job(folder: Path, body: str, **variables: str) -> Job:
    """Return a job whose processes join the group and then run the body, in a function."""
    lines = textwrap.indent(textwrap.dedent(body).strip(), "    ")
    return script(folder, f"def train(group):\n{lines}\n{JOIN}", **variables)


def script(folder: Path, code: str, **variables: str) -> Job:
    (folder / "job.py").write_text(code)
    return Job("train", (sys.executable, str(folder / "job.py")), variables, folder)


def facts(folder: Path, restarts: int = 0) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(folder.glob(f"rank*.{restarts}.json"))]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def processes_in(folder: Path) -> list[int]:
    """Return the processes that run in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "cwd").readlink() == folder and (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return [process for process in found if process != os.getpid()]


def ends(folder: Path) -> bool:
    """Wait until no process runs in the folder any more."""
    deadline = time.monotonic() + 30
    while processes_in(folder) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not processes_in(folder)


@contextmanager
def handlers_stay() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in numbers]
    variables = dict(os.environ)
    yield
    assert [signal.getsignal(number) for number in numbers] == before
    assert dict(os.environ) == variables


def test_ranks_form_a_group_and_talk_beside_torch(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    body = """
    tensor = torch.ones(1) * (group.rank + 1)
    dist.all_reduce(tensor)
    said = {}
    def talk(channel):
        said[channel] = [
            group.exchange(f"{channel}{turn}{group.rank}".encode(), channel) for turn in range(3)
        ]
    threads = [threading.Thread(target=talk, args=(name,)) for name in "ab"]
    for thread in threads if group.rank else reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    large = group.exchange(bytes([group.rank]) * 9_000_000)
    again = adapters.launcher("elastic").group()
    dist.barrier()
    store = dist.distributed_c10d._get_default_store()
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    left = [key for key in store.list_keys() if "exchange" in key] if group.rank else []
    note(
        group, sum=tensor.item(), ranks=[group.rank, group.local_rank, group.world_size],
        device=group.device, id=group.id, same=again is group,
        said={name: [[item.decode() for item in turn] for turn in said[name]] for name in "ab"},
        large=[(len(item), item[:1] == bytes([rank])) for rank, item in enumerate(large)],
        left=left, backend=dist.get_backend(), mine=os.environ["MINE"],
        threads=os.environ["OMP_NUM_THREADS"], bars=os.environ.get("TQDM_DISABLE"),
        dollar=sys.argv[1],
    )
    print("line of", group.rank)
    print("wörds", file=sys.stderr)
    for step in range(3):
        print(f"step {step}", end="\\r")
    print()
    sys.stdout.buffer.write(b"no text: \\xff, and no end")
    """
    work = job(tmp_path, body, MINE="yes")
    with handlers_stay():
        Elastic(2, timeout=60).launch(
            Job(work.name, (*work.command, "$$ ${local_rank}"), work.environment, tmp_path)
        )
    first, second = facts(tmp_path)
    assert [first["sum"], second["sum"]] == [3.0, 3.0]
    assert [first["ranks"], second["ranks"]] == [[0, 0, 2], [1, 1, 2]]
    assert first["device"] == "cpu"
    assert first["backend"] == "gloo"
    assert first["id"] == second["id"] != ""
    assert first["same"]
    assert first["said"] == second["said"]
    assert first["said"]["b"] == [[f"b{turn}0", f"b{turn}1"] for turn in range(3)]
    assert first["large"] == second["large"] == [[9_000_000, True]] * 2
    assert second["left"] == []
    assert first["mine"] == "yes"
    assert first["threads"] == "1"
    assert [first["bars"], second["bars"]] == [None, "1"]
    assert first["dollar"] == "$$ ${local_rank}"
    out, err = capfd.readouterr()
    shown = [re.split(r"\r", line)[-1].rstrip() for line in out.splitlines()]
    for rank in range(2):
        own = [line for line in shown if line.startswith(f"[rank {rank}]")]
        assert own[0] == f"[rank {rank}] line of {rank}"
        assert own[-1] == f"[rank {rank}] no text: \ufffd, and no end"
        assert f"[rank {rank}] step 2" in own
        assert f"[rank {rank}] wörds" in err
    assert ends(tmp_path)


def test_ranks_are_started_again_and_a_killed_one_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
    tensor = torch.ones(1)
    dist.all_reduce(tensor)
    note(group, sum=tensor.item(), id=group.id)
    group.exchange(b"")
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(tensor)
    """
    with pytest.raises(LaunchError) as caught:
        Elastic(2, max_restarts=1, timeout=60).launch(job(tmp_path, body))
    assert re.fullmatch(
        r"The step 'train' failed, also after 1 restart: rank 1 \(process \d+\) was killed by "
        r"SIGKILL. The system kills processes so when memory runs out.",
        str(caught.value),
    )
    before, after = facts(tmp_path, 0), facts(tmp_path, 1)
    assert [fact["sum"] for fact in before + after] == [2.0] * 4
    assert len({fact["id"] for fact in before + after}) == 1
    assert capfd.readouterr().err == ""


def test_a_rank_that_fails_is_named_and_the_other_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
    if group.rank == 1:
        raise ValueError("this is wrong")
    dist.all_reduce(torch.ones(1))
    """
    with pytest.raises(LaunchError, match=r"rank 1 \(process \d+\) ended with exit code 1\."):
        Elastic(2, timeout=60).launch(job(tmp_path, body))
    err = capfd.readouterr().err
    assert "ValueError: this is wrong" in err
    assert "[rank 0]" not in err


def test_a_rank_that_hangs_is_named_with_the_line_that_it_is_at(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
    dist.all_reduce(torch.ones(1))
    if group.rank == 1:
        time.sleep(600)  # it hangs
    try:
        group.exchange(b"", "news")
    except LaunchError as error:
        print("EXCHANGE", error)
    dist.all_reduce(torch.ones(1))
    """
    with pytest.raises(LaunchError, match=r"rank 0 .* exit code 1"):
        Elastic(2, timeout=2).launch(job(tmp_path, body))
    out, err = capfd.readouterr()
    line = r'Rank 1 is at File "\S+job.py", line 4, in train: time.sleep\(600\)  # it hangs.'
    assert re.search(
        rf"EXCHANGE Rank 1 didn't come within 2 s for 'news', where rank 0 waited. {line}", out
    )
    assert re.search(
        rf"LaunchError: Rank 1 hangs: it doesn't take part in what others wait for. {line} "
        r'Rank 0 waited at File "\S+job.py", line 9, in train: dist.all_reduce\(torch.ones\(1\)\), '
        r"for 2 s. If it only takes longer, raise the launcher's timeout.",
        err,
    )


def test_a_rank_that_has_returned_is_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    body = """
    dist.all_reduce(torch.ones(1))
    if group.rank == 1:
        return
    try:
        group.exchange(b"")
    except LaunchError as error:
        print("EXCHANGE", error)
    dist.all_reduce(torch.ones(1))
    """
    with pytest.raises(LaunchError, match=r"rank 0 .* exit code 1"):
        Elastic(2, timeout=60).launch(job(tmp_path, body))
    out, err = capfd.readouterr()
    told = "in vain: rank 1 has already returned. All ranks have to take part equally often."
    assert f"EXCHANGE Rank 0 waits {told}" in out
    assert re.search(rf"Rank 0 waited at .*dist.all_reduce\(torch.ones\(1\)\), {told}", err)


def interrupt(
    number: signal.Signals, ready: Callable[[], bool], times: int = 1
) -> threading.Thread:
    def send() -> None:
        deadline = time.monotonic() + 60
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        for turn in range(times):
            time.sleep(turn)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "raised"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)],
    ids=["SIGINT", "SIGTERM"],
)
def test_a_signal_ends_the_ranks_gently_and_then_does_what_it_does(
    tmp_path: Path, number: signal.Signals, raised: type[BaseException]
) -> None:
    code = """
import os, pathlib, signal, sys, time
rank = os.environ["RANK"]
def end(number, frame):
    pathlib.Path(f"ended{rank}").write_text(signal.Signals(number).name)
    sys.exit(1)
signal.signal(signal.SIGINT, end)
signal.signal(signal.SIGTERM, end)
pathlib.Path(f"ready{rank}").touch()
time.sleep(600)
"""
    thread = interrupt(number, lambda: len([*tmp_path.glob("ready*")]) == 2)
    with handlers_stay(), pytest.raises(raised) as caught:
        Elastic(2).launch(script(tmp_path, code))
    thread.join()
    assert {path.read_text() for path in tmp_path.glob("ended*")} == {number.name}
    assert len([*tmp_path.glob("ended*")]) == 2
    assert isinstance(caught.value, KeyboardInterrupt) or caught.value.code == 128 + number
    assert ends(tmp_path)


def test_a_second_signal_ends_ranks_that_ignore_the_first(tmp_path: Path) -> None:
    thread = interrupt(signal.SIGINT, (tmp_path / "ready").exists, times=2)
    start = time.monotonic()
    with handlers_stay(), pytest.raises(KeyboardInterrupt):
        Elastic(1).launch(script(tmp_path, HANG_UP))
    assert time.monotonic() - start < 25  # the agent's patience is 30 seconds
    thread.join()
    assert ends(tmp_path)


def test_a_signal_waits_until_ranks_that_are_being_started_are_known() -> None:
    known = []

    def start(interrupts: Interrupts) -> None:
        with interrupts.held():
            os.kill(os.getpid(), signal.SIGTERM)
            known.append("rank 0")

    with handlers_stay(), Interrupts() as interrupts:
        interrupts.release()
        with pytest.raises(SignalException):
            start(interrupts)
    assert known == ["rank 0"]
    assert interrupts.came == signal.SIGTERM


def test_nothing_is_left_when_the_launching_process_is_killed(tmp_path: Path) -> None:
    work = script(tmp_path, HANG_UP)
    (tmp_path / "launch.py").write_text(
        "import sys\nfrom pathlib import Path\nfrom flowyml.interfaces import Job\n"
        "from flowyml_pytorch import Elastic\n"
        f"Elastic(2).launch(Job('train', {work.command!r}, {{}}, Path('.')))\n"
    )
    with subprocess.Popen(
        [sys.executable, "launch.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        said = {parent.stdout.readline() for _ in range(2)}
        assert said == {"[rank 0] ready\n", "[rank 1] ready\n"}
        assert len(processes_in(tmp_path)) == 6  # with the guard
        parent.kill()
        assert ends(tmp_path)


def test_children_of_a_rank_that_has_ended_end_too(tmp_path: Path) -> None:
    Elastic(1).launch(script(tmp_path, HANG_UP.replace("time.sleep(600)\n", "\n")))
    assert ends(tmp_path)


def test_two_machines_meet_and_one_of_them_leads(tmp_path: Path) -> None:
    body = """
    tensor = torch.ones(1)
    dist.all_reduce(tensor)
    note(group, sum=tensor.item(), ranks=[group.rank, group.local_rank, group.world_size])
    """
    work = job(tmp_path, body)
    endpoint = f"localhost:{free_port()}"
    nodes = [
        Elastic(1, nnodes=2, rdzv_endpoint=endpoint, node_rank=number, timeout=60)
        for number in range(2)
    ]
    failed: list[BaseException] = []

    def launch(node: Elastic) -> None:
        try:
            node.launch(work)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=launch, args=(node,)) for node in nodes]
    for thread in reversed(threads):
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [fact["sum"] for fact in facts(tmp_path)] == [2.0, 2.0]
    assert [fact["ranks"] for fact in facts(tmp_path)] == [[0, 0, 2], [1, 0, 2]]
    assert [node.leads() for node in nodes] == [True, False]


def test_under_torchrun_the_group_is_joined_also_after_a_restart(tmp_path: Path) -> None:
    body = """
    assert adapters.launcher("elastic").is_launched()
    tensor = torch.ones(1)
    dist.all_reduce(tensor)
    group.exchange(b"")
    note(group, sum=tensor.item(), id=group.id)
    if group.rank == 1 and group.restarts == 0:
        os._exit(3)
    dist.all_reduce(tensor)
    """
    work = job(tmp_path, body)
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1"]
    address = f"--rdzv-endpoint=localhost:{free_port()}"
    done = subprocess.run(
        [sys.executable, *command, "--rdzv-backend=c10d", address, "job.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    both = facts(tmp_path, 0) + facts(tmp_path, 1)
    assert [fact["sum"] for fact in both] == [2.0] * 4
    assert len({fact["id"] for fact in both}) == 1
    assert work.name == "train"


SCENES = """
import json, os, sys, time
import torch, torch.distributed as dist
from flowyml import adapters
from flowyml.interfaces import Group
from flowyml_pytorch import Elastic

def scene(name, *ranks):
    # Processes with such environments join a group; a fork has all that is imported already.
    for variables in ranks:
        if os.fork() == 0:
            os.environ.update({key: str(value) for key, value in variables.items()})
            start = time.monotonic()
            try:
                with Elastic(timeout=8).join() as group:
                    said = f"joined {group.rank} {group.world_size} {dist.get_backend()}"
            except BaseException as error:
                said = f"{type(error).__name__}: {error}"
            rank = variables["RANK"]
            text = json.dumps([name, rank, said, time.monotonic() - start]) + "\\n"
            os.write(1, text.encode())
            os._exit(0)

def place(rank, size, port, **more):
    return {
        "RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": rank, "MASTER_ADDR": "localhost",
        "MASTER_PORT": port, **more,
    }

used, *ports = [int(port) for port in sys.argv[1:]]
scene("alone", place(0, 1, ports[0]))
scene("two", place(0, 2, ports[1]), place(1, 2, ports[1]))
scene("in use", place(0, 2, used))
scene("nobody", place(1, 2, ports[2]))
scene("unknown", place(1, 2, ports[2], MASTER_ADDR="nowhere.invalid"))
scene("too few", place(0, 3, ports[3]), place(1, 3, ports[3]))
scene("twice", place(0, 3, ports[4]), place(1, 3, ports[4]), place(1, 3, ports[4]))
scene("sizes", place(0, 2, ports[5]), place(1, 3, ports[5]), place(2, 3, ports[5]))
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
"""


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, list[str]]]:
    """Return what processes said that joined a group, or couldn't, by scene and rank."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "scenes.py").write_text(SCENES)
    with socket.create_server(("", 0)) as used:
        ports = [used.getsockname()[1], *(free_port() for _ in range(6))]
        done = subprocess.run(
            [sys.executable, "scenes.py", *map(str, ports)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    assert done.stderr == ""
    said: dict[str, dict[int, list[str]]] = {}
    for name, rank, text, seconds in map(json.loads, done.stdout.splitlines()):
        assert seconds < 30
        said.setdefault(name, {}).setdefault(rank, []).append(text)
    return said


def test_processes_that_others_started_join(joined: dict[str, dict[int, list[str]]]) -> None:
    assert joined["alone"] == {0: ["joined 0 1 gloo"]}
    assert joined["two"] == {0: ["joined 0 2 gloo"], 1: ["joined 1 2 gloo"]}


@pytest.mark.parametrize(
    ("scene", "rank", "message"),
    [
        ("in use", 0, r"Rank 0 can't listen on port \d+, as another program does"),
        ("nobody", 1, r"Rank 1 can't reach rank 0 at localhost:\d+ \(MASTER_ADDR and MASTER_PORT"),
        ("unknown", 1, r"Rank 1 can't reach rank 0 at nowhere.invalid:\d+"),
        ("too few", 0, r"Rank 2 didn't come to localhost:\d+ within 8 s, where rank \d waited"),
        ("too few", 1, r"Rank 2 didn't come to \S+ within 8 s, where rank \d waited. WORLD_SIZE"),
        ("sizes", 0, r"WORLD_SIZE is 2 for rank 0, and 3 for rank 1 \(process \d+\)"),
        ("sizes", 1, r"The processes were told different numbers of them: WORLD_SIZE is \d for"),
    ],
)
def test_what_keeps_processes_from_joining_is_said(
    joined: dict[str, dict[int, list[str]]], scene: str, rank: int, message: str
) -> None:
    (said,) = joined[scene][rank]
    assert said.startswith("LaunchError: ")
    assert re.search(message, said), said


def test_two_processes_of_one_rank_are_refused(joined: dict[str, dict[int, list[str]]]) -> None:
    said = [text for texts in joined["twice"].values() for text in texts]
    found = r"2 processes have RANK 1; one is rank 1 \(process \d+\). Each needs its own"
    late = r"Rank \d didn't come to \S+ within 8 s, where rank \d waited"  # on a busy machine
    assert len(said) == 3
    assert all(re.match(f"LaunchError: ({found}|{late})", text) for text in said), said
    assert "RANK 1" in " ".join(said)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RANK": None}, r"RANK is missing in its environment, which has WORLD_SIZE=2, LOCAL_RANK"),
        ({"MASTER_ADDR": "", "MASTER_PORT": None}, r"MASTER_ADDR, MASTER_PORT are missing"),
        ({"RANK": "2"}, r"RANK is 2, but WORLD_SIZE is 2, so ranks go from 0 to 1"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE is 'two', which is no number"),
        ({"MASTER_PORT": "70000"}, r"MASTER_PORT is 70000, which is no port"),
    ],
)
def test_an_environment_that_cannot_be_is_refused(
    changes: dict[str, str | None], message: str
) -> None:
    variables = dict.fromkeys(("RANK", "LOCAL_RANK"), "1") | {"WORLD_SIZE": "2"}
    variables |= {"MASTER_ADDR": "here", "MASTER_PORT": "29500"}
    changed = {name: value for name, value in (variables | changes).items() if value is not None}
    with pytest.raises(LaunchError, match=message):
        Place.of(changed)


def test_a_process_is_launched_when_it_has_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = adapters.launcher("elastic")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert not launcher.is_launched()
    assert launcher.group() is None
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not launcher.is_launched()
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert launcher.is_launched()
    # What a rank starts has its variables too.
    monkeypatch.setenv("FLOWYML_ELASTIC", json.dumps({"parent": os.getpid()}))
    assert not launcher.is_launched()
    monkeypatch.setenv("FLOWYML_ELASTIC", json.dumps({"parent": os.getppid()}))
    assert launcher.is_launched()


def test_a_port_that_is_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server(("", 0)) as used:
        endpoint = f"localhost:{used.getsockname()[1]}"
        with pytest.raises(LaunchError, match=rf"port \d+ of rdzv_endpoint='{endpoint}' is in use"):
            Elastic(1, rdzv_endpoint=endpoint).launch(script(tmp_path, ""))


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, r"2 machines were to meet at localhost:\d+ within 1 s as 'train-1', and didn't"),
        (1, r"nobody listened at rdzv_endpoint='localhost:\d+' within 1 s"),
    ],
)
def test_machines_that_do_not_come_are_missed(tmp_path: Path, number: int, message: str) -> None:
    endpoint = f"localhost:{free_port()}"
    node = Elastic(1, nnodes=2, rdzv_endpoint=endpoint, node_rank=number, timeout=1)
    with pytest.raises(LaunchError, match=message):
        node.launch(script(tmp_path, ""))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
def test_a_process_for_each_gpu_needs_gpus(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=r"nproc_per_node='gpu' .* torch sees none here"):
        Elastic("gpu").launch(script(tmp_path, ""))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nproc_per_node": 0}, ValueError, "nproc_per_node is at least 1, not 0"),
        ({"nproc_per_node": "all"}, TypeError, "a number, 'gpu', 'cpu' or 'auto', not 'all'"),
        ({"nproc_per_node": 2.0}, TypeError, "not 2.0"),
        ({"nproc_per_node": True}, TypeError, "not True"),
        ({"nnodes": "4:1"}, ValueError, "a range goes upwards, unlike '4:1'"),
        ({"nnodes": "1:2:3"}, ValueError, "a range such as '1:4', not '1:2:3'"),
        ({"nnodes": 2}, ValueError, "nnodes=2 needs rdzv_endpoint='host:port'"),
        ({"nnodes": 1.5}, TypeError, "nnodes is a number"),
        ({"rdzv_endpoint": 29400}, TypeError, "rdzv_endpoint is a text, not 29400"),
        ({"node_rank": 1}, ValueError, "node_rank is 1, but nnodes is 1"),
        ({"rdzv_backend": "static"}, ValueError, "'static' needs node_rank"),
        ({"max_restarts": -1}, ValueError, "max_restarts is at least 0, not -1"),
        ({"timeout": 0}, ValueError, "timeout is more than 0 seconds"),
        ({"timeout": "1h"}, TypeError, "timeout is seconds or a timedelta, not '1h'"),
        ({"backend": 1}, TypeError, "backend is a text, not 1"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Elastic(**arguments)


def test_a_launcher_shows_and_records_what_it_was_given() -> None:
    assert repr(Elastic()) == "Elastic()"
    given = Elastic(2, backend="gloo", timeout=timedelta(minutes=1))
    assert repr(given) == "Elastic(nproc_per_node=2, backend='gloo', timeout=60.0)"
    assert given.settings() == {"nproc_per_node": 2, "backend": "gloo", "timeout": 60.0}
    assert given.leads()


def test_a_launcher_is_made_without_torch() -> None:
    code = (
        "import sys; from flowyml_pytorch import Elastic; from flowyml import adapters\n"
        "launcher = Elastic(2, max_restarts=1); repr(launcher), launcher.settings()\n"
        "found = adapters.launcher('elastic')\n"
        "assert [found.is_launched(), found.group(), found.device()] == [False, None, None]\n"
        "assert found.leads() and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def streamed(*parts: tuple[int, int, bytes]) -> tuple[str, str]:
    """Return what is shown of bytes that ranks write: (rank, 1 or 2, bytes) in turn."""
    out, err = io.StringIO(), io.StringIO()
    real = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err
    try:
        with Streams({}, {}) as streams:
            envs = {rank: {"RANK": str(rank)} for rank in range(2)}
            where = streams.reify(envs)
            for rank, number, data in parts:
                path = (where.stdouts if number == 1 else where.stderrs)[rank]
                with Path(path).open("wb", buffering=0) as file:
                    file.write(data)
                time.sleep(0.05)  # so that it is read by itself, mostly; nothing hangs on it
    finally:
        sys.stdout, sys.stderr = real
    return out.getvalue(), err.getvalue()


def screen(text: str) -> list[str]:
    """Return the lines that a terminal shows."""
    lines = []
    for line in text.split("\n"):
        shown = ""
        for part in line.split("\r"):
            shown = part + shown[len(part) :]
        lines.append(shown.rstrip())
    return lines


def test_lines_stay_whole_whatever_pieces_they_come_in() -> None:
    out, _ = streamed((0, 1, b"one "), (1, 1, b"other\n"), (0, 1, "wörd".encode()[:2]))
    assert screen(out)[0] == "[rank 1] other"
    assert screen(out)[1].startswith("[rank 0] one w")
    out, _ = streamed((0, 1, "ö".encode()[:1]), (0, 1, "ö".encode()[1:] + b"\r\nnext\n"))
    assert screen(out) == ["[rank 0] ö", "[rank 0] next", ""]


def test_a_progress_bar_stays_one_line_below_what_others_print() -> None:
    _, err = streamed(
        (0, 2, b"\r 10%"), (0, 2, b"\r 20%"), (1, 2, b"note\n"), (0, 2, b"\r 99%"), (0, 2, b"\n")
    )
    assert screen(err) == ["[rank 1] note", "[rank 0]  99%", ""]
    assert "\r[rank 0]  20%" in err


def test_what_nobody_reads_holds_no_rank_up(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        with Streams({}, {}) as streams:
            path = streams.reify({0: {"RANK": "0"}}).stdouts[0]
            with Path(path).open("wb", buffering=0) as file:
                for _ in range(100):
                    file.write(b"x" * 10_000 + b"\n")
