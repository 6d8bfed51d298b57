"""Start the annotation server: MONAI Label with our app, checked beforehand, with settings that are safe."""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sonodistill.annotate.server.settings import Serving, check

logger = logging.getLogger(__name__)

LOG = "logs/server.log"
_TERMINATED = 128 + signal.SIGTERM
_CONNECTIONS = 256
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def environment(serving: Serving, app: Path) -> dict[str, str]:
    """Settings of MONAI Label, which it reads from the environment when it is imported; so do its processes."""
    conf = {
        **{name: str(path.resolve()) for name, path in serving.models.items()},
        "work": str(serving.work.resolve()),
        "threads": str(serving.threads),
        "train_after": str(serving.train_after),
        "labels": ",".join(serving.labels),
        "classes": ",".join(serving.classes),
        "query": serving.query,
        "user": serving.user,
        "token_file": "" if serving.token_file is None else str(serving.token_file.resolve()),
        "tokens": "" if serving.tokens is None else str(serving.tokens.resolve()),
        "names": ",".join(serving.names),
    }
    studies = serving.studies if serving.remote else str(Path(serving.studies).resolve())
    path = [str(app), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        "MONAI_LABEL_APP_DIR": str(app),
        "MONAI_LABEL_STUDIES": studies,
        "MONAI_LABEL_APP_CONF": json.dumps({key: value for key, value in conf.items() if value}),
        "MONAI_LABEL_SERVER_PORT": str(serving.port),
        "MONAI_LABEL_API_STR": "",
        "MONAI_LABEL_AUTH_ENABLE": "false",  # Keycloak; the guard asks for tokens
        "MONAI_LABEL_CORS_ORIGINS": json.dumps([f"http://127.0.0.1:{serving.port or 8000}"]),
        "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        "MONAI_LABEL_TRACKING_ENABLED": "false",
        "MONAI_LABEL_SESSIONS": "true",
        "MONAI_LABEL_SESSION_PATH": str(serving.work.resolve() / "sessions"),
        "MONAI_LABEL_SESSION_EXPIRY": "3600",
        "MONAI_LABEL_INFER_CONCURRENCY": "-1",
        "MONAI_LABEL_DATASTORE_READ_ONLY": "false",
        "PYTHONPATH": os.pathsep.join(path),
    }


def serve(serving: Serving, ready: Callable[[str], None]) -> int:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        serving: see there; it is checked.
        ready: called with the URL once requests are answered.

    Returns:
        0 after Ctrl-C, 143 after SIGTERM, 1 when the server could not start.

    Errors: those of ``check``; AnnotationError and WeightsError of the app.
    """
    app = check(serving)
    serving.work.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.umask(0o077)  # labels and uploads are for whoever runs the server
    _log_to(serving.work / LOG)
    os.environ.update(environment(serving, app))
    # MONAI Label reads ``.env`` of the current folder, and takes an id for a file where there is one of its name.
    os.chdir(serving.work)
    from sonodistill.annotate.pydicom3 import supply

    supply()
    import uvicorn
    from monailabel.app import app as fastapi_app
    from monailabel.interfaces.utils.app import app_instance

    running = app_instance()  # here, where its errors are told as such
    config = uvicorn.Config(
        fastapi_app,
        host=serving.host,
        port=serving.port,
        log_config=None,
        access_log=False,
        ws="none",
        proxy_headers=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=10,
        ssl_certfile=serving.certificate,
        ssl_keyfile=serving.key,
    )
    return _run(_server(uvicorn, config, serving, ready), running.close)


def _server(uvicorn: Any, config: Any, serving: Serving, ready: Callable[[str], None]) -> Any:
    class Server(uvicorn.Server):  # type: ignore[misc, name-defined]
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                port = self.servers[0].sockets[0].getsockname()[1]
                name = serving.names[0] if serving.names else serving.host
                name = f"[{name}]" if ":" in name else name
                ready(f"{'https' if serving.certificate else 'http'}://{name}:{port}/")

    return Server(config)


def _run(server: Any, close: Callable[[], None]) -> int:
    def terminate(*_: object) -> None:
        raise SystemExit(_TERMINATED)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        server.run()
        return 0 if server.started else 1
    except KeyboardInterrupt:
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)
        close()


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handler = logging.handlers.RotatingFileHandler(path, maxBytes=5 << 20, backupCount=3, encoding="utf-8")
    handler.setFormatter(logging.Formatter(_FORMAT))
    root = logging.getLogger()
    for shown in root.handlers:
        shown.setLevel(root.level)  # the terminal shows what it showed
    root.addHandler(handler)
    root.setLevel(logging.INFO)
