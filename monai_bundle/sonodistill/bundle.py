"""What a MONAI config cannot do by itself: know its own folder, refuse a misspelt setting, and check paths first."""

from __future__ import annotations

import difflib
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow

from sonodistill import home, models
from sonodistill.errors import BundleConfigError, DatasetError, SonoDistillError, UnreadableFileError

CONFIGS = "configs"
# Ids that MONAI itself adds to a config: its metadata, and what experiment tracking patches in.
_MONAI_IDS = {"_meta_", "tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0", "run_id"}
_REFERENCE = re.compile(r"[@%](?:##?|#)?(\w+)")


def package_bundle() -> Path:
    """The bundle of this installation, see :func:`sonodistill.home.bundle`."""
    root = home.bundle()
    if not (root / CONFIGS / "metadata.json").is_file():
        raise BundleConfigError(
            "this installation of sonodistill has no bundle configs",
            path=root,
            remedy="install it again, with pip, or name a config file in a copy of the bundle",
        )
    return root


class Workflow(ConfigWorkflow):
    """A ConfigWorkflow that finds ``train.yaml`` in the bundle's configs, whatever the current folder is.

    The ``*_args.yaml`` files name it, so that ``python -m monai.bundle run training --args_file .../train_args.yaml``
    works from everywhere. A config that exists as given is used as given; otherwise the name is looked up beside the
    args file, then in the bundle of this package.
    """

    def __init__(self, config_file: str | Sequence[str], **kwargs: Any) -> None:
        names = [config_file] if isinstance(config_file, str) else list(config_file)
        args_file = _from_callers("args_file", str)
        folders = [Path(args_file).resolve().parent] if args_file else []
        super().__init__(config_file=[_find_config(name, folders) for name in names], **kwargs)

    def initialize(self) -> Any:
        """As MONAI's, but a named error comes out as itself and not inside MONAI's account of the config."""
        with _plain_errors():
            return super().initialize()

    def run(self) -> Any:
        """As MONAI's, but a named error comes out as itself."""
        with _plain_errors():
            return super().run()


def _find_config(name: str, folders: Iterable[Path]) -> str:
    if Path(name).is_file():
        return str(Path(name).resolve())
    for folder in folders:
        if (folder / name).is_file():
            return str(folder / name)
    inside = package_bundle() / CONFIGS / name
    if inside.is_file():
        return str(inside)
    raise BundleConfigError(
        "no such bundle config",
        path=name,
        remedy=f"choose one of {', '.join(sorted(p.name for p in inside.parent.glob('*.yaml')))}",
    )


def bundle_root() -> str:
    """The folder of the bundle whose config is running, so that no config depends on the current folder."""
    workflow = _from_callers("self", ConfigWorkflow)
    if workflow is None:
        return str(package_bundle())
    folder = Path(workflow.config_root_path).resolve()
    return str(folder.parent if folder.name == CONFIGS else folder)


def preflight(**paths: str | Sequence[str]) -> None:
    """Check a config before anything in it is built.

    Args:
        paths: setting -> files and folders that must exist; a folder must not be empty. "weights" and "exported" may
            be names of shipped models.

    Raises:
        BundleConfigError: a top-level setting is neither in the bundle's configs nor used by any other setting,
            which MONAI accepts in silence.
        DatasetError: a path does not exist, or is an empty folder.
    """
    with _plain_errors():
        parser = _from_callers("self", ConfigParser)
        if parser is not None:
            _refuse_unknown(parser.get())
        for setting, given in paths.items():
            for path in [given] if isinstance(given, str) else given:
                _check_path(setting, path)


def report_skipped(skipped: Sequence[tuple[Path, str]]) -> None:
    """End a batch that had to skip files: list them, so that the exit code says so too.

    Raises:
        UnreadableFileError: anything was skipped.
    """
    with _plain_errors():
        if skipped:
            listed = "\n".join(f"  {path}: {reason}" for path, reason in skipped)
            raise UnreadableFileError(f"the rest is done, but {len(skipped)} files were skipped:\n{listed}")


def _refuse_unknown(config: dict[str, Any]) -> None:
    used, known = set(_references(config)), _known_ids()
    unknown = [name for name in config if name not in known | used | _MONAI_IDS]
    if not unknown:
        return
    hints = [(name, difflib.get_close_matches(name, sorted(known), n=1)) for name in unknown]
    said = "; ".join(f"--{name}" + (f" (did you mean --{hint[0]}?)" if hint else "") for name, hint in hints)
    raise BundleConfigError(
        f"no such setting: {said}",
        remedy="the settings to change stand at the top of each file in the bundle's configs folder",
    )


def _known_ids() -> set[str]:
    folder = Path(bundle_root()) / CONFIGS
    return {
        key
        for file in sorted(folder.glob("*.yaml"))
        if not file.stem.endswith("_args")
        for key in ConfigParser.load_config_file(str(file))
    }


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
    elif isinstance(node, str):
        yield from _REFERENCE.findall(node)


def _check_path(setting: str, name: str | Path) -> None:
    if "://" in str(name):  # object storage, which whoever opens it will check
        return
    path = models.path_of(name) if setting in ("weights", "exported") else Path(name)
    remedy = f"give your data: --{setting} /path/to/data"
    if not path.exists():
        raise DatasetError(f"--{setting} does not exist", path=path, remedy=remedy)
    if path.is_dir() and not any(path.iterdir()):
        raise DatasetError(f"the folder of --{setting} is empty", path=path, remedy=remedy)


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise the named error inside whatever MONAI wrapped around it.

    Under ``python -m monai.bundle``, which prints tracebacks, end with the message alone and exit code 2.
    """
    try:
        yield
    except Exception as error:
        named: BaseException | None = error
        while named is not None and not isinstance(named, SonoDistillError):
            named = named.__cause__
        if named is None:
            raise
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        if spec is None or not spec.name.startswith("monai.bundle"):
            raise named from None
        sys.stderr.write(f"error: {named}\n")
        raise SystemExit(2) from named


def _from_callers(name: str, kind: type) -> Any | None:
    """The nearest caller's local variable ``name`` of type ``kind``.

    MONAI gives a config expression no handle on the workflow and the parser that evaluate it, nor a workflow the args
    file that named it; the call stack is the one place where they can be had without changing MONAI.
    """
    frame = inspect.currentframe()
    while frame is not None:
        value = frame.f_locals.get(name)
        if isinstance(value, kind):
            return value
        frame = frame.f_back
    return None
