"""Reading maps off a model's passes: forward hooks on its modules, always taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch

from gate_cache.core.errors import ModelError
from gate_cache.diffusion.passes.reads import READS, Run, laid_out

if TYPE_CHECKING:
    from gate_cache.core.features import MapSpec


class _AllSeen(Exception):
    """Ends a pass behind the last map that is wanted."""


class Hooks:
    """Maps read during the latest pass.

    Parameters
    ----------
    aspect : height of the input by its width; tokens are laid out by it
    """

    def __init__(self, specs: Sequence[MapSpec], aspect: float) -> None:
        self._specs = specs
        self._aspect = aspect
        self._values: dict[tuple[str, str], torch.Tensor] = {}
        self._expected = sum(len(spec.modules) for spec in specs)
        self._stops = False

    def read(self, run: Callable[[], object]) -> dict[str, torch.Tensor]:
        """Run a pass no further than the last map, and take its maps."""
        self._stops = True
        try:
            with suppress(_AllSeen):
                run()
        finally:
            self._stops = False
        return self.take()

    def take(self) -> dict[str, torch.Tensor]:
        """Maps of the latest pass, each (B, C, h, w) as computed; forgets them.

        Raises
        ------
        ModelError
            A map was not seen: the model does not call what was tapped.
        """
        values, self._values = self._values, {}
        features = {}
        for spec in self._specs:
            seen = [values[spec.name, path] for path in spec.modules if (spec.name, path) in values]
            if len(seen) < len(spec.modules):
                raise ModelError(f"the model did not run what '{spec.name}' is read from; is its"
                                 " attention replaced or compiled?")
            whole = seen[0] if len(seen) == 1 else torch.stack(seen).mean(0)
            features[spec.name] = laid_out(whole, self._aspect)
        return features

    def hook(self, spec: MapSpec, path: str) -> Any:
        """Forward hook that keeps what a map is read from, and ends the passes of `read`."""
        def hook(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._values[spec.name, path] = READS[spec.what](Run(module, args, kwargs, output))
            if self._stops and len(self._values) == self._expected:
                raise _AllSeen
        return hook


@contextmanager
def tapped(model: Any, specs: Sequence[MapSpec], aspect: float = 1.0) -> Iterator[Hooks]:
    """Read `specs` off every pass inside the ``with`` block; the model is restored after it.

    Parameters
    ----------
    aspect : height of the input by its width
    """
    taps = Hooks(specs, aspect)
    with ExitStack() as undo:
        for spec in specs:
            for path in spec.modules:
                hook = taps.hook(spec, path)
                undo.callback(_module(model, spec, path).register_forward_hook(
                    hook, with_kwargs=True).remove)
        if any(_is_compiled(model, path) for spec in specs for path in spec.modules):
            # a compiled module does not look again for hooks once it has been traced
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        yield taps


def _module(model: Any, spec: MapSpec, path: str) -> Any:
    try:
        return model.get_submodule(path)
    except AttributeError:
        raise ModelError(f"the model has no module '{path}', which '{spec.name}' is read from; name"
                         " another map") from None


def _is_compiled(model: Any, path: str) -> bool:
    """Whether a module, or one that it is in, is compiled."""
    names = path.split(".")
    return any(getattr(model.get_submodule(".".join(names[:i])), "_compiled_call_impl", None)
               for i in range(1, len(names) + 1))
