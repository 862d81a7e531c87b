# ruff: noqa
# mypy: ignore-errors
"""Reaches the Python processes that a command under `tracelet run` starts: children, ranks, workers.

`tracelet run` puts this folder first on PYTHONPATH, so that every Python below it imports this file as it starts: any
Python, perhaps another version, perhaps without tracelet. So it is written in the oldest syntax, imports nothing that is
not there already, and does nothing but wait: a finder that sees one of the modules which tracelet intercepts being
imported, and calls tracelet then. A user's own `sitecustomize`, which this one hides, is run afterwards.
"""

import os
import sys


class _Loader(object):
    """A module's own loader; tracelet is called when the module is there."""

    def __init__(self, loader, loaded):
        self._loader = loader
        self._loaded = loaded

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        self._loaded()

    def __getattr__(self, name):
        return getattr(self._loader, name)


class _Finder(object):
    """Finds nothing by itself: it sees one of `modules` being found by the other finders."""

    tracelet_launch = True  # by which the runner, which needs it no more, knows it

    def __init__(self, modules):
        self._modules = frozenset(modules)
        self._finding = set()

    def find_spec(self, name, path=None, target=None):
        if name not in self._modules or name in self._finding:
            return None
        # Another hook among the finders may ask everybody again, us too.
        self._finding.add(name)
        try:
            for finder in list(sys.meta_path):
                find_spec = getattr(finder, "find_spec", None)
                if finder is self or find_spec is None:
                    continue
                spec = find_spec(name, path, target)
                if spec is not None:
                    if hasattr(spec.loader, "exec_module"):
                        spec.loader = _Loader(spec.loader, self._loaded)
                    return spec
            return None
        finally:
            self._finding.discard(name)

    def _loaded(self):
        if self not in sys.meta_path:
            return
        sys.meta_path.remove(self)
        try:
            from tracelet import interface

            interface.begin_under_launcher()
        except Exception:
            error = sys.exc_info()[1]
            sys.stderr.write(
                "tracelet: the metrics of process %d (%s) are not recorded: %s: %s\n"
                % (os.getpid(), sys.executable, type(error).__name__, error)
            )


def _wait():
    modules = os.environ.get("TRACELET_MODULES")
    version = "%d.%d" % sys.version_info[:2]
    if modules and os.environ.get("TRACELET_RUN_ID") and os.environ.get("TRACELET_PYTHON") == version:
        sys.meta_path.insert(0, _Finder(modules.split(",")))


def _chain():
    """Import the sitecustomize that this one hides. What it raises, the interpreter reports as ever."""
    here = [folder for folder in sys.path if os.path.abspath(folder) == os.path.dirname(os.path.abspath(__file__))]
    index = sys.path.index(here[0])
    sys.path[:] = [folder for folder in sys.path if folder not in here]
    ours = sys.modules.pop(__name__)
    try:
        import sitecustomize
    except ImportError:
        error = sys.exc_info()[1]
        if (getattr(error, "name", None) or str(error).split()[-1]) != "sitecustomize":
            raise
    finally:
        sys.path[index:index] = here[:1]  # for a child that is given this path as its PYTHONPATH
        sys.modules.setdefault(__name__, ours)


if __name__ == "sitecustomize":
    _wait()
    _chain()
