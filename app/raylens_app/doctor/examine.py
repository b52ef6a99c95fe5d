"""All checks, in the order in which they are shown."""

from __future__ import annotations

from raylens_app.doctor.access import check_access, check_bundle, check_catalogue
from raylens_app.doctor.check import Check
from raylens_app.doctor.machine import check_disk, check_gpus, check_machine
from raylens_app.doctor.packages import (
    Imports,
    check_import,
    check_packages,
    check_python,
    check_tested_set,
)


def examine(workspace: str) -> list[Check]:
    """Look at everything; takes as long as importing torch does, where that is installed."""
    imports = Imports()
    packages = [check_python(), *check_packages(), check_tested_set()]
    rest = [check_disk(workspace), *check_access(), check_bundle(), check_catalogue()]
    torch, ray = imports.result("torch"), imports.result("ray")
    loaded = [check for name, result in (("torch", torch), ("ray", ray)) if (check := check_import(name, result))]
    gpus = check_gpus(torch if isinstance(torch, list) else None)
    return [*packages, *loaded, *check_machine(), gpus, *rest]
