"""Several sources for one model: which is used, which are passed over, and what is said of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROMPT, WriteManifest
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.numpy import load_file, save_file

from gate_cache import FeatureStore
from gate_cache.core.errors import ManifestError, ModelError
from gate_cache.core.hub import from_hub
from gate_cache.core.roots import Roots
from gate_cache.diffusion.files.locate import locate
from gate_cache.diffusion.models.embedded import HOME
from gate_cache.extraction.extract import extract
from gate_cache.extraction.plan import plan
from gate_cache.extraction.status import status
from gate_cache.extraction.validate import validate
from gate_cache.manifest.specs import ModelSpec
from gate_cache.workspace.workspace import Workspace

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
SECTIONS: dict[str, Any] = {"conv": {"plain": PROMPT}, "attention": {},
                            "dataset": {"name": "toyworld", "train": 1, "val": 0, "test": 0}}


@pytest.fixture
def home(roots: Roots, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Roots:
    """A models root with tiny as ``a`` and with other weights as ``b``; no hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for name in "ab":
        shutil.copytree(HOME, roots.models / name)
    state = load_file(roots.models / "b" / WEIGHTS)
    save_file({k: v + 1 for k, v in state.items()}, roots.models / "b" / WEIGHTS)
    return roots


def digest(home: Roots, name: str) -> str:
    files = locate(ModelSpec(source=name), home)
    assert files is not None
    return files.digest("unet")


@pytest.mark.parametrize(("sources", "used"), [
    (["a", "b"], "a"), (["b", "a"], "b"), (["gone", "b"], "b"), (["nobody/nothing", "b"], "b"),
    (["gone.safetensors", "tiny"], "tiny")])
def test_the_first_that_is_there_is_used(home: Roots, sources: list[str], used: str) -> None:
    for download in (False, True):
        files = locate(ModelSpec(source=sources), home, download)
        assert files is not None and files.source == used and files.notes == ()


def test_one_with_another_digest_is_passed_over(home: Roots) -> None:
    for wanted in (digest(home, "a"), digest(home, "a")[:8]):
        files = locate(ModelSpec(source=["b", "a"], digest=wanted), home)
        assert files is not None and files.source == "a"
        (note,) = files.notes
        assert note.startswith("model.source: 'b' is passed over: b: the digest of its unet is ")


def test_a_damaged_one_is_passed_over_with_a_note(home: Roots) -> None:
    shutil.rmtree(home.models / "a/vae")
    files = locate(ModelSpec(source=["a", "b"]), home)
    assert files is not None and files.source == "b" and "no 'vae' in it" in files.notes[0]


def test_a_single_source_with_another_digest_is_refused(home: Roots) -> None:
    with pytest.raises(ModelError, match=r"^a: the digest of its unet is .* wants 0123456789ab…"):
        locate(ModelSpec(source="a", digest="0123456789ab"), home)


def test_none_at_all_is_one_line_that_says_what_to_put_where(home: Roots) -> None:
    spec = ModelSpec(source=["gone", "v1-5.safetensors", "nobody/nothing"])
    assert locate(spec, home) is None
    with pytest.raises(ModelError) as caught:
        locate(spec, home, download=True)
    said = str(caught.value)
    assert "\n" not in said and said.startswith("model.source: none of gone, v1-5.safetensors,")
    for part in ("(1) model.source: 'gone' is neither", f"{home.models / 'v1-5.safetensors'}: no"
                 " such file; put it there", "put its files into <models root>/nobody/nothing"):
        assert part in said


def test_the_store_says_which_one_was_used(home: Roots, manifest: WriteManifest) -> None:
    model = {"source": ["b", "a"], "digest": digest(home, "a"), "size": 64}
    loaded = manifest(model=model, **SECTIONS)
    assert "'b' is passed over" in validate(Workspace(loaded, home)).absent[0]
    planned = plan(Workspace(loaded, home))
    assert planned.model == "a" and "'b' is passed over" in planned.notes[0]
    store = extract(Workspace(loaded, home, "cpu")).store
    assert FeatureStore.open(store)["plain"].attrs["model"] == "a"
    assert status(Workspace(loaded, home)).complete
    shutil.rmtree(home.models)
    assert status(Workspace(loaded, home)).complete  # by settings and names alone


@pytest.mark.parametrize(("model", "says"), [
    ({"source": []}, "model.source: must not be empty"),
    ({"source": ["tiny", 3]}, "model.source[1]: expected text, got 3"),
    ({"source": 3}, "model.source: expected text, got 3"),
    ({"source": "tiny", "digest": "xyz"}, "model.digest: "),
    ({"source": "tiny", "config": "x"}, "model.config: is for a single .safetensors file")])
def test_what_a_source_cannot_be(manifest: WriteManifest, model: dict[str, Any],
                                 says: str) -> None:
    with pytest.raises(ManifestError) as caught:
        manifest(model=model)
    assert says in str(caught.value)


def refusal(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind("refused", response=response)  # type: ignore[arg-type]


@pytest.mark.parametrize(("error", "offline", "says"), [
    (ConnectionError("no route"), False, "cannot be reached, or does not answer (ConnectionError)"),
    (LocalEntryNotFoundError("not here"), False, "check the network"),
    (LocalEntryNotFoundError("not here"), True, "HF_HUB_OFFLINE"),
    (refusal(GatedRepoError, 403), False, "hf auth login"),
    (refusal(RepositoryNotFoundError, 401), False, "check the name, or log in"),
    (refusal(HfHubHTTPError, 503), False, "does not answer (HfHubHTTPError)"),
    (refusal(RevisionNotFoundError, 404), False, "model.revision")])
def test_only_what_a_login_mends_is_told_to_log_in(error: Exception, offline: bool, says: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(_: str, local_files_only: bool, **__: Any) -> str:
        raise LocalEntryNotFoundError("not here") if local_files_only else error

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    with pytest.raises(ModelError) as caught:
        from_hub("org/name", None, [], lambda _: False, True)
    assert says in str(caught.value) and "<models root>/org/name" in str(caught.value)
    assert ("log in" in str(caught.value)) == isinstance(error, RepositoryNotFoundError)
