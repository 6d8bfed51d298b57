"""The log of a training as a run of MLflow, through MONAI's handler."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sonodistill.errors import SonoDistillError
from sonodistill.files import write_text

DATABASE, RECORD = "mlflow.db", "mlflow.json"
EXPERIMENT = "sonodistill"

_PARAMS_AT_ONCE = 100
_PARAM_LENGTH = 500
_NEVER_POSSIBLE = "INVALID_PARAMETER_VALUE"


class MlflowLog:
    """A run of MLflow. MONAI's handler listens to an Ignite engine that runs nothing itself: it only says "a row came".

    The run's id is kept beside the checkpoint, so that training goes on in the same run. MLflow cannot delete a value
    that was logged, so the steps between the checkpoint and a kill stand as they were first logged, once.

    Args:
        folder: of the training; the database and the run's id are kept here.
        run_name: shown by MLflow.
        tracking_uri: a SQLite file in ``folder`` when None.
        settings: logged once, as the run's parameters.
        start_step: 0 begins a new run; training goes on in the old one otherwise.

    Raises:
        SonoDistillError: a tracking URI that MLflow cannot log to.
        OSError: MLflow fails: the server is away, the disk is full.
    """

    def __init__(
        self, folder: Path, run_name: str, tracking_uri: str | None, settings: Mapping[str, str], start_step: int
    ) -> None:
        with _calls():
            from ignite.engine import Engine
            from monai.utils import path_to_sqlite_uri

            uri = tracking_uri or path_to_sqlite_uri(folder / DATABASE)
            self._handler = _handler(uri, run_name)
            self._logged = self._take_up(folder / RECORD, uri, start_step)
            self._engine = Engine(lambda _engine, row: row)
            self._handler.attach(self._engine)
            is_new = self._handler.cur_run is None
            if is_new:
                self._begin(run_name)
            self._handler.start(self._engine)
            self._run_id = self._handler.cur_run.info.run_id
            if is_new:
                self._log_settings(settings)
                write_text(folder / RECORD, json.dumps({"tracking_uri": uri, "run_id": self._run_id}))
            self._handler.client.update_run(self._run_id, status="RUNNING")

    def _take_up(self, record: Path, uri: str, start_step: int) -> int:
        """Go on in the run that was begun here, if there is one and it still exists; the last step logged in it."""
        from mlflow.exceptions import MlflowException

        known = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        if known.get("tracking_uri") != uri:
            return 0
        try:
            run = self._handler.client.get_run(known["run_id"])
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return 0
            raise
        logged = int(run.data.metrics.get("step", 0))
        if run.info.lifecycle_stage != "active":
            return 0
        if not start_step and logged:  # training starts anew: so does its run
            if run.info.status == "RUNNING":
                self._handler.client.set_terminated(known["run_id"], "KILLED")
            return 0
        self._handler.cur_run = run
        return logged

    def _begin(self, run_name: str) -> None:
        """A run of its own: left to itself, the handler goes on in any unfinished run of the same name."""
        client = self._handler.client
        experiment = client.get_experiment_by_name(EXPERIMENT)
        number = (
            experiment.experiment_id
            if experiment
            else client.create_experiment(EXPERIMENT, artifact_location=self._handler.artifact_location)
        )
        self._handler.cur_run = client.create_run(number, run_name=run_name)

    def _log_settings(self, settings: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        params = [Param(_name(name), text[:_PARAM_LENGTH]) for name, text in settings.items()]
        for first in range(0, len(params), _PARAMS_AT_ONCE):
            self._handler.client.log_batch(self._run_id, params=params[first : first + _PARAMS_AT_ONCE])

    def write(self, row: Mapping[str, Any]) -> None:
        """Log the numbers of a row, in one call; a step that is logged already is left as it is."""
        if row["step"] <= self._logged:
            return
        from ignite.engine import Events

        with _calls():
            self._engine.state.iteration = row["step"]
            self._engine.state.output = row  # type: ignore[assignment]
            self._engine.fire_event(Events.ITERATION_COMPLETED)
        self._logged = row["step"]

    def close(self, status: str) -> None:
        """End the run as FINISHED, KILLED or FAILED; one that is gone on with is running again."""
        with _calls():
            self._handler.run_finish_status = status
            self._handler.close()


def _handler(uri: str, run_name: str) -> Any:
    from mlflow.exceptions import MlflowException
    from monai.handlers import MLFlowHandler

    try:
        handler = MLFlowHandler(
            uri, epoch_log=False, output_transform=_metrics, experiment_name=EXPERIMENT, run_name=run_name
        )
    except (ValueError, MlflowException) as error:
        if getattr(error, "error_code", _NEVER_POSSIBLE) != _NEVER_POSSIBLE:
            raise
        raise SonoDistillError(
            f"MLflow cannot log to {uri}: {error}",
            remedy="give sqlite:////FOLDER/mlflow.db or the http(s) address of a tracking server, "
            "and install mlflow (mlflow-skinny knows no database)",
        ) from error
    handler.default_tracking_params = []  # they are of an engine that counts epochs itself
    return handler


def _metrics(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a row; "step" too, whose latest value says how far a run was logged."""
    return {_name(name): value for name, value in row.items() if isinstance(value, (int, float))}


def _name(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-./ ]", "_", name)


@contextmanager
def _calls() -> Iterator[None]:
    """MLflow for the time of a call: no telemetry, no address from the environment, no minutes of waiting.

    Raises:
        OSError: whatever MLflow raises.
    """
    wanted = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": None,
        "MLFLOW_REGISTRY_URI": None,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": os.environ.get("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2"),
        "MLFLOW_HTTP_REQUEST_TIMEOUT": os.environ.get("MLFLOW_HTTP_REQUEST_TIMEOUT", "20"),
    }
    before = {name: os.environ.get(name) for name in wanted}
    _set_environment(wanted)
    try:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            raise OSError(f"MLflow: {error}") from error
    finally:
        _set_environment(before)


def _set_environment(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
