"""Which library wrote what lies in a folder: from the names of its files, and a look at its config.  No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sae.errors import UserError
from sae.formats.untrusted_tensors import plain_files, read_json, refuse

TENSOR_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")
# What lies beside an SAE's weights and is none.
_COMPANIONS = ("sparsity.safetensors", "trainer_state.pt", "activation_whitening.safetensors",
               "activations_store_state.safetensors", "state.pt", "training_args.bin")
_COMPANION_STARTS = ("optimizer_", "lr_scheduler_", "rank_", "tokens_")


@dataclass(frozen=True)
class Found:
    """An SAE in a folder: which reader is for it (`format`), where, and the file with its weights.

    `hint` is what the path says beyond the folder's own files, such as a hub name.
    """

    format: str
    folder: Path
    weights: Path
    hint: str = ""
    config: Path | None = field(default=None)


def find(path: Path, hint: str = "") -> Found:
    """The one SAE at `path`, a folder or a file.  Raises UserError (field `source`) where there is none,
    or more than one, whose folders are then named."""
    if path.is_file():
        return _of_file(path, hint or str(path))
    if not path.is_dir():
        refuse(path, "there is no such file or folder")
    names = [file.relative_to(path).as_posix() for file in plain_files(path)]
    places = places_of(names)
    if not places:
        refuse(path, f"holds no SAE that is recognised (its files: {', '.join(names[:8]) or 'none'})")
    if len(places) > 1:
        raise several(places)
    place = next(iter(places))
    return _of_file(path / place, hint or str(path))


def places_of(names: list[str]) -> list[str]:
    """The weight files among a listing's file names, one an SAE; of the copies that a run leaves, the last state."""
    weights = [name for name in names if PurePosixPath(name).suffix in TENSOR_SUFFIXES and not _is_companion(name)]
    folders: dict[str, list[str]] = {}
    for name in weights:
        folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
    chosen: list[str] = []
    for group in folders.values():
        known = [name for name in group if PurePosixPath(name).name in
                 ("sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz", "params.safetensors")]
        chosen += known[:1] or group
    finals = {str(PurePosixPath(name).parent) for name in chosen if PurePosixPath(name).name == "ae.pt"}
    return [name for name in chosen  # dictionary_learning: checkpoints/ae_1000.pt beside the finished ae.pt
            if not (PurePosixPath(name).parent.name == "checkpoints"
                    and str(PurePosixPath(name).parent.parent) in finals)]


def several(places: list[str]) -> UserError:
    """The error for a source that holds many SAEs."""
    shown = ", ".join(str(PurePosixPath(name).parent) if str(PurePosixPath(name).parent) != "." else name
                      for name in places[:8])
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    return UserError(f"source: holds {len(places)} SAEs; name one of them: {shown}{more}", "source")


def _is_companion(name: str) -> bool:
    last = PurePosixPath(name).name
    return last in _COMPANIONS or last.startswith(_COMPANION_STARTS)


def _of_file(path: Path, hint: str) -> Found:
    """The format of a file of weights, from its name and from the config beside it."""
    if path.suffix not in TENSOR_SUFFIXES:
        refuse(path, f"is no file of weights; known are {', '.join(TENSOR_SUFFIXES)}")
    folder = path.parent
    cfg, config = folder / "cfg.json", folder / "config.json"
    if path.name == "sae_weights.safetensors" and cfg.is_file():
        return Found("saelens", folder, path, hint, cfg)
    if path.name == "sae.safetensors" and cfg.is_file():
        return Found("sparsify", folder, path, hint, cfg)
    for place in (config, folder.parent / "config.json"):
        if path.name.startswith("ae") and place.is_file() and "trainer" in read_json(place):
            return Found("dictionary_learning", folder, path, hint, place)
    if path.name == "sae.safetensors" and (folder / "sae.json").is_file():
        return Found("saescope", folder, path, hint, folder / "sae.json")
    # The rest is told apart by the tensors themselves.
    return Found("by_tensors", folder, path, hint, config if config.is_file() else None)
