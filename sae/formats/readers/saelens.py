"""Reader of SAELens folders (`cfg.json` + `sae_weights.safetensors`): v6, v3 to v5, and training checkpoints.

The layouts were checked against decoderesearch/SAELens at 6.54.12.  A training checkpoint folds nothing.
The facts that its inference file would fold (input scale, whitening, decoder norms of an SAE that
selects by them) are read from the files next to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sae.formats.detect import Found
from sae.formats.foreign import Foreign, Weights, Whitening
from sae.formats.foreign_names import model_name, site
from sae.formats.untrusted_tensors import Tensors, read_json, read_tensors, refuse
from sae.lm.sites import HEADS, kind_of, split_head

# architecture in the file -> (rule here, transcoder, skip)
_ARCHITECTURES = {
    "standard": ("relu", False, False), "topk": ("topk", False, False), "jumprelu": ("jumprelu", False, False),
    "gated": ("gated", False, False), "batchtopk": ("batch_topk", False, False),
    "matryoshka_batchtopk": ("matryoshka", False, False), "transcoder": ("relu", True, False),
    "skip_transcoder": ("relu", True, True), "jumprelu_transcoder": ("jumprelu", True, False),
    "jumprelu_skip_transcoder": ("jumprelu", True, True)}
_IMPOSSIBLE = {
    "abstopk": "its activations can be negative, which no artefact here can hold",
    "matching_pursuit": "it encodes in a loop over residuals, which no artefact here can express",
    "temporal": "it encodes with attention over positions, which no artefact here can express"}
_NORMS = {"none": "none", "expected_average_only_in": "none", "covariance_whitening": "none",
          "layer_norm": "layer_norm_std", "constant_norm_rescale": "constant_norm"}


def read(found: Found, given: Mapping[str, Any]) -> Foreign:
    """Read the SAE in a SAELens folder.  Raises UserError if it is inconsistent or cannot be expressed."""
    assert found.config is not None
    config, tensors = read_json(found.config), read_tensors(found.weights)
    version = str(_dict(config.get("metadata")).get("sae_lens_version") or config.get("sae_lens_version") or "")
    legacy = not version.split(".")[0].isdigit() or int(version.split(".")[0]) < 6
    if legacy:
        config = _upgraded(config)
    metadata, name = _dict(config.get("metadata")), str(config.get("architecture", "standard"))
    if name not in _ARCHITECTURES:
        refuse(found.config, f"architecture {name[:40]!r}: "
                             f"{_IMPOSSIBLE.get(name, 'not supported; supported are ' + ', '.join(_ARCHITECTURES))}")
    rule, transcoder, _ = _ARCHITECTURES[name]
    _refuse_activation(found, config, legacy)
    weights = _weights(found, config, tensors, name)
    out = Foreign(
        format=f"SAELens {version}".strip() if not legacy else f"SAELens before 6 ({version or 'no version'})",
        weights=weights, model=model_name(str(metadata.get("model_name") or "")),
        bos=metadata["prepend_bos"] if isinstance(metadata.get("prepend_bos"), bool) else None,
        context_length=metadata["context_size"] if isinstance(metadata.get("context_size"), int) else 0,
        trained_as=str(metadata.get("training_architecture") or name), dtype=tensors.dtype)
    names = [_named_site(metadata, end) for end in (("", "_out") if transcoder else ("",))]
    head = metadata.get("hook_head_index")
    if head is not None:
        if not isinstance(head, int) or isinstance(head, bool) or head < 0 or kind_of(site(names[0])) not in HEADS:
            refuse(found.config, f"reads head {head!r} of {names[0][:80]!r}, but {', '.join(HEADS)} alone have heads")
        names[0] = f"{split_head(site(names[0]))[0]}:h{head}"
    out.name_sites(*names)
    if isinstance(metadata.get("l0"), int | float):
        out.claims["l0"] = float(metadata["l0"])
    elif rule in ("topk", "batch_topk", "matryoshka"):
        out.claims["l0"] = float(weights.k)
    out.details = {key: metadata[key] for key in ("dataset_path", "neuronpedia_id", "sae_lens_training_version",
                                                  "model_from_pretrained_kwargs") if metadata.get(key)}
    if rule in ("batch_topk", "matryoshka") and weights.threshold is not None:
        out.set_theta(float(weights.threshold))
    _normalization(found, config, metadata, given, out)
    _true_architecture(metadata, out)
    if legacy and rule == "gated":
        out.notes.append("gated files folded by SAELens 3.10 to 5 have a wrong r_mag, which the check detects")
    return out


def _named_site(metadata: dict[str, Any], end: str) -> str:
    """Return the file's name of a site: the one that is known here, if it has two."""
    names = [str(metadata.get(f"{kind}{end}") or "") for kind in ("hook_name", "hf_hook_name")]
    return next((name for name in names if site(name)), names[0] or names[1])


def _refuse_activation(found: Found, config: dict[str, Any], legacy: bool) -> None:
    """Refuse an activation function that no artefact can hold, and a TopK without k."""
    name = str(config.get("activation_fn_str") or config.get("activation_fn") or "relu").lower()
    if legacy and name not in ("relu", "topk", "jumprelu"):
        refuse(found.config or "cfg.json", f"activation_fn_str {name[:40]!r} cannot be expressed here; relu and topk "
                                           "can")
    if legacy and name == "topk" and "k" not in config:
        refuse(found.config or "cfg.json", "activation_fn_str is topk, but activation_fn_kwargs has no k")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _upgraded(config: dict[str, Any]) -> dict[str, Any]:
    """Convert a flat config of v3 to v5 to the form of v6."""
    renamed = {"hook_point": "hook_name", "hook_point_head_index": "hook_head_index", "context_length": "context_size"}
    flat = {renamed.get(key, key): value for key, value in config.items()}
    arguments = _dict(flat.get("activation_fn_kwargs"))
    architecture = flat.get("architecture") or "standard"
    if str(flat.get("activation_fn_str") or flat.get("activation_fn") or "") == "topk" and "k" in arguments:
        architecture, flat["k"] = "topk", arguments["k"]
    norm = flat.get("normalize_activations")
    if isinstance(norm, bool) or norm is None:
        flat["normalize_activations"] = "expected_average_only_in" if norm else "none"
    flat.setdefault("prepend_bos", True)
    flat.setdefault("apply_b_dec_to_input", "transcoder" not in architecture)
    return {**flat, "architecture": architecture, "metadata": {**flat, **_dict(config.get("metadata"))}}


def _weights(found: Found, config: dict[str, Any], tensors: Tensors, name: str) -> Weights:
    rule, transcoder, skip = _ARCHITECTURES[name]
    d_in, L = tensors.matrix("W_enc")
    D = tensors.matrix("W_dec")[1] if transcoder else d_in
    for key, size in (("d_in", d_in), ("d_sae", L), *((("d_out", D),) if transcoder else ())):
        if key in config and config[key] != size:
            refuse(found.config or "cfg.json", f"{key} is {config[key]!r}, but W_enc is {(d_in, L)} and W_dec is "
                                               f"{tensors.shape('W_dec')}: the file belongs to another SAE, or is "
                                               "transposed")
    k = config.get("k", 0)
    if rule == "topk" and not (isinstance(k, int | float) and 1 <= k <= L):
        refuse(found.config or "cfg.json", f"k is {k!r}, but should be from 1 to {L}")
    w = Weights(
        W_enc_LD=tensors.take("W_enc", (d_in, L)).T.contiguous(), W_dec_LD=tensors.take("W_dec", (L, D)),
        b_enc_L=tensors.take("b_gate" if rule == "gated" else "b_enc", (L,)), b_dec_D=tensors.take("b_dec", (D,)),
        architecture=rule, k=round(k) if rule in ("topk", "batch_topk", "matryoshka") else 0, transcoder=transcoder,
        centred=bool(config.get("apply_b_dec_to_input", not transcoder)))
    if transcoder and w.centred:
        refuse(found.config or "cfg.json", "is a transcoder with apply_b_dec_to_input, which SAELens itself refuses")
    if rule == "gated":
        w.r_mag_L, w.b_mag_L = tensors.take("r_mag", (L,)), tensors.take("b_mag", (L,))
    if skip:  # applied as x · W_skipᵀ
        w.W_skip_DD = tensors.take("W_skip", (D, d_in)).T.contiguous()
    if rule == "jumprelu":
        w.threshold = tensors.take("threshold", (L,)) if "threshold" in tensors or "log_threshold" not in tensors \
            else tensors.take("log_threshold", (L,)).exp()
    if rule in ("batch_topk", "matryoshka"):  # only training checkpoints: inference files are jumprelu
        theta = tensors.number("topk_threshold")
        if theta is None and not (isinstance(k, int | float) and 1 <= k <= L):
            refuse(found.weights, f"is a {name} without its topk_threshold, and k is {k!r} in the config, so that no "
                                  "threshold can be calibrated")
        w.threshold = w.b_enc_L.new_tensor([-1.0 if theta is None else theta])
    # Inference files have the norms folded already, and the setting is missing or false.
    w.select_by_norm = rule in ("topk", "batch_topk", "matryoshka") and \
        bool(config.get("rescale_acts_by_decoder_norm", rule != "topk"))
    if "scaling_factor" in tensors:
        factor_L = tensors.take("scaling_factor", (L,))
        if bool((factor_L != 1).any()):
            if not config.get("finetuning_scaling_factor"):
                refuse(found.weights, "has a scaling_factor that is not 1, but finetuning_scaling_factor is not set, "
                                      "so it is unclear whether SAELens applies it")
            w.W_dec_LD = w.W_dec_LD * factor_L[:, None]
    return w


def _normalization(
    found: Found, config: dict[str, Any], metadata: dict[str, Any], given: Mapping[str, Any], out: Foreign
) -> None:
    """Set the normalisation of the input: per token, or read from files next to a checkpoint, or asked for."""
    kind, w = str(config.get("normalize_activations") or "none"), out.weights
    if kind not in _NORMS:
        refuse(found.config or "cfg.json", f"normalize_activations {kind[:40]!r} is not supported")
    w.normalize = _NORMS[kind]
    if w.normalize != "none" and w.transcoder:
        refuse(found.config or "cfg.json", f"is a transcoder whose input is normalised token by token ({kind}), which "
                                           "leaves the scale of its output undefined")
    if w.normalize == "none" and _dict(metadata.get("model_from_pretrained_kwargs")).get("center_writing_weights"):
        w.normalize = "centre"
        out.notes.append("trained on a model with centred writing weights: the mean of each token's input is "
                         "subtracted and added back")
    scaler = found.folder / "activation_scaler.json"
    factor = read_json(scaler).get("scaling_factor") if scaler.is_file() else None
    if isinstance(factor, int | float) and not isinstance(factor, bool) and factor > 0:
        w.input_scale = float(factor)
        out.notes.append("a training checkpoint, with its input scale read from activation_scaler.json")
    elif kind == "expected_average_only_in":
        if given.get("input_scale") is None:
            out.asks["input_scale"] = "the factor by which its activations were multiplied (norm_scaling_factor), " \
                                      "1 if it is folded already"
        else:
            w.input_scale = float(given["input_scale"])
    if kind == "covariance_whitening":
        path = found.folder / "activation_whitening.safetensors"
        if not path.is_file():
            refuse(found.config or "cfg.json", "was trained on whitened activations, but activation_whitening."
                                               "safetensors, which is needed to fold the whitening, is not next to it")
        D, whitening = len(w.b_dec_D), read_tensors(path)
        w.whitening = Whitening(whitening.take("mean", (D,)), whitening.take("matrix", (D, D)),
                                whitening.take("inverse_matrix", (D, D)))


def _true_architecture(metadata: dict[str, Any], out: Foreign) -> None:
    """Restore the architecture of a BatchTopK saved as JumpReLU, if the file names it and its k."""
    trained = {"batchtopk": "batch_topk", "matryoshka_batchtopk": "matryoshka"}.get(out.trained_as, "")
    theta_L, w = out.weights.threshold, out.weights
    k = metadata.get("k", _dict(metadata.get("training_architecture_details")).get("k"))
    if w.architecture != "jumprelu" or not trained or theta_L is None or not isinstance(k, int | float) or k < 1:
        return
    if bool((theta_L == theta_L[0]).all()) and not w.transcoder and k <= len(theta_L):
        w.architecture, w.threshold, w.k = trained, theta_L[:1], round(k)
