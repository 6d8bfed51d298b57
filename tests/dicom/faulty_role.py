"""A role of the service that dies by SIGKILL once at each stage: python faulty_role.py FOLDER ROLE CONFIG [BASE]."""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path

from sonodistill.dicom.predict import Analyst
from sonodistill.dicom.send.dimse import DimseDestination
from sonodistill.dicom.send.folder import FolderDestination
from sonodistill.dicom.send.stow import StowDestination
from sonodistill.dicom.service import roles
from sonodistill.dicom.service.jobs import Jobs
from sonodistill.dicom.service.spool import Spool

AFTER = [
    ("accepted", Spool, "accept"),
    ("claimed", Jobs, "claim"),
    ("analysed", Analyst, "analyse"),
    ("finished", Jobs, "finish"),
    ("sent", DimseDestination, "send"),
    ("sent", StowDestination, "send"),
    ("sent", FolderDestination, "send"),
    ("delivered", Jobs, "finish_delivery"),
]


def dying(function, stage, folder):
    @functools.wraps(function)
    def wrapped(*arguments, **named):
        answer = function(*arguments, **named)
        if stage == "claimed" and answer is None:
            return answer
        try:
            (folder / stage).touch(exist_ok=False)
        except FileExistsError:
            return answer
        os.kill(os.getpid(), signal.SIGKILL)

    return wrapped


if __name__ == "__main__":
    where, *role = sys.argv[1:]
    for stage, owner, name in AFTER:
        setattr(owner, name, dying(getattr(owner, name), stage, Path(where)))
    sys.exit(roles.main(*role))
