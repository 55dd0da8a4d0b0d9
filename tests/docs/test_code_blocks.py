"""Executes every ```python block of the README and the pages, as a reader would.

The blocks of a page become one script, at the line numbers they have in the page, so that a
traceback points there. The script is a real file, because classes that are saved and loaded need a
real module. Where a ```text block follows a ```python block, it is what that block prints. Only a
comment on the line above it leaves a block out: `<!-- not executed: reason -->`.
"""

import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

FENCE = re.compile(r"(?P<indent> *)(?P<ticks>`{3,}|~{3,}) *(?P<language>[\w+-]*)")
OPT_OUT = re.compile(r"\s*<!-- not executed\b(?P<reason>.*)-->\s*")
SEPARATOR = "<< end of block >>"
SECONDS = 120


@dataclass(frozen=True)
class Block:
    language: str
    line: int  # of its first line in the page, from 1
    code: str
    above: str  # the line above its fence
    follows: bool  # only blank lines stand between the previous block and this one

    @property
    def is_executed(self) -> bool:
        """True for Python without an opt-out; an opt-out without a reason is an error."""
        if self.language != "python":
            return False
        opt_out = OPT_OUT.fullmatch(self.above)
        if opt_out is None:
            return True
        assert opt_out["reason"].strip(" :"), f"line {self.line}: not executed, for what reason?"
        return False


def blocks_of(page: str) -> list[Block]:
    """The fenced blocks of a page of Markdown, in order."""
    blocks = []
    lines = page.splitlines()
    end = -1  # the line that closed the previous block
    number = 0
    while number < len(lines):
        fence = FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        start = number + 1
        number = start
        while number < len(lines) and lines[number].strip() != fence["ticks"]:
            number += 1
        blocks.append(
            Block(
                language=fence["language"],
                line=start + 1,
                code=textwrap.dedent("\n".join(lines[start:number])),
                above=lines[start - 2] if start >= 2 else "",
                follows=end >= 0 and not "".join(lines[end + 1 : start - 1]).strip(),
            )
        )
        end = number
        number += 1
    return blocks


def script_of(blocks: list[Block]) -> str:
    """The executed blocks at their own lines; each closing fence becomes the separator."""
    lines: list[str] = []
    for block in blocks:
        if block.is_executed:
            lines += [""] * (block.line - 1 - len(lines))
            lines += block.code.split("\n")
            # A process that this script starts may import it again, and must not print.
            lines.append(f"__name__ == '__main__' and print({SEPARATOR!r}, flush=True)")
    return "\n".join(lines)


def run_page(page: str, folder: Path, stem: str = "page") -> list[tuple[Block, str]]:
    """Run a page in a folder; return each executed block with what it printed."""
    blocks = blocks_of(page)
    script = folder / f"{stem}.py"
    script.write_text(script_of(blocks), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if not name.startswith("FLOWYML_")}
    done = subprocess.run(
        [sys.executable, "-u", script.name],
        cwd=folder,
        env=env | {"PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    executed = [block for block in blocks if block.is_executed]
    printed = done.stdout.split(f"{SEPARATOR}\n")[:-1]
    return list(zip(executed, printed, strict=True))


def check_page(page: str, folder: Path, stem: str = "page") -> None:
    printed = {block.line: text for block, text in run_page(page, folder, stem)}
    blocks = blocks_of(page)
    for block, output in pairwise(blocks):
        if block.line in printed and output.language == "text" and output.follows:
            assert printed[block.line].rstrip() == output.code.rstrip(), f"line {output.line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_the_code_of_a_page_runs_and_prints_what_the_page_says(page, tmp_path):
    # The prefix keeps a page from hiding a module of its own name.
    check_page(page.read_text(encoding="utf-8"), tmp_path, f"page_{page.stem.lower()}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_that_is_not_executed_is_valid_too(page):
    for block in blocks_of(page.read_text(encoding="utf-8")):
        if block.language == "python":
            compile("\n" * (block.line - 1) + block.code, page.name, "exec", dont_inherit=True)


def fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```\n"


def test_blocks_of_a_page_share_one_script(tmp_path):
    check_page(
        fenced("python", "x = 1")
        + "between\n\n"
        + fenced("python", "print(x, __name__)")
        + "\n"
        + fenced("text", "1 __main__"),
        tmp_path,
    )


def test_a_wrong_output_is_noticed(tmp_path):
    with pytest.raises(AssertionError, match="line 6"):
        check_page(fenced("python", "print(1)") + "\n" + fenced("text", "2"), tmp_path)


def test_a_text_block_further_down_is_not_an_output(tmp_path):
    check_page(fenced("python", "print(1)") + "For example:\n" + fenced("text", "2"), tmp_path)


def test_a_failing_block_is_shown_at_its_line_in_the_page(tmp_path):
    with pytest.raises(AssertionError, match=r"line 5, in <module>\s+1 / 0"):
        check_page("# Title\n\n" + fenced("python", "x = 1\n1 / 0"), tmp_path)


def test_an_indented_block_is_dedented(tmp_path):
    page = textwrap.indent(fenced("python", "if True:\n    print(1)") + fenced("text", "1"), "  ")
    check_page(page, tmp_path)


def test_a_block_opts_out_with_a_reason(tmp_path):
    check_page("<!-- not executed: needs a GPU -->\n" + fenced("python", "1 / 0"), tmp_path)


@pytest.mark.parametrize("comment", ["<!-- not executed -->", "<!-- not executed: -->"])
def test_a_block_does_not_opt_out_without_a_reason(comment, tmp_path):
    with pytest.raises(AssertionError, match="for what reason"):
        check_page(f"{comment}\n" + fenced("python", "1 / 0"), tmp_path)
