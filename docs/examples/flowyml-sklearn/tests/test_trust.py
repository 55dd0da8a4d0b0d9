"""Trust: what skops doesn't take for safe is refused by name before anything of it is imported."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import special
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.tree._tree import Tree

from flowyml.errors import MaterializationError, UntrustedDataError

PIXELS, DIGITS = load_digits(return_X_y=True)
TREE = "sklearn.tree._tree.Tree"


def test_trees_need_trust_and_say_so(store):
    asset = store.save(RandomForestClassifier(2).fit(PIXELS[:50], DIGITS[:50]), "forest")

    assert asset.stored.required_trust == (TREE,)
    with pytest.raises(UntrustedDataError, match=r"forest@v1.*trust=\['sklearn.tree") as refused:
        store.load("forest")
    assert refused.value.required == (TREE,)


@pytest.mark.parametrize("trust", [TREE, Tree, "sklearn.*", [TREE, "unheard.of"]])
def test_trust_is_given_by_name_pattern_or_class(store, trust):
    store.save(RandomForestClassifier(2).fit(PIXELS[:50], DIGITS[:50]), "forest")

    assert len(store.load("forest", trust=trust).estimators_) == 2


def test_only_what_is_missing_is_listed(files):
    forest = RandomForestClassifier(2).fit(PIXELS[:50], DIGITS[:50])
    written, result = files.save(make_pipeline(FunctionTransformer(np.mean), forest))

    assert result.required_trust == ("numpy.mean", TREE)
    with pytest.raises(UntrustedDataError) as refused:
        files.load(written, TREE)
    assert refused.value.required == ("numpy.mean",)


@pytest.mark.parametrize("function", [np.log1p, np.add, special.expit])
def test_universal_functions_need_no_trust(files, function):
    written, result = files.save(FunctionTransformer(function))

    assert result.required_trust == ()
    assert files.load(written).func is function


SAVE = """
import sys
sys.path.insert(0, "modules")
import marking
from flowyml import Store
from sklearn.preprocessing import FunctionTransformer
Store("store").save(FunctionTransformer(marking.double), "double")
"""
LOAD = """
import os, sys
sys.path.insert(0, "modules")
from flowyml import Store
from flowyml.errors import UntrustedDataError
for trust in ((), "marking.other", "mark.*"):
    try:
        Store("store").load("double", trust=trust)
    except UntrustedDataError as error:
        print(error.required, "marking" in sys.modules, os.path.exists("mark"))
double = Store("store").load("double", trust="marking.*")
print(double.transform([21]), os.path.exists("mark"))
"""


def test_a_module_is_not_imported_before_it_is_trusted(tmp_path: Path, run_python):
    (tmp_path / "modules").mkdir()
    module = tmp_path / "modules" / "marking.py"
    module.write_text("open('mark', 'w').close()\ndef double(x):\n    return x + x\n")
    run_python(SAVE)
    (tmp_path / "mark").unlink()

    *refused, loaded = run_python(LOAD).splitlines()

    assert refused == ["('marking.double',) False False"] * 3
    assert loaded == "[21, 21] True"


def node(loader: str, module: str, name: str, **members: Any) -> dict[str, Any]:
    return {"__class__": name, "__module__": module, "__loader__": loader, **members}


def of(value: Any) -> dict[str, Any]:
    return node("JsonNode", "builtins", "str", content=json.dumps(value))


def row(*items: Any) -> dict[str, Any]:
    return node("TupleNode", "builtins", "tuple", content=list(items))


def named(**members: Any) -> dict[str, Any]:
    kinds = [node("TypeNode", "builtins", "str")] * len(members)
    keys = node("ListNode", "builtins", "list", content=kinds)
    return node("DictNode", "builtins", "dict", content=members, key_types=keys)


SYSTEM = node("FunctionNode", "os", "system")
COMMAND = of("touch harm")
HARMFUL = {
    "os.system": SYSTEM,
    "builtins.eval": node("TypeNode", "builtins", "eval"),
    "subprocess.Popen": node(
        "ConstructorFromReduceNode", "subprocess", "Popen", content=row(COMMAND)
    ),
    "functools.partial": node(
        "PartialNode",
        "functools",
        "partial",
        content={"func": SYSTEM, "args": row(COMMAND), "kwds": named(), "namespace": named()},
    ),
    "operator.methodcaller": node(
        "OperatorFuncNode", "operator", "methodcaller", attrs=row(COMMAND)
    ),
    "builtins.str.format": node(
        "MethodNode", "builtins", "str", content={"func": "format", "obj": COMMAND}
    ),
    "code.InteractiveConsole": node("ObjectNode", "code", "InteractiveConsole"),
    "builtins.exec": node(
        "LossNode", "builtins", "exec", content=named(), __reduce__={"args": row(COMMAND)}
    ),
    "builtins.compile": node(
        "TreeNode", "builtins", "compile", content=named(), __reduce__={"args": row(COMMAND)}
    ),
    "antigravity.list": node("ListNode", "antigravity", "list", content=[]),
    "numpy.dtype": node(
        "DTypeNode",
        "numpy",
        "dtype",
        content=node("NdArrayNode", "numpy", "ndarray", type="json", content=[], shape=row(of(0))),
    ),
}


@pytest.mark.parametrize("name", HARMFUL)
def test_what_could_run_code_is_refused_by_name(name, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written, _ = files.save(StandardScaler())

    with pytest.raises(UntrustedDataError) as refused:
        files.load(with_copy(written, HARMFUL[name]), "sklearn.*")

    assert name in refused.value.required
    assert not Path("harm").exists()
    assert "antigravity" not in sys.modules


def with_copy(written: dict[str, bytes], harmful: Any) -> dict[str, bytes]:
    """Put a node where the scaler has its hyperparameter `copy`."""
    with zipfile.ZipFile(io.BytesIO(written["model.skops"])) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(entries["schema.json"])
    assert "copy" in schema["content"]["content"]
    schema["content"]["content"]["copy"] = harmful
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**entries, "schema.json": json.dumps(schema)}.items():
            archive.writestr(name, content)
    return {"model.skops": buffer.getvalue()}


def test_a_trusted_function_is_not_called_by_a_dictionary(files):
    """skops calls the types of a dictionary's keys: only types of keys are taken for these."""
    written, _ = files.save(StandardScaler())
    harmful = named(x=of(1))
    harmful["key_types"]["content"] = [SYSTEM]

    with pytest.raises(MaterializationError, match=r"keys of type os\.system"):
        files.load(with_copy(written, harmful), "os.system")
