"""The command line: what is installed, what is stored, and whether it is intact.

Everything here reads metadata only, so that no framework is imported, apart from `reproduce`, which
runs the user's code, and `diff`, which compares contents value by value.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import attrs

from flowyml import adapters, encoding
from flowyml._version import __version__
from flowyml.assets import Asset
from flowyml.errors import AdapterError, FlowymlError, FlowymlWarning, StoreError, told
from flowyml.models import Model
from flowyml.properties import describe
from flowyml.summary import size_of


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status: 0, or 1 when something failed or is damaged."""
    parsed = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int | None] = parsed.command
    try:
        with warnings.catch_warnings(), _output_of_ours_alone():
            warnings.showwarning = _show_warning
            warnings.simplefilter("always", FlowymlWarning)  # shown, also where -W error is set
            return command(parsed) or 0
    except (FlowymlError, ValueError) as error:
        print(f"flowyml: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


@contextmanager
def _output_of_ours_alone() -> Iterator[None]:
    """Send to standard error what adapters write to file descriptor 1, past Python or not."""
    stdout = sys.stdout
    if stdout is not sys.__stdout__ or stdout is None or sys.stderr is None:
        yield
        return
    stdout.flush()
    one = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(
            one, "w", encoding=stdout.encoding, errors=_lenient(stdout.errors), closefd=False
        ) as sys.stdout:
            yield
    finally:
        sys.stdout = stdout
        stdout.flush()
        os.dup2(one, 1)
        os.close(one)


def _lenient(errors: str | None) -> str:
    return "backslashreplace" if errors in (None, "strict", "surrogateescape") else errors


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"flowyml: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="flowyml", description="Models as assets: described, verified, reproducible."
    )
    parser.add_argument("--version", action="version", version=f"flowyml {__version__}")
    parser.set_defaults(command=lambda _: parser.print_help())
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")

    def add(name: str, help: str, function: Callable[[argparse.Namespace], int | None]) -> Any:
        command = commands.add_parser(name, help=help, description=help)
        command.set_defaults(command=function)
        return command

    listed = add("adapters", "list the installed adapters", _adapters)
    listed.add_argument("--json", action="store_true", help="print JSON")
    listed.add_argument("--load", action="store_true", help="load them first, to see which work")
    listed.add_argument("--verbose", action="store_true", help="show tracebacks of broken ones")
    new = add("new-adapter", "write a small distribution for a new adapter", _new_adapter)
    new.add_argument("name", help="the framework's import name, as in Model.from_NAME")
    new.add_argument(
        "directory", nargs="?", help="a new or empty folder (by default ./flowyml-NAME)"
    )
    where = argparse.ArgumentParser(add_help=False)
    where.add_argument("--store", help="the store's directory ($FLOWYML_STORE or ./.flowyml)")

    def of_store(name: str, help: str, function: Callable[[argparse.Namespace], int | None]) -> Any:
        command = commands.add_parser(name, help=help, description=help, parents=[where])
        command.set_defaults(command=function)
        return command

    shown = (
        of_store("list", "list the assets of a store", _list),
        of_store("show", "show what is known about an asset", _show),
        of_store("runs", "list the runs of a store", _runs),
        of_store("stats", "show how much a store holds, and how much of it is shared", _stats),
    )
    for command in shown:
        command.add_argument("--json", action="store_true", help="print JSON")
    shown[1].add_argument("ref", help="name[@version]")
    repeated = of_store("reproduce", "run a run again, and compare its results", _reproduce)
    repeated.add_argument("run", metavar="RUN", help="its id, or as much of it as no other has")
    repeated.add_argument(
        "--trust",
        metavar="NAME",
        action="append",
        default=[],
        help="a class that loading the arguments may import, or mypkg.*; may be repeated",
    )
    repeated.add_argument(
        "--argument",
        metavar="NAME=JSON",
        action="append",
        default=[],
        help="the value of an argument that was masked or isn't in the store; may be repeated",
    )
    compared = (
        of_store("diff", "show what differs between two versions or two runs", _diff),
        of_store("explain", "say why the results of two versions or runs differ", _explain),
    )
    for command in compared:
        command.add_argument("before", metavar="A", help="name[@version], or a run's id")
        command.add_argument("after", metavar="B", help="another of the same kind")
        command.add_argument("--json", action="store_true", help="print JSON")
    compared[0].add_argument(
        "--no-values",
        action="store_false",
        dest="values",
        help="don't compare contents value by value, which imports their framework",
    )
    lineage = of_store("lineage", "show what an asset was made from, and what of it", _lineage)
    lineage.add_argument("ref", help="name[@version]")
    form = lineage.add_mutually_exclusive_group()
    form.add_argument("--mermaid", action="store_true", help="print a Mermaid flowchart")
    form.add_argument("--json", action="store_true", help="print JSON")
    verify = of_store("verify", "compare every byte with its digest", _verify)
    verify.add_argument("ref", nargs="?", help="name[@version]; everything by default")
    delete = of_store("delete", "delete one version", _delete)
    delete.add_argument("ref", help="name@version")
    gc = of_store("gc", "remove what no version refers to any more", _gc)
    gc.add_argument(
        "--grace", type=float, default=3600, help="seconds for which files are kept at least (3600)"
    )
    gc.add_argument(
        "--drop-kept",
        action="store_true",
        help="also remove arguments and results that steps kept by content",
    )
    export = of_store("export", "lay a version out as a plain folder", _export)
    export.add_argument("ref", help="name[@version]")
    export.add_argument("directory", help="a folder that doesn't exist yet")
    taken = of_store("import", "take in a folder that export laid out", _import)
    taken.add_argument("directory", help="the folder")
    taken.add_argument("--name", help="another name for it")
    return parser


def _store(parsed: argparse.Namespace) -> Any:
    from flowyml.store import Store

    return Store(parsed.store) if parsed.store else Store.default()


def _adapters(parsed: argparse.Namespace) -> None:
    infos = adapters.list()
    broken: list[str] = []
    if parsed.load:
        with redirect_stdout(sys.stderr):  # of threads that adapters start, too
            broken = [text for name in dict.fromkeys(i.name for i in infos) for text in _load(name)]
        infos = adapters.list()
    if parsed.json:
        _print_json([_adapter_as_data(info, parsed.verbose) for info in infos])
    else:
        _print_adapters(infos, parsed.verbose)
    if broken:
        raise AdapterError("\n".join(broken))


def _load(name: str) -> Iterator[str]:
    """Load an adapter; yield the text of the error if there is one, as in strict mode."""
    try:
        adapters.load(name)
    except AdapterError as error:
        yield str(error)


def _print_adapters(infos: Sequence[adapters.AdapterInfo], verbose: bool) -> None:
    rows = [
        (
            info.name,
            info.state,
            "none" if info.distribution is None else f"{info.distribution} {info.version}",
            _listed(info.frameworks, verbose),
            _listed(info.formats, verbose),
            _listed(info.types, verbose),
        )
        for info in infos
    ]
    _print_table(("name", "state", "distribution", "frameworks", "formats", "types"), rows)
    if any(info.state == "known" for info in infos):
        print("\n? is known once the adapter is loaded: flowyml adapters --load")
    for info in infos:
        for note in info.notes:
            print(f"\n{info} works, but {note}.")
        if info.error is not None:
            print(f"\n{info} is broken: {told(info.error)}")
            if verbose:
                print(_traceback(info.error), end="")


def _listed(texts: Sequence[str] | None, all_of_them: bool) -> str:
    if texts is None:
        return "?"
    if all_of_them or len(texts) <= _SHOWN + 1:
        return ", ".join(texts) or "-"
    return f"{', '.join(texts[:_SHOWN])} and {len(texts) - _SHOWN} more"


_SHOWN = 3


def _adapter_as_data(info: adapters.AdapterInfo, verbose: bool) -> dict[str, Any]:
    error = info.error
    data = {field.name: getattr(info, field.name) for field in attrs.fields(adapters.AdapterInfo)}
    data["error"] = None if error is None else told(error)
    if verbose:
        data["traceback"] = None if error is None else _traceback(error)
    return data


def _traceback(error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))
    return text.encode("utf-8", "backslashreplace").decode()


def _new_adapter(parsed: argparse.Namespace) -> None:
    from flowyml import new_adapter

    print(new_adapter.next_steps(new_adapter.write(parsed.name, parsed.directory)))


def _list(parsed: argparse.Namespace) -> None:
    store = _store(parsed)
    assets: list[Asset] = []
    damaged: list[str] = []
    for ref in store.refs():
        try:
            assets.append(store.get(ref))
        except StoreError as error:
            damaged.append(str(error))
    _print_assets(assets, parsed.json)
    if damaged:
        raise StoreError("\n".join(damaged))


def _print_assets(assets: list[Asset], as_json: bool) -> None:
    if as_json:
        _print_json([_as_data(asset) for asset in assets])
        return
    rows = [
        (
            str(asset.ref),
            stored.created_at.astimezone().strftime("%Y-%m-%d %H:%M"),
            size_of(stored.size),
            stored.type,
        )
        for asset in assets
        if (stored := asset.stored) is not None
    ]
    _print_table(("asset", "saved", "size", "type"), rows)


def _show(parsed: argparse.Namespace) -> None:
    asset = _store(parsed).get(parsed.ref)
    if parsed.json:
        _print_json(_as_data(asset))
        return
    if isinstance(asset, Model):
        print(asset.summary())
    else:
        print(asset.ref)
        for key, value in asset.metadata.properties.items():
            print(f"  {key}  {value}")
    stored = asset.stored
    assert stored is not None
    print(f"\nSaved {stored.created_at.astimezone():%Y-%m-%d %H:%M:%S}, {size_of(stored.size)}")
    print(f"  type     {stored.type}\n  format   {stored.format} ({stored.materializer})")
    print(f"  digest   {stored.digest}\n  restore  {stored.restore_reason or stored.restore}")
    if stored.required_trust:
        print(f"  trust    {', '.join(stored.required_trust)}")
    if stored.run:
        print(f"  run      {stored.run}, step {stored.step}")
    for parent in asset.parents:
        print(f"  {parent.relation.replace('_', ' ')}  {parent}")


def _verify(parsed: argparse.Namespace) -> None:
    found = _store(parsed).verify(parsed.ref)
    print(f"Intact: {found.versions} versions, {found.files} files, {size_of(found.size)}")


def _stats(parsed: argparse.Namespace) -> None:
    found = _store(parsed).stats()
    if parsed.json:
        _print_json(attrs.asdict(found))
        return
    print(f"{found.versions} versions of {size_of(found.logical)} in all")
    print(f"{found.blobs} blobs of {size_of(found.stored)} on disk")


def _delete(parsed: argparse.Namespace) -> None:
    _store(parsed).delete(parsed.ref)
    print(f"Deleted {parsed.ref}. 'flowyml gc' frees what only it held.")


def _gc(parsed: argparse.Namespace) -> None:
    found = _store(parsed).gc(grace=parsed.grace, drop_kept=parsed.drop_kept)
    print(
        f"Removed {found.blobs} blobs of {size_of(found.size)} and what {found.unfinished} "
        f"unfinished saves had left. Kept was what is younger than {parsed.grace:.0f} s."
    )


def _export(parsed: argparse.Namespace) -> None:
    print(_store(parsed).export(parsed.ref, parsed.directory))


def _import(parsed: argparse.Namespace) -> None:
    print(_store(parsed).import_(parsed.directory, parsed.name).ref)


def _runs(parsed: argparse.Namespace) -> None:
    from flowyml.records import to_data
    from flowyml.running import runs

    records = runs(_store(parsed))
    if parsed.json:
        _print_json([to_data(record) for record in records])
        return
    rows = [
        (
            record.id,
            record.name,
            record.status,
            "" if record.duration is None else f"{record.duration:.1f} s",
            " ".join(record.outputs),
        )
        for record in records
    ]
    _print_table(("run", "name", "status", "duration", "outputs"), rows)


def _diff(parsed: argparse.Namespace) -> None:
    found = _store(parsed).diff(parsed.before, parsed.after, values=parsed.values)
    if parsed.json:
        _print_json(found.to_data())
    else:
        print(found)


def _explain(parsed: argparse.Namespace) -> None:
    found = _store(parsed).diff(parsed.before, parsed.after, values=False)
    if parsed.json:
        causes = [attrs.asdict(cause) for cause in found.explain()]
        _print_json({"identical": found.identical, "causes": causes})
    else:
        print(found.explanation())


def _lineage(parsed: argparse.Namespace) -> None:
    found = _store(parsed).lineage(parsed.ref)
    if parsed.json:
        _print_json(found.to_data())
    else:
        print(found.mermaid() if parsed.mermaid else found)


def _reproduce(parsed: argparse.Namespace) -> int:
    from flowyml.reproducing import reproduce

    arguments = dict(map(_argument, parsed.argument))
    output = sys.stdout
    with redirect_stdout(sys.stderr):  # what the steps print
        found = reproduce(
            parsed.run,
            _store(parsed),
            arguments=arguments,
            trust=parsed.trust,
            tell=lambda line: print(line, file=output, flush=True),
        )
    print(found)
    return 0 if found.identical else 1


def _argument(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError as error:
        raise ValueError(
            f"--argument takes NAME=JSON, as in --argument 'api_key=\"abc\"'; the value of "
            f"{name!r} is no JSON: {error}."
        ) from error


def _as_data(asset: Asset) -> dict[str, Any]:
    history = asset.training_history if isinstance(asset, Model) else None
    return {
        "ref": asset.ref,
        "kind": asset.kind,
        "properties": asset.metadata.properties,
        "training_history": history,
        "tags": asset.tags,
        "parents": [attrs.asdict(parent) for parent in asset.parents],
        "stored": asset.stored and attrs.asdict(asset.stored),
    }


def _print_json(data: Any) -> None:
    sys.stdout.write(encoding.dumps(describe(data)).decode())


def _print_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    for row in (titles, *rows):
        print(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        )
