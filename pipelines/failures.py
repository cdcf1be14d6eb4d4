"""How a command ends when it does not succeed: one exception for each exit code."""


class Failure(Exception):  # noqa: N818 (an end, not only an error)
    """A command's end with an exit code; `str()` names the cause, `fix` what to do about it."""

    code = 3

    def __init__(self, message: str, fix: str = "") -> None:
        super().__init__(message)
        self.fix = fix


class CheckFailed(Failure):
    """A check found a problem, or an input was incomplete: the work itself was done."""

    code = 1


class WrongUse(Failure):
    """The command line or a setting asks for something that is not possible."""

    code = 2


class RunFailed(Failure):
    """The run could not finish."""

    code = 3


def make_missing_error(what: str, error: ImportError, extra: str) -> WrongUse:
    """The failure where a package that `what` needs, one of an extra of kpiflow, is not installed."""
    return WrongUse(f"{what} needs {error.name}, which is not installed", f"pip install 'kpiflow[{extra}]'")
