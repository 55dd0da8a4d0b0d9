"""What is told of git repositories: real ones, made with the git that is installed."""

import os
import select
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flowyml.environment import git as git_module
from flowyml.environment import repository
from flowyml.environment.commands import succeeds
from flowyml.environment.repository import describe

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

CONFIG = """\
[user]
    name = A
    email = a@example.org
[init]
    defaultBranch = main
[protocol "file"]
    allow = always
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory without anybody's settings."""
    home = tmp_path / "home"
    home.mkdir()
    (home / ".gitconfig").write_text(CONFIG)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(repository, "_SECONDS", 60.0)
    return home


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", folder, *arguments],  # noqa: S607
        check=True,
        capture_output=True,
        text=True,
        errors="surrogateescape",
    )
    return done.stdout.strip()


def commit(folder: Path) -> str:
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "m")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A repository with one commit."""
    folder = tmp_path / "work"
    folder.mkdir()
    git(folder, "init", "--quiet")
    (folder / "train.py").write_text("lr = 1\n")
    commit(folder)
    return folder


def told(folder: Path) -> dict[str, Any]:
    found = describe(folder)
    assert found is not None
    return found


def test_a_clean_repository(work: Path) -> None:
    (work / "package").mkdir()
    assert describe(work / "package") == {
        "root": str(work), "commit": git(work, "rev-parse", "HEAD"), "branch": "main",
        "remote": None, "dirty": False, "changed": 0, "diff": None, "untracked": 0,
        "untracked_digest": None,
    }  # fmt: skip


def test_there_is_none(tmp_path: Path) -> None:
    (tmp_path / ".git").mkdir()  # which alone makes no repository
    assert describe(tmp_path) is None
    assert describe(tmp_path / "missing" / "deep") is None


def test_every_change_of_a_tracked_file_changes_the_diff(work: Path) -> None:
    seen = set()
    for text in ("lr = 2\n", "lr = 3\n", "\0\1", "\0\2"):
        (work / "train.py").write_text(text)
        found = told(work)
        assert (found["dirty"], found["changed"], found["untracked"]) == (True, 1, 0)
        assert found["commit"] == git(work, "rev-parse", "HEAD")
        seen.add(found["diff"])
    (work / "train.py").write_text("lr = 1\n")
    (work / "train.py").chmod(0o755)
    seen.add(told(work)["diff"])
    (work / "train.py").unlink()
    seen.add(told(work)["diff"])
    assert len(seen) == 6
    git(work, "rm", "--quiet", "--cached", "train.py")
    assert told(work)["diff"] in seen  # whether it is staged makes no difference


def test_the_diff_is_the_same_whatever_the_user_has_set(work: Path, home: Path) -> None:
    (work / "b.py").write_text("\n".join("bacaddddbada"))
    commit(work)
    (work / "b.py").write_text("\n".join("ddadcbacaaaa"))
    (work / "train.py").rename(work / "moved.py")
    git(work, "add", "--all")
    before = told(work)
    (work / "order").write_text("train.py\n")
    (work / ".git/info/exclude").write_text("order\n")
    (home / ".gitconfig").write_text(
        f"{CONFIG}[diff]\n renames = copies\n noprefix = true\n context = 9\n orderFile = order\n"
        "algorithm = histogram\n mnemonicPrefix = true\n external = false\n[color]\n ui = always\n"
        "[status]\n renames = true\n showUntrackedFiles = no\n relativePaths = true\n"
        "[core]\n quotePath = false\n abbrev = 12\n"
    )
    assert told(work) == before


def test_untracked_files_count_with_their_names_and_content(work: Path) -> None:
    (work / ".gitignore").write_text("*.log\n")
    commit(work)
    (work / "x.log").write_text("ignored")
    assert told(work)["dirty"] is False
    (work / "new").mkdir()
    file = work / "new/helper.py"
    seen = set()
    for text in ("a", "b"):
        file.write_text(text)
        found = told(work)
        assert (found["dirty"], found["changed"], found["untracked"]) == (True, 0, 1)
        assert found["diff"] is None
        seen.add(found["untracked_digest"])
    file.rename(work / "new/other.py")
    seen.add(told(work)["untracked_digest"])
    (work / "link").symlink_to("nowhere")
    seen.add(told(work)["untracked_digest"])
    (work / "link").unlink()
    (work / "link").symlink_to("nowhen!")
    seen.add(told(work)["untracked_digest"])
    assert len(seen) == 5


def test_of_large_and_of_many_untracked_files_only_so_much_is_read(
    work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repository, "_LARGEST", 10)
    monkeypatch.setattr(repository, "_MOST_BYTES", 25)
    monkeypatch.setattr(repository, "_MOST_FILES", 5)
    content = {"1": "x" * 11, "2": "x" * 10, "3": "x" * 10, "4": "x" * 6, "5": "", "6": "x"}
    for name, text in content.items():
        (work / name).write_text(text)
    before = told(work)
    assert before["untracked"] == 6
    for name, text in content.items():
        (work / name).write_text(text.replace("x", "y"))
        was_read = told(work)["untracked_digest"] != before["untracked_digest"]
        assert was_read == (name in "23"), name
        (work / name).write_text(text)


def test_a_file_that_cannot_be_read_is_told_by_its_name(work: Path) -> None:
    (work / "secret").write_text("x")
    (work / "secret").chmod(0)
    os.mkfifo(work / "pipe")
    (work / "loop").symlink_to("loop")
    found = told(work)
    assert found["untracked"] == 2  # git leaves pipes out
    assert found["untracked_digest"] is not None
    assert repository._content(os.fsencode(work / "gone"), 100) == (b"", 0)
    assert repository._content(os.fsencode(work / "pipe"), 100) == (b"0", 0)  # nor is it opened


def test_names_that_are_no_utf8(work: Path) -> None:
    raw = os.fsencode(work) + b"/caf\xe9\n.py"
    Path(os.fsdecode(raw)).write_text("x")
    assert told(work)["untracked"] == 1
    assert told(work)["untracked_digest"] is not None
    commit(work)
    Path(os.fsdecode(raw)).write_text("y")
    assert told(work)["changed"] == 1
    folder = Path(os.fsdecode(os.fsencode(work.parent) + b"/\xff"))
    work.rename(folder)
    assert told(folder)["root"] == str(folder)
    assert told(folder)["changed"] == 1


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_before_the_first_commit(tmp_path: Path, kind: str) -> None:
    git(tmp_path, "init", "--quiet", f"--object-format={kind}")
    (tmp_path / "home/.gitconfig").chmod(0o644)
    (tmp_path / ".git/info/exclude").write_text("home\n")
    assert told(tmp_path)["dirty"] is False
    (tmp_path / "a.py").write_text("1")
    git(tmp_path, "add", "a.py")
    (tmp_path / "b.py").write_text("1")
    found = told(tmp_path)
    assert (found["commit"], found["branch"]) == (None, "main")
    assert (found["changed"], found["untracked"], found["dirty"]) == (1, 1, True)
    (tmp_path / "a.py").write_text("2")
    assert found["diff"] is not None
    assert told(tmp_path)["diff"] not in (None, found["diff"])
    made = commit(tmp_path)
    assert told(tmp_path)["commit"] == made
    assert len(made) == (40 if kind == "sha1" else 64)


def test_no_branch_is_checked_out(work: Path) -> None:
    git(work, "checkout", "--quiet", "--detach")
    found = told(work)
    assert (found["branch"], found["dirty"]) == (None, False)
    assert found["commit"] == git(work, "rev-parse", "HEAD")


def test_a_conflict_counts_as_a_change(work: Path) -> None:
    git(work, "checkout", "--quiet", "-b", "other")
    (work / "train.py").write_text("lr = 2\n")
    commit(work)
    git(work, "checkout", "--quiet", "main")
    (work / "train.py").write_text("lr = 3\n")
    commit(work)
    with pytest.raises(subprocess.CalledProcessError):
        git(work, "merge", "other")
    found = told(work)
    assert (found["branch"], found["changed"]) == ("main", 1)
    assert found["diff"] is not None


def test_a_second_work_tree(work: Path, tmp_path: Path) -> None:
    git(work, "config", "core.bare", "true")  # as where all work trees are beside the repository
    second = tmp_path / "second"
    git(work, "worktree", "add", "--quiet", "-b", "topic", str(second))
    (second / "train.py").write_text("lr = 2\n")
    found = told(second)
    assert (found["root"], found["branch"]) == (str(second), "topic")
    assert (found["changed"], found["untracked"]) == (1, 0)
    here = told(work)
    assert (here["branch"], here["dirty"], here["changed"]) == ("main", None, None)


def test_a_bare_repository_has_no_work_tree(work: Path, tmp_path: Path) -> None:
    git(tmp_path, "clone", "--quiet", "--bare", str(work), "bare.git")
    assert describe(tmp_path / "bare.git") is None


def with_submodule(work: Path, tmp_path: Path, *, whole: bool = False) -> Path:
    """Add a submodule, which may have its own files in it as if it had been cloned by itself."""
    library = tmp_path / "library"
    library.mkdir()
    git(library, "init", "--quiet")
    (library / "layers.py").write_text("1")
    commit(library)
    if whole:
        git(work, "clone", "--quiet", str(library), "sub module")
    git(work, "submodule", "--quiet", "add", str(library), "sub module")
    commit(work)
    return work / "sub module"


def test_what_is_not_committed_in_a_submodule_counts(work: Path, tmp_path: Path) -> None:
    submodule = with_submodule(work, tmp_path)
    assert told(work)["dirty"] is False
    assert told(submodule)["root"] == str(submodule)
    seen = set()
    for text in ("2", "3"):
        (submodule / "layers.py").write_text(text)
        found = told(work)
        assert (found["dirty"], found["changed"]) == (True, 1)
        seen.add(found["diff"])
    (work / "train.py").write_text("lr = 2\n")
    found = told(work)
    assert found["changed"] == 2
    seen.add(found["diff"])
    (submodule / "layers.py").write_text("1")
    found = told(work)
    assert found["changed"] == 1
    assert found["diff"] is not None
    seen.add(found["diff"])
    (submodule / "layers.py").write_text("3")
    commit(submodule)  # which the repository around it doesn't have
    found = told(work)
    assert found["changed"] == 2
    seen.add(found["diff"])
    assert len(seen) == 5
    (submodule / "new.py").write_text("x")
    found = told(work)
    assert found["untracked"] == 1
    (submodule / "new.py").write_text("y")
    assert told(work)["untracked_digest"] not in (None, found["untracked_digest"])


def test_a_submodule_of_which_nothing_is_known_leaves_it_open(work: Path, tmp_path: Path) -> None:
    submodule = with_submodule(work, tmp_path)
    (Path(git(submodule, "rev-parse", "--absolute-git-dir")) / "index").write_text("damaged")
    found = told(work)
    assert (found["dirty"], found["changed"], found["diff"]) == (None, None, None)
    (work / "train.py").write_text("lr = 2\n")
    assert told(work)["changed"] is None


def test_a_submodule_outside_of_its_repository_is_left_out(work: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    git(outside, "init", "--quiet")
    (outside / "x").write_text("untracked")
    (work / "link").symlink_to("../outside")
    (work / ".gitmodules").write_text(
        "".join(f'[submodule "{path}"]\npath = {path}\n' for path in ("../outside", "link", "."))
    )
    commit(work)
    assert told(work)["dirty"] is False


@pytest.fixture
def trap(tmp_path: Path) -> tuple[Path, Path]:
    """A program that leaves a mark when it is run, and the mark."""
    marker = tmp_path / "mark"
    program = tmp_path / "trap.sh"
    program.write_text(f"#!/bin/sh\ntouch {marker}\ncat 2>/dev/null\ntrue\n")
    program.chmod(0o755)
    return program, marker


def set_fsmonitor(folder: Path, program: Path) -> None:
    git(folder, "config", "core.fsmonitor", str(program))


def set_filter(folder: Path, program: Path) -> None:
    git(folder, "config", "filter.evil.clean", str(program))


def set_odd_filter(folder: Path, program: Path) -> None:
    (folder / ".gitattributes").write_text("*.py filter=ev=il\n")
    git(folder, "config", "filter.ev=il.clean", str(program))


def set_required_process(folder: Path, program: Path) -> None:
    git(folder, "config", "filter.evil.process", str(program))
    git(folder, "config", "filter.evil.required", "true")


def set_included_filter(folder: Path, program: Path) -> None:
    (folder / ".git/more").write_text(f'[filter "evil"]\nclean = {program}\n')
    git(folder, "config", "include.path", "more")


def set_filter_of_the_work_tree(folder: Path, program: Path) -> None:
    git(folder, "config", "extensions.worktreeConfig", "true")
    git(folder, "config", "--worktree", "filter.evil.clean", str(program))


def set_external_diff(folder: Path, program: Path) -> None:
    git(folder, "config", "diff.external", str(program))


def set_diff_driver(folder: Path, program: Path) -> None:
    git(folder, "config", "diff.evil.command", str(program))


def set_textconv(folder: Path, program: Path) -> None:
    git(folder, "config", "diff.evil.textconv", str(program))


def set_hook(folder: Path, program: Path) -> None:
    shutil.copy(program, folder / ".git/hooks/post-index-change")


@pytest.mark.parametrize(
    "set_trap",
    [
        set_fsmonitor, set_filter, set_odd_filter, set_required_process, set_included_filter,
        set_filter_of_the_work_tree, set_external_diff, set_diff_driver, set_textconv, set_hook,
    ],
)  # fmt: skip
@pytest.mark.parametrize("where", ["repository", "submodule"])
def test_no_program_that_a_repository_names_is_run(
    set_trap: Callable[[Path, Path], None],
    where: str,
    work: Path,
    tmp_path: Path,
    trap: tuple[Path, Path],
) -> None:
    program, marker = trap
    folder = work if where == "repository" else with_submodule(work, tmp_path, whole=True)
    (folder / ".gitattributes").write_text("*.py filter=evil diff=evil\n")
    commit(folder)
    if where == "submodule":
        commit(work)
    set_trap(folder, program)
    for path in folder.glob("*.py"):
        path.write_text("something else\n")
    found = told(work)
    assert not marker.exists()
    assert found["dirty"] is True
    assert found["diff"] is not None
    subprocess.run(["git", "-C", folder, "diff", "HEAD"], check=False, capture_output=True)  # noqa: S607
    subprocess.run(["git", "-C", folder, "status"], check=False, capture_output=True)  # noqa: S607
    assert marker.exists()  # the trap is one


def test_filters_of_the_user_are_run(work: Path, home: Path, tmp_path: Path) -> None:
    (home / ".gitconfig").write_text(f'{CONFIG}[filter "upper"]\n clean = tr a-z A-Z\n')
    (work / ".gitattributes").write_text("*.txt filter=upper\n")
    (work / "a.txt").write_text("abc")
    commit(work)
    (work / "a.txt").write_text("ABC")
    assert told(work)["dirty"] is False


def test_what_a_filter_of_the_user_runs_by_the_repositorys_settings_is_not_run(
    work: Path, home: Path, trap: tuple[Path, Path]
) -> None:
    program, marker = trap
    lfs = "eval $(git config lfs.extension.evil.clean); cat"
    (home / ".gitconfig").write_text(f'{CONFIG}[filter "lfs"]\n clean = "{lfs}"\n')
    (work / ".gitattributes").write_text("*.py filter=lfs\n")
    commit(work)
    git(work, "config", "lfs.extension.evil.clean", str(program))
    (work / "train.py").write_text("lr = 2\n")
    assert told(work)["changed"] == 1
    assert not marker.exists()
    git(work, "diff", "HEAD")
    assert marker.exists()


def test_a_work_tree_that_the_repository_claims_elsewhere_is_not_looked_at(
    work: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file").write_text("x")
    git(work, "config", "core.worktree", str(tmp_path / "elsewhere"))
    assert told(work)["dirty"] is False


def test_what_a_partial_clone_lacks_is_not_fetched(
    work: Path, tmp_path: Path, trap: tuple[Path, Path]
) -> None:
    program, marker = trap
    (work / "train.py").write_text("lr = 2\n")
    commit(work)
    git(work, "config", "uploadpack.allowFilter", "true")
    git(work, "config", "uploadpack.allowAnySHA1InWant", "true")
    clone = tmp_path / "clone"
    url = f"file://{work}"
    git(tmp_path, "clone", "--quiet", "--no-checkout", "--filter=blob:none", url, str(clone))
    git(clone, "reset", "--quiet")
    program.write_text(f"#!/bin/sh\ntouch {marker}\nexit 1\n")
    git(clone, "config", "remote.origin.uploadpack", str(program))
    (clone / "train.py").write_text("lr = 3\n")
    found = told(clone)
    assert not marker.exists()
    assert found["changed"] == 1
    assert found["diff"] is None  # what there was before can't be had
    subprocess.run(["git", "-C", clone, "diff", "HEAD"], check=False, capture_output=True)  # noqa: S607
    assert marker.exists()


def test_nothing_in_the_repository_is_written(work: Path) -> None:
    (work / "train.py").write_text("lr = 1\n")  # so that git would bring its index up to date
    files = {p: p.stat().st_mtime_ns for p in [work, *work.rglob("*")] if p.name != "train.py"}
    told(work)
    assert {p: p.stat().st_mtime_ns for p in files} == files
    assert {*work.rglob("*"), work} == {*files, work / "train.py"}


def test_variables_of_git_do_not_lead_elsewhere(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as in a hook of git
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))
    assert told(work)["dirty"] is False


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@example.org/a.git", "https://example.org/a.git"),
        ("https://secret@example.org/a.git?token=secret#secret", "https://example.org/a.git"),
        ("ssh://git@example.org:22/a@b.git", "ssh://example.org:22/a@b.git"),
        ("git@example.org:a/b.git", "git@example.org:a/b.git"),
        ("helper::https://u:secret@example.org/a", "helper::https://example.org/a"),
        ("../there", "../there"),
    ],
)
def test_a_remote_is_told_without_credentials(work: Path, url: str, shown: str) -> None:
    git(work, "remote", "add", "zoo", url)
    assert told(work)["remote"] == shown
    git(work, "remote", "add", "another", "/another")
    assert told(work)["remote"] == "/another"
    git(work, "remote", "add", "origin", url)
    assert told(work)["remote"] == shown


def unknown(found: dict[str, Any]) -> bool:
    keys = ("remote", "dirty", "changed", "diff", "untracked", "untracked_digest")
    return all(found[key] is None for key in keys)


def test_without_git_the_commit_is_known(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = git(work, "rev-parse", "HEAD")
    git(work, "tag", "t")
    git(work, "branch", "feature/x")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    found = told(work)
    assert (found["commit"], found["branch"], unknown(found)) == (last, "main", True)
    git(work, "pack-refs", "--all")
    assert told(work)["commit"] == last
    git(work, "checkout", "--quiet", "feature/x")
    assert told(work)["branch"] == "feature/x"
    git(work, "checkout", "--quiet", "--detach")
    assert (told(work)["commit"], told(work)["branch"]) == (last, None)
    git(work, "worktree", "add", "--quiet", "second")
    assert (told(work / "second")["commit"], told(work / "second")["branch"]) == (last, "second")
    git(work, "checkout", "--quiet", "--orphan", "new")
    assert (told(work)["commit"], told(work)["branch"]) == (None, "new")


@pytest.mark.parametrize("text", ["ref: ../../secret", "ref: /dev/zero", "ref: refs/../x", "", "x"])
def test_a_head_that_leads_elsewhere_is_not_followed(work: Path, text: str) -> None:
    (work.parent / "secret").write_text("a" * 40)
    (work / ".git/HEAD").write_text(text)
    assert git_module.head(work) == (None, None)


def fake_git(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "git").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "exit 0",
        "printf 'no\\0settings\\0at all'",
        "sleep 1000",
        "sleep 1000 & exit 0",  # which keeps the pipe open
        "yes",
        "kill -9 $$",
        'case "$*" in *config*) exec "$REAL" "$@";; esac; sleep 1000',
        'case "$*" in *config*) exec "$REAL" "$@";; esac; echo damaged',
    ],
)
def test_a_git_that_fails_or_hangs_leaves_it_unknown(
    script: str, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = git(work, "rev-parse", "HEAD")
    monkeypatch.setenv("REAL", str(shutil.which("git")))
    (tmp_path / "bin").mkdir()
    fake_git(tmp_path / "bin", script, monkeypatch)
    monkeypatch.setattr(repository, "_SECONDS", 0.3)
    found = told(work)
    assert (found["commit"], unknown(found)) == (last, True)


def test_a_git_that_knows_no_settings_from_the_environment_is_not_asked_more(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trap: tuple[Path, Path]
) -> None:
    program, marker = trap
    set_fsmonitor(work, program)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("REAL", str(shutil.which("git")))
    fake_git(tmp_path / "bin", 'unset GIT_CONFIG_COUNT; exec "$REAL" "$@"', monkeypatch)
    assert unknown(told(work))
    assert not marker.exists()


def test_a_repository_of_somebody_whom_git_does_not_trust(
    work: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("REAL", str(shutil.which("git")))
    script = 'GIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec "$REAL" "$@"'
    last = git(work, "rev-parse", "HEAD")
    fake_git(tmp_path / "bin", script, monkeypatch)
    found = told(work)
    assert (found["commit"], unknown(found)) == (last, True)


def test_what_a_command_started_ends_with_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nexec 3>{tmp_path}/pipe\nsleep 1000 & echo started >&3\nwait\n")
    program.chmod(0o755)
    assert not succeeds([str(program)], print, time.monotonic() + 0.5)
    os.set_blocking(reader, True)
    while select.select([reader], [], [], 60)[0]:  # something is said, or nobody can say anything
        if not os.read(reader, 100):
            break
    else:
        pytest.fail("it goes on")
    os.close(reader)


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    later = time.monotonic() + 60
    assert not succeeds([str(tmp_path / "missing")], print, later)
    assert not succeeds([str(tmp_path)], print, later)
    assert not succeeds(["a\0b"], print, later)


def test_many_threads_may_ask_at_once(work: Path) -> None:
    (work / "train.py").write_text("lr = 2\n")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(told(work))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [told(work)] * 8
