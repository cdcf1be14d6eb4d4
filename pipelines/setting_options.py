"""The settings in the `--help` of commands."""

import inspect
from collections.abc import Callable, Collection, Iterator
from functools import wraps
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic import SecretStr
from pydantic.fields import FieldInfo

from pipelines.commands import SETTINGS_USED
from pipelines.settings import PREFIX, Settings


def show_settings(command: Callable[..., None], name: str) -> Callable[..., None]:
    """The command with an option for each setting that it uses, so that its `--help` has a panel for each
    group of them.

    The options only document: `pipelines.cli.split` has taken the values before the command is called.
    """
    if hasattr(command, "__wrapped__"):
        return command

    @wraps(command)
    def call(*args: Any, **options: Any) -> None:
        given = {name: value for name, value in options.items() if name in own.parameters}
        command(*args, **given)

    own = inspect.signature(command)
    added = list(_list_parameters(SETTINGS_USED.get(name, ())))
    call.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    options = {parameter.name: parameter.annotation for parameter in added}
    call.__annotations__ = {**command.__annotations__, **options}
    call.__doc__ = _join_lines(command.__doc__ or "")
    return call


def _join_lines(text: str) -> str:
    """A docstring with a line for each paragraph: `--help` keeps the line breaks of all but the first."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(text).split("\n\n"))


def _list_parameters(titles: Collection[str]) -> Iterator[inspect.Parameter]:
    """A parameter for `--config` and for each setting of some groups, as Typer reads them."""
    config = (
        "TOML file of settings. A flag comes first, then the environment, then this file, then the default. "
        "Every setting is a flag of every command: `kpiflow settings` lists them."
    )
    yield _document("config", config, "FILE", "Settings")
    used = {group: names for group, names in Settings.groups().items() if group.title in titles}
    for group, names in used.items():
        for name in names:
            declared = Settings.model_fields[name]
            text = (declared.description or "") + _list_choices(declared)
            if name in Settings.secrets():
                text = f"Not a flag; set {PREFIX}{name.upper()}. {text}"
            elif declared.default is not None:
                text += f" Default: {declared.default}."
            yield _document(name, text, _name_type(declared), f"Settings: {group.title}")


def _document(name: str, text: str, metavar: str, panel: str) -> inspect.Parameter:
    flag = f"--{name.replace('_', '-')}"
    option = typer.Option(flag, help=text, show_default=False, metavar=metavar, rich_help_panel=panel)
    annotation = Annotated[str | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _list_choices(declared: FieldInfo) -> str:
    """The values that a setting may have, if it is one of a few; a wide `auto|always|never` in place of its
    kind would cut long names of other settings.
    """
    if get_origin(declared.annotation) is not Literal:
        return ""
    return f" One of {', '.join(get_args(declared.annotation))}."


def _name_type(declared: FieldInfo) -> str:
    """The kind of value that a setting takes, as `--help` names it."""
    kinds = {bool: "[true|false]", int: "INTEGER", float: "FLOAT", str: "TEXT", SecretStr: "SECRET"}
    types = (declared.annotation, *get_args(declared.annotation))
    if get_origin(declared.annotation) is Literal:
        return "CHOICE"
    return next((kinds[each] for each in types if each in kinds), "FILE")
