"""Read a torch.export program (.pt2) of which no part can run code.

``torch.export.load`` unpickles what is no plain tensor, evaluates sizes as Python and compiles guards, so that a file
from elsewhere can run what it likes. What SonoDistill exports needs none of that: raw tensors, operators of ATen, and
sizes that are integers or a symbol. Everything else is refused before torch loads the file.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2

from sonodistill.errors import WeightsError
from sonodistill.inference.exported import FILE

_RECORDS = re.compile(
    r"models/model\.json|data/(weights|constants)/(weight_\d+|tensor_\d+|model_(weights|constants)_config\.json)"
    r"|data/(weights|constants|sample_inputs)/model\.pt|extra/[\w.]+|archive_format|archive_version|version|byteorder"
    r"|\.data/(version|serialization_id|\w+)"
)
_OPERATOR = re.compile(
    r"torch\.ops\.aten\.(?!from_file\b|_?sparse_)\w+\.\w+|_operator\.(getitem|add|sub|mul|floordiv|mod)"
)
_SYMBOL = re.compile(r"Symbol\('[su]\d+'(, (positive|nonnegative|integer)=True)*\)|\b[su]\d+\b")
_ARITHMETIC = re.compile(r"(Add|Mul|Integer|[\d(), +*/-])*")
_MAX_EXPRESSION = 200  # characters; of a size such as "2*s0 + 1"
_TREES = ("builtins.tuple", "builtins.list", "builtins.dict", None)


def load_program(path: Path) -> tuple[ExportedProgram, str]:
    """The program and the text of its metadata, empty when it has none.

    Raises:
        WeightsError: it holds what could run code.
    """
    content = path.read_bytes()
    problem = next(_problems(content), None)
    if problem is not None:
        raise WeightsError(
            f"loading it could run code from the file: {problem}",
            path=path,
            remedy="export the checkpoint with `sonodistill export --to pt2`, or to another format",
        )
    # Not torch.export.load, which reads an older format, pickled, when this one fails.
    found = load_pt2(io.BytesIO(content))
    text = found.extra_files.get(FILE, "")
    return found.exported_programs["model"], text.decode() if isinstance(text, bytes) else text


def _problems(content: bytes) -> Iterator[str]:
    # torch's own reader, so that what is checked is what is loaded.
    archive = torch._C.PyTorchFileReader(io.BytesIO(content))
    names = set(archive.get_all_records())
    yield from (f"a part named {name[:80]}" for name in sorted(names) if not _RECORDS.fullmatch(name))
    for name in sorted(name for name in names if name.endswith(".pt")):
        try:
            torch.load(io.BytesIO(archive.get_record(name)), weights_only=True)
        except Exception as error:  # noqa: BLE001 (whatever it is, torch would go on to unpickle it)
            yield f"{name} holds more than plain tensors ({type(error).__name__})"
    for name in sorted(name for name in names if name.endswith("_config.json")):
        for entry in json.loads(archive.get_record(name))["config"].values():
            if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                yield f"{name} names more than plain tensors"
    program = json.loads(archive.get_record("models/model.json"))
    if program.get("guards_code") or program["graph_module"].get("treespec_namedtuple_fields"):
        yield "guards or named tuples"
    yield from _in_graph(program)


def _in_graph(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for value in node:
            yield from _in_graph(value)
        return
    for key, value in node.items() if isinstance(node, dict) else ():
        if key in ("target", "as_operator") and isinstance(value, str) and not _OPERATOR.fullmatch(value):
            yield f"the operator {value[:80]}"
        elif key in ("expr_str", "as_expr") and isinstance(value, str) and not _is_arithmetic(value):
            yield f"the size {value[:80]}"
        elif key in ("in_spec", "out_spec") and isinstance(value, str):
            yield from _in_spec(json.loads(value))
        elif key == "custom_obj_values" and value:
            yield "objects"
        else:
            yield from _in_graph(value)


def _is_arithmetic(text: str) -> bool:
    # A power of powers is arithmetic too, and never ends.
    return len(text) <= _MAX_EXPRESSION and "**" not in text and bool(_ARITHMETIC.fullmatch(_SYMBOL.sub("1", text)))


def _in_spec(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for value in node:
            yield from _in_spec(value)
    elif isinstance(node, dict):
        if node.get("type") not in _TREES or node.get("context") not in ("null", "[]", None):
            yield f"arguments of the type {str(node.get('type'))[:80]}"
        yield from _in_spec(node.get("children_spec", []))
