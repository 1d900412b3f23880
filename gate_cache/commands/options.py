"""What commands share: options, and how they end. Nothing heavy is imported at the top."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin, get_type_hints

import typer

from gate_cache.core.errors import Interrupted, UserError
from gate_cache.core.roots import Roots
from gate_cache.core.size import Sides

if TYPE_CHECKING:
    from gate_cache.workspace.workspace import Workspace

ManifestPath = Annotated[Path, typer.Argument(help="The manifest, a YAML file.")]
RunPath = Annotated[Path, typer.Argument(help="A run directory, or a sweep's folder.")]
Data = Annotated[Path | None, typer.Option(
    help="Folder that holds the data sets [GATE_CACHE_DATA, else data/].")]
Models = Annotated[Path | None, typer.Option(
    help="Folder that holds models and LoRAs [GATE_CACHE_MODELS, else models/].")]
Stores = Annotated[str | None, typer.Option(
    help="Folder or URL (s3://bucket/stores …) that holds the stores [GATE_CACHE_STORES, else"
    " stores/].")]
Runs = Annotated[Path | None, typer.Option(
    help="Folder for run directories [GATE_CACHE_RUNS, else runs/].")]
Outside = Annotated[bool, typer.Option(
    "--allow-outside", help="Allow paths in the manifest that leave these folders.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a program.")]
Device = Annotated[str | None, typer.Option(
    help="cpu, cuda, cuda:1 … [a GPU where there is one].")]
Trial = Annotated[str | None, typer.Option(help="Trial of a sweep.")]
Last = Annotated[bool, typer.Option(
    "--last", help="Use the last step's weights, not the best ones on val.")]


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where things are and what computes; the annotation of a command's parameter names options."""

    data: Data = None
    models: Models = None
    stores: Stores = None
    runs: Runs = None
    device: Device = None
    outside: Outside = False

    @property
    def roots(self) -> Roots:
        """The folders that these options mean."""
        return Roots.resolve(self.outside, data=self.data, models=self.models, stores=self.stores,
                             runs=self.runs)

    def open(self, manifest: Path, train: dict[str, Any] | None = None) -> Workspace:
        """A manifest on this machine, with progress that is seen."""
        from gate_cache.report.terminal.console import console_progress
        from gate_cache.workspace.workspace import Workspace

        return Workspace.open(manifest, self.roots, self.device, console_progress(), train)


HERE = Machine()
Reads = Annotated[Machine, "data", "models", "stores", "outside"]
Computes = Annotated[Machine, "data", "models", "stores", "device", "outside"]
Trains = Annotated[Machine, "data", "models", "stores", "runs", "device", "outside"]
Pictures = Annotated[Machine, "data", "stores", "outside"]


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command as typer takes it: options in the place of its parameter of type `Machine`."""
    command = interruptible("run the same command again")(command)
    hints = get_type_hints(command, include_extras=True)  # annotations are texts until asked for
    where = next((n for n, h in hints.items() if get_origin(h) is Annotated
                  and h.__origin__ is Machine), None)
    if where is None:
        return command
    own, names = get_type_hints(Machine, include_extras=True), hints[where].__metadata__
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        parameters += [parameter.replace(name=n, default=getattr(Machine, n), annotation=own[n])
                       for n in names] if parameter.name == where else \
            [parameter.replace(annotation=hints[parameter.name])]

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        machine = Machine(**{name: values.pop(name) for name in names})
        return command(**values, **{where: machine})

    # typer reads options from the signature
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def refuse(condition: object, message: str) -> None:
    """Raise a `UserError` where options contradict each other."""
    if condition:
        raise UserError(message)


@contextmanager
def interruptible(left: str) -> Iterator[None]:
    """Say in one line what Ctrl-C left."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {left}") from None


def parse_size(text: str | None) -> int | None:
    """Bytes: ``100GB``, ``1.5 TB`` (powers of 1000)."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", text.strip())
    if not match:
        raise UserError(f"'{text}' is not a size; write one as 500GB or 2TB")
    return int(float(match[1]) * 1000 ** " kMGT".index(match[2] or " "))


def parse_sides(text: str) -> Sides:
    """Pixels: ``512``, or height and width as ``512x1024``."""
    if not re.fullmatch(r"[1-9]\d{0,3}(x[1-9]\d{0,3})?", text):
        raise UserError(f"--size {text}: write it as 512, or height and width as 512x1024")
    sides = [int(side) for side in text.split("x")]
    return sides if sides[1:] else sides[0]


def print_result(result: Any, show: Callable[[Any], None], as_json: bool,
                 picture: Path | None = None, **more: Any) -> None:
    """Print what a command has done.

    Parameters
    ----------
    result : a dataclass, a mapping, or an object with `to_json`
    show : prints the result for people
    as_json : whether a program reads it; what is no finite number is null
    picture : where the result was drawn, printed last
    more : what the JSON has besides the result's fields
    """
    if as_json:
        data = result.to_json() if hasattr(result, "to_json") else _plain(result)
        more |= {"picture": picture} if picture else {}
        text = json.dumps({**data, **more}, default=_plain)
        strict = json.loads(text, parse_constant=lambda _: None)  # JSON has no NaN
        typer.echo(json.dumps(strict, indent=2, ensure_ascii=False))
        return
    show(result)
    if picture:
        typer.echo(str(picture))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return value if isinstance(value, dict) else str(value)
