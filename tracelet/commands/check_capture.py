"""What would be captured of which library, and who else has a hand in it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any, Final

from tracelet.commands.check_packages import installed, numbers
from tracelet.commands.findings import Finding, ok, problem, warning
from tracelet.core.options import Options
from tracelet.errors import ConfigurationError
from tracelet.frameworks.base import Framework
from tracelet.frameworks.table import FRAMEWORKS, identifiers, kind_of
from tracelet.guard import in_a_line

__all__ = ["findings"]

_ABOUT: Final = "captured"
_DEEP_SECONDS: Final = 120.0
# Tools that have a hand in the same calls, and how.
_OTHERS: Final = {
    "wandb": "wandb.init(sync_tensorboard=True) exchanges TensorBoard's file writer",
    "clearml": "Task.init() patches TensorBoard's file writer, os.fork and the import statement",
    "comet_ml": "its import patches SummaryWriter",
    "mlflow": "mlflow.pytorch.autolog() patches TensorBoard's file writer, and waits for the store at each call",
    "swanlab": "swanlab.sync_tensorboard_torch() patches SummaryWriter",
}


def findings(options: Options, *, deep: bool) -> Iterator[Finding]:
    """Look at every framework that tracelet intercepts.

    Args:
        options: the settings.
        deep: import the libraries, each in a process of its own, put the patches on and take them off again.
    """
    for identifier in identifiers(options):
        try:
            framework = kind_of(identifier)
        except (Exception, SystemExit) as error:
            yield problem(
                _ABOUT, identifier, f"cannot be loaded: {in_a_line(error)}", "install another version of its package"
            )
            continue
        try:
            found, there = _of(framework, options)
            tried = deep and there and framework(**framework.arguments(options)).captures
        except ConfigurationError as error:
            yield problem(_ABOUT, identifier, f"is not recorded: {error}", "change that variable, or unset it")
            continue
        except Exception as error:  # another package's constructor
            yield problem(_ABOUT, identifier, f"is not recorded: {in_a_line(error)}", "mend its framework")
            continue
        yield found
        if tried:
            yield from _deep(identifier, framework)
    for package, how in _OTHERS.items():
        if (version := installed(package)) is not None:
            yield ok(_ABOUT, f"{package} {version}", f"{how}. Both record, in whichever order they come")


def _of(framework: type[Framework], options: Options) -> tuple[Finding, bool]:
    identifier, package = framework.identifier, framework.package
    version = next((found for name in _distributions(framework) if (found := installed(name))), None)
    if version is None:
        return ok(_ABOUT, identifier, f"{package} is not installed: nothing to capture"), False
    if off := framework.switched_off(options):
        return ok(_ABOUT, identifier, f"switched off: {', '.join(off)}"), True
    fits = f"{package} {version}; made for {_range(framework)}"
    if not _in_range(framework, numbers(version)):
        return (
            warning(_ABOUT, identifier, f"may not be captured whole: {fits}", f"install another version of {package}"),
            True,
        )
    if framework.module.startswith("torch.utils.tensorboard") and installed("tensorboard") is None:
        return (
            warning(
                _ABOUT,
                identifier,
                f"{fits}, but without tensorboard there is no SummaryWriter; Experiment.log_* records",
                f"{sys.executable} -m pip install tensorboard",
            ),
            False,
        )
    return ok(_ABOUT, identifier, f"calls of {framework.module} ({fits})"), True


def _distributions(framework: type[Framework]) -> Iterator[str]:
    """Names under which a module's package is published."""
    package = framework.package
    yield from (package, package.replace("_", "-"))
    if framework.identifier not in FRAMEWORKS:  # of ours those are the names
        yield from metadata.packages_distributions().get(package, ())


def _range(framework: type[Framework]) -> str:
    oldest, newer = (".".join(map(str, version)) for version in (framework.since, framework.before))
    return f"{oldest} and later, below {newer}"


def _in_range(framework: type[Framework], version: tuple[int, ...]) -> bool:
    return not version or framework.since <= version < framework.before


def _deep(identifier: str, framework: type[Framework]) -> Iterator[Finding]:
    command = [sys.executable, "-m", "tracelet.commands.trial", identifier]
    subject = f"{identifier}, tried"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DEEP_SECONDS, check=False)
        said: dict[str, Any] = json.loads(done.stdout.strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        yield problem(_ABOUT, subject, f"{framework.module} was not imported within {_DEEP_SECONDS:g} s", "try again")
        return
    except ValueError:
        last = done.stderr.strip().rpartition("\n")[2]
        see = f"{sys.executable} -c 'import {framework.module}'"
        yield problem(_ABOUT, subject, f"{framework.module} cannot be imported: {last[:300]}", see)
        return
    for method, who in said["foreign"].items():
        yield ok(_ABOUT, subject, f"{method} is patched by {who} already; tracelet's patch goes on top")
    if not said["patched"]:
        yield problem(
            _ABOUT, subject, "no call was patched: nothing would be captured", "install a version that is supported"
        )
    elif said["left"]:
        yield warning(
            _ABOUT, subject, f"patches stayed on: {', '.join(said['left'])}", "report this, with the versions above"
        )
    else:
        yield ok(_ABOUT, subject, f"captures {', '.join(said['patched'])}, and leaves nothing behind")
