"""Detection of the library that wrote a folder, from the names of its files and its config.  No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sae.errors import UserError
from sae.formats.untrusted_tensors import plain_files, read_json, refuse

TENSOR_SUFFIXES = (".safetensors", ".npz", ".pt", ".pth", ".bin")
# Tensor files that libraries store next to an SAE's weights.
_COMPANIONS = ("sparsity.safetensors", "trainer_state.pt", "activation_whitening.safetensors",
               "activations_store_state.safetensors", "state.pt", "training_args.bin")
# Names of the weights of a folder's only SAE, the better first.
_KNOWN: tuple[str, ...] = ("sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz", "params.safetensors")
_CHECKPOINTS = ("pruned.safetensors", "pruned.pt", "final.safetensors", "final.pt")  # of OpenMOSS
_COMPANION_STARTS = ("optimizer_", "lr_scheduler_", "rank_", "tokens_")


@dataclass(frozen=True)
class Found:
    """An SAE in a folder: the reader for it (`format`), the folder, and the file with its weights.

    `hint` is the full name of the source, such as a hub name, which may contain model and site.
    """

    format: str
    folder: Path
    weights: Path
    hint: str = ""
    config: Path | None = field(default=None)


def find(path: Path, hint: str = "") -> Found:
    """Return the only SAE at `path`, a folder or a file.

    Raises UserError (field `source`) if there is none, or more than one; the message then names their folders.
    """
    if path.is_file():
        return _of_file(path, hint or str(path))
    if not path.is_dir():
        refuse(path, "there is no such file or folder")
    names = [file.relative_to(path).as_posix() for file in plain_files(path)]
    found = weight_files(names)
    if not found:
        refuse(path, f"holds no known kind of SAE (its files: {', '.join(names[:8]) or 'none'})")
    if len(found) > 1:
        raise several(found)
    return _of_file(path / found[0], hint or str(path))


def weight_files(names: list[str]) -> list[str]:
    """Return the weight files among file names, one per SAE; of a run's checkpoints only the final state."""
    weights = [name for name in names if PurePosixPath(name).suffix in TENSOR_SUFFIXES and not _is_companion(name)]
    folders: dict[str, list[str]] = {}
    for name in weights:
        folders.setdefault(str(PurePosixPath(name).parent), []).append(name)
    chosen: list[str] = []
    for folder, group in folders.items():
        order = _KNOWN + (_CHECKPOINTS if PurePosixPath(folder).name == "checkpoints" else ())
        known = sorted((name for name in group if PurePosixPath(name).name in order),
                       key=lambda name: order.index(PurePosixPath(name).name))
        chosen += known[:1] or group
    finals = {str(PurePosixPath(name).parent) for name in chosen if PurePosixPath(name).name == "ae.pt"}
    return [name for name in chosen  # dictionary_learning: checkpoints/ae_1000.pt next to the final ae.pt
            if not (PurePosixPath(name).parent.name == "checkpoints"
                    and str(PurePosixPath(name).parent.parent) in finals)]


def several(files: list[str]) -> UserError:
    """Return the error for a source that holds more than one SAE."""
    parents = [str(PurePosixPath(name).parent) for name in files]
    shown = ", ".join(name if parent == "." or parents.count(parent) > 1 else parent
                      for name, parent in list(zip(files, parents, strict=True))[:8])
    more = f" and {len(files) - 8} more" if len(files) > 8 else ""
    return UserError(f"source: holds {len(files)} SAEs; name one of them: {shown}{more}", "source")


def _is_companion(name: str) -> bool:
    last = PurePosixPath(name).name
    return last in _COMPANIONS or last.startswith(_COMPANION_STARTS)


def _is_openmoss(config: Path) -> bool:
    """Return whether a config has the names of OpenMOSS; Gemma Scope 2 calls its sites otherwise."""
    return "hook_point_in" in read_json(config)


def _of_file(path: Path, hint: str) -> Found:
    """Detect the format of a weight file from its name and from the config next to it."""
    if path.suffix not in TENSOR_SUFFIXES:
        refuse(path, f"is not a weight file; give one of {', '.join(TENSOR_SUFFIXES)}")
    folder = path.parent
    cfg, config = folder / "cfg.json", folder / "config.json"
    if path.name == "sae_weights.safetensors" and cfg.is_file():
        return Found("saelens", folder, path, hint, cfg)
    if path.name == "sae.safetensors" and cfg.is_file():
        return Found("sparsify", folder, path, hint, cfg)
    for candidate in (config, folder.parent / "config.json"):
        if path.name.startswith("ae") and candidate.is_file() and "trainer" in read_json(candidate):
            return Found("dictionary_learning", folder, path, hint, candidate)
    if path.name == "sae.safetensors" and (folder / "sae.json").is_file():
        return Found("saescope", folder, path, hint, folder / "sae.json")
    for candidate in (folder / "hyperparams.json", folder.parent / "hyperparams.json", config):
        if candidate.is_file() and _is_openmoss(candidate):
            return Found("openmoss", candidate.parent, path, hint, candidate)
    for candidate in (folder / "config.yaml", folder.parent / "config.yaml"):
        if path.name.startswith("layer_") and path.suffix == ".safetensors" and candidate.is_file():
            return Found("circuit_tracer", folder, path, hint, candidate)
    # The tensors themselves distinguish the remaining formats.
    return Found("by_tensors", folder, path, hint, config if config.is_file() else None)
