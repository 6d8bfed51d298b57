"""The HTTP side of the app: what MONAI Label's server serves is replaced by routes that check what they are sent."""

from __future__ import annotations

import logging
from typing import Any

logger = logging.getLogger(__name__)


def install(fastapi_app: Any, monai_app: Any) -> None:
    """Put our routes and their guard in the place of everything that ``monailabel.app:app`` serves.

    Called in the lifespan of the server (``MyApp.on_init_complete`` in server mode), however it was started. MONAI
    Label's own routes are not reached any more: they take paths of the server, unpickle what is uploaded, answer with
    traces, and compute in the event loop.

    Args:
        fastapi_app: of MONAI Label.
        monai_app: ours, with its ``workbench``; ``conf`` may name ``tokens``, a file, and ``names`` of this server,
            divided by commas.

    Errors: BundleConfigError for a file of tokens that cannot be used.
    """
    from lib.server.application import application
    from lib.server.guard import Guard, Policy
    from sonodistill.annotate.server.tokens import Tokens

    tokens = Tokens(path) if (path := monai_app.conf.get("tokens")) else None
    names = frozenset(name.strip().lower() for name in monai_app.conf.get("names", "").split(",") if name.strip())
    fastapi_app.middleware_stack = Guard(application(monai_app, tokens), Policy(tokens, names))
    logger.info("requests are guarded; %s", "tokens are asked for" if tokens else "for this machine only")
