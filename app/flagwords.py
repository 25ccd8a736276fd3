"""The flags of latents, as pages name and explain them."""

from __future__ import annotations

from sae.store.latent_query import LIVING
from sae.store.records import FLAGS

FLAG_NAMES = {
    LIVING: "living", "dead": "dead", "dense": "dense", "rare": "rare", "single_token": "single token",
    "position_bound": "position-bound", "punctuation": "punctuation", "number": "numbers", "capital": "capitals",
}
FLAG_WORDS = {LIVING: "fired at least once", **FLAGS}
