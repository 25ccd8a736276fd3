"""Names of the values of measures, how they are written, and which direction is better.  No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Better = Literal["low", "high", ""]


@dataclass(frozen=True)
class Key:
    """A value as pages show it.  `form` is number, percent or whole."""

    name: str
    better: Better = ""
    form: str = "number"
    main: bool = False  # whether it is shown before the others


KEYS: dict[str, Key] = {
    "fvu": Key("FVU", "low", main=True),
    "explained_variance": Key("Explained variance", "high"),
    "saebench_explained_variance": Key("Explained variance (SAEBench)", "high"),
    "explained_variance_legacy": Key("Explained variance (legacy)", "high"),
    "nmse": Key("NMSE", "low"),
    "mse": Key("MSE", "low"),
    "cossim": Key("Cosine of x and x̂", "high", main=True),
    "l2_norm_in": Key("‖x‖"),
    "l2_norm_out": Key("‖x̂‖"),
    "l2_ratio": Key("‖x̂‖ / ‖x‖", main=True),
    "relative_reconstruction_bias": Key("Relative reconstruction bias"),
    "l0": Key("L0, held-out text", "low", main=True),
    "l0_std": Key("L0 spread"),
    "l1": Key("L1"),
    "alive_share": Key("Alive, held-out text", "high", "percent", True),
    "dead_fraction": Key("Dead, held-out text", "low", "percent"),
    "freq_over_1_percent": Key("Latents on over 1% of tokens", form="percent"),
    "freq_over_10_percent": Key("Latents on over 10% of tokens", form="percent"),
    "normalized_freq_over_1_percent": Key("Firings of latents over 1%", form="percent"),
    "normalized_freq_over_10_percent": Key("Firings of latents over 10%", form="percent"),
    "average_max_encoder_cosine_sim": Key("Nearest encoder row"),
    "average_max_decoder_cosine_sim": Key("Nearest decoder row"),
    "encoder_decoder_cosine": Key("Encoder with decoder row"),
    "ce_clean": Key("CE without the SAE"),
    "ce_sae": Key("CE with the SAE", "low"),
    "ce_zero": Key("CE at zero"),
    "ce_mean": Key("CE at the mean"),
    "delta_ce": Key("ΔCE", "low", main=True),
    "ce_recovered_zero": Key("CE recovered (zero)", "high", "percent"),
    "ce_recovered_mean": Key("CE recovered (mean)", "high", "percent", main=True),
    "kl_sae": Key("KL with the SAE", "low"),
    "kl_zero": Key("KL at zero"),
    "kl_mean": Key("KL at the mean"),
    "kl_recovered_zero": Key("KL recovered (zero)", "high", "percent"),
    "kl_recovered_mean": Key("KL recovered (mean)", "high", "percent", main=True),
    "probe_loss": Key("Probe loss of the best latent", "low", main=True),
    "probe_loss_train": Key("Probe loss on train examples", "low"),
    "probe_loss_base": Key("Loss of guessing", main=True),
    "tasks": Key("Tasks", "", "whole", True),
    "concept_f1": Key("Concept F1", "high", main=True),
    "concept_f1_chosen": Key("Concept F1 on the other half", "high"),
    "concept_token_f1": Key("Concept F1 by token", "high", main=True),
    "concepts_over_half": Key("Concepts with F1 over 0.5", "high", "whole", True),
    "pairs_over_half": Key("Pairs with F1 over 0.5", "high", "whole"),
    "concepts": Key("Concepts", "", "whole", True),
    "mmcs": Key("MMCS with another seed", "high", main=True),
    "mmcs_random": Key("MMCS with random directions", main=True),
    "shared": Key("Shared latents", "high", "percent", True),
    "kept": Key("Kept", "", "percent", True),
    "split": Key("Split", "", "percent", True),
    "lost": Key("Lost", "", "percent", True),
    "novel": Key("Novel", "", "percent", True),
    "mean_absorption_fraction_score": Key("Absorption fraction", "low", main=True),
    "mean_full_absorption_score": Key("Full absorption", "low", main=True),
    "mean_num_split_features": Key("Main latents of a letter", main=True),
    "letters": Key("Letters", "", "whole", True),
    "decoder_fraction_variance_explained": Key("Decoder variance explained", "low", "percent", True),
    "random_fraction_variance_explained": Key("The same, random directions", "", "percent", True),
    "share_latent": Key("Effective share of logits", "low", "percent", True),
    "share_channel": Key("The same, one channel", "", "percent", True),
    "share_random": Key("The same, random direction", "", "percent", True),
    "kl_latent": Key("KL, latent switched off", main=True),
    "kl_random": Key("KL, random direction", main=True),
    "kl_ratio": Key("KL of latents over KL of random directions", "high", main=True),
    "kl_wins": Key("Firings where the latent matters more", "high", "percent", True),
    "delta_ce_latent": Key("ΔCE, latent switched off"),
    "delta_ce_random": Key("ΔCE, random direction"),
    "refinement_bias": Key("Shrinkage that refinement finds", main=True),
    "refinement_size": Key("Size of refinement", main=True),
    "fvu_own": Key("FVU, own activations", "low", main=True),
    "fvu_refined": Key("FVU, refined", "low", main=True),
    "recovery_best_k_topk": Key("Best k, TopK(k)", "", "whole", True),
    "recovery_best_k_threshold": Key("Best k, one threshold", "", "whole", True),
    "recovery_fvu_double_topk": Key("FVU at twice L0 over FVU, TopK(k)", "low"),
    "recovery_fvu_double_threshold": Key("FVU at twice L0 over FVU, one threshold", "low"),
    "l0_bos": Key("L0 on BOS", "", "whole"),
    "uniqueness": Key("Uniqueness", "high"),
    "shrinkage": Key("Shrinkage, ‖x̂‖ / ‖x‖"),
    "n2g_precision": Key("Precision, held-out text", "high", "percent", True),
    "n2g_recall": Key("Recall, held-out text", "high", "percent", True),
    "n2g_f1": Key("F1, held-out text", "high", main=True),
    "n2g_top_precision": Key("Precision, top contexts", "high", "percent", True),
    "n2g_top_recall": Key("Recall, top contexts", "high", "percent", True),
    "n2g_explained": Key("Firings that give a pattern", "", "percent"),
    "rule_precision": Key("Precision of short rules", "high", "percent", True),
    "rule_recall": Key("Recall of short rules", "high", "percent", True),
    "rule_f1": Key("F1 of short rules", "high", main=True),
}
_BETTER: tuple[tuple[str, Better], ...] = (  # words in keys that are not listed
    ("accuracy", "high"), ("auc", "high"), ("f1", "high"), ("precision", "high"), ("recall", "high"),
    ("mcc", "high"), ("mmcs", "high"), ("loss", "low"), ("fvu", "low"), ("absorption", "low"))
_SPELLED = {"auc": "AUC", "f1": "F1", "fvu": "FVU", "l0": "L0", "ce": "CE", "kl": "KL", "mcc": "MCC", "mmcs": "MMCS",
            "sae": "SAE", "n2g": "N2G", "llm": "LLM"}


def key_of(key: str) -> Key:
    """Return how a value is shown; a key that is not listed is spelled out."""
    if key in KEYS:
        return KEYS[key]
    words = key.split("_")
    if words[0] == "sparse" and len(words) == 3:  # probes on the best few latents
        score = _SPELLED.get(words[2], words[2])
        return Key(f"Best latent: {score}" if words[1] == "1" else f"{words[1]} latents: {score}", "high",
                   main=words[2] == "accuracy")
    if words[0] == "raw" and len(words) == 2:
        return Key(f"Raw activations: {_SPELLED.get(words[1], words[1])}", "high", main=words[1] == "accuracy")
    better: Better = next((better for word, better in _BETTER if word in words), "")
    name = " ".join(_SPELLED.get(word, word) for word in words)
    return Key(name[:1].upper() + name[1:], better)
