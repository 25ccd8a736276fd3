"""A steering run as a stand-alone Python program that uses plain transformer_lens.  No torch.

A greedy run gives the same tokens as on the page, except for ties.  A sampled run follows the same distribution but
gives other tokens, because the program draws with torch's generator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sae.steering.request import Intervention, SteerRequest

_HEAD = '''"""{title}"""
import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from transformer_lens.model_bridge import TransformerBridge

torch.manual_seed({seed})
bridge = TransformerBridge.boot_transformers({source!r}, device="cpu", dtype=torch.float32)
bridge.eval()
tokenizer = bridge.tokenizer
special = {{*tokenizer.all_special_ids, *(i for i, added in tokenizer.added_tokens_decoder.items() if added.special)}}
listed = bridge.original_model.generation_config.eos_token_id
ends = {{tokenizer.eos_token_id, *(listed if isinstance(listed, list) else [listed])}}
bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
{prompt}
n_prompt = len(ids)

# Config and tensors of each SAE.  Decoder rows have length 1, the unit of activations.
saes = {{name: (json.loads(Path(folder, "sae.json").read_text()), load_file(folder + "/sae.safetensors"))
        for name, folder in {folders}.items()}}
interventions = {interventions}
width_of = {{config["site"]["hook"]: t["W_dec"].shape[1] for config, t in saes.values()}}


def changes(position, token):
    return position >= {first} and ({special} or token not in special)


def activations(config, t, x):
    """Return all activations [S, L] of x [S, D], and the scale [S, 1] of each token."""
    shift, scale = torch.zeros(len(x), 1), torch.ones(len(x), 1)
    if config["normalize"] == "layer_norm":
        shift, scale = x.mean(1, keepdim=True), x.std(1, keepdim=True) + 1e-5
    pre = ((x - shift) / scale - t.get("b_in", t["b_dec"])) @ t["W_enc"].T + t["b_enc"]
    if config["architecture"] in ("topk",):
        kept = pre.topk(config["k"], dim=1)
        acts = torch.zeros_like(pre).scatter_(1, kept.indices, kept.values.clamp(min=0))
    else:
        acts = torch.where(pre > t["threshold"], pre, 0.0) if "threshold" in t else pre.clamp(min=0)
    if "activation_scale" in t:
        acts = acts * t["activation_scale"]
    return acts, torch.ones_like(scale) if config["site"].get("out_hook") else scale


def edit_of(hook, positions):
    chosen = [i for i in interventions if saes[i["sae"]][0]["site"]["hook"] == hook]

    def edit(x, hook=None):
        shape, x = x.shape, x.reshape(len(positions), -1)
        out = x.clone()
        for i in chosen:
            config, t = saes[i["sae"]]
            acts, scale = activations(config, t, x)
            a, d, s, top = acts[:, i["latent"]][:, None], t["W_dec"][i["latent"]], i["strength"], i["max_act"]
            amount = {{"add": s * top + 0 * a, "clamp": s * top - a, "scale": (s - 1) * a, "ablate": -a,
                      "remove": 0 * a}}[i["mode"]]
            out = out + amount * scale * d
        removed = [saes[i["sae"]][1]["W_dec"][i["latent"]] for i in chosen if i["mode"] == "remove"]
        if removed:
            basis = torch.linalg.svd(torch.stack(removed), full_matrices=False)[2]
            out = out - (out @ basis.T) @ basis
        keep = torch.tensor([not changes(p, ids[p]) for p in positions])[:, None]
        return torch.where(keep, x, out).view(shape)

    return edit


def hooks_of(hook, edit):
    """Where an edit of a hook point is done: the residual stream passes hook_resid_mid by."""
    whole, _, head = hook.partition(":h")
    if head:  # one head is some of the coordinates of all
        own = slice(int(head) * width_of[hook], (int(head) + 1) * width_of[hook])

        def of_all(x, hook=None):
            out = x.reshape(x.shape[0], x.shape[1], -1).clone()
            out[..., own] = edit(out[..., own])
            return out.view(x.shape)

        return [(whole, of_all)]
    if not hook.endswith("hook_resid_mid"):
        return [(hook.replace("hook_mlp_in", "ln2.hook_in"), edit)]
    block, kept = hook.rpartition(".")[0], [None, None, None]

    def take(middle, hook=None):
        kept[:2] = [middle, edit(middle)]
        return kept[1]

    def keep(mlp, hook=None):
        kept[2] = mlp
        return mlp

    def put(out, hook=None):
        return torch.where(kept[1] == kept[0], out, kept[1] + kept[2])

    return [(hook, take), (block + ".hook_mlp_out", keep), (block + ".hook_resid_post", put)]


def draw(logits):
    temperature, top_p, top_k, penalty = {temperature}, {top_p}, {top_k}, {penalty}
    if penalty != 1:
        seen = torch.tensor(sorted(set(ids)))
        logits[seen] = torch.where(logits[seen] > 0, logits[seen] / penalty, logits[seen] * penalty)
    if temperature == 0:
        return int(logits.argmax())
    logits = logits / temperature
    if 0 < top_k < len(logits):
        logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
    p, order = logits.softmax(0).sort(descending=True)
    p[p.cumsum(0) - p >= top_p] = 0
    return int(order[torch.multinomial(p, 1)])


cache, pending = None, list(range(len(ids)))
with torch.no_grad():
    while len(ids) < n_prompt + {length}:
        hooks = sorted({{saes[i["sae"]][0]["site"]["hook"] for i in interventions}})
        past = {{}} if cache is None else {{"past_key_values": cache}}
        pairs = [pair for hook in hooks for pair in hooks_of(hook, edit_of(hook, pending))]
        with bridge.hooks(fwd_hooks=pairs):
            logits, cache = bridge(torch.tensor([[ids[p] for p in pending]]), return_type="logits_and_cache", **past)
        ids.append(draw(logits[0, -1].float()))
        pending = [len(ids) - 1]
        if {eos} and ids[-1] in ends:
            break
        if any(stop in tokenizer.decode(ids[n_prompt:]) for stop in {stops}):
            break

print(json.dumps(ids[n_prompt:]))
print(tokenizer.decode(ids[n_prompt:]))
'''


@dataclass(frozen=True)
class SnippetSae:
    """The facts about an SAE that a program needs: its folder, and architecture, normalize and site of `sae.json`."""

    folder: str
    architecture: str
    normalize: str
    out_hook: str | None = None
    hook: str = ""
    markup: bool = False  # whether special tokens that are spelled in a prompt are read as these tokens


def render(request: SteerRequest, saes: Mapping[str, SnippetSae], source: str, title: str = "") -> str | None:
    """Return the program for the request's steered column.  `source` is the name or path that loads the model.

    Returns None for an SAE that the program does not cover: a transcoder, or an architecture or normalisation
    with other rules.
    """
    used = {i.sae: saes[i.sae] for i in request.interventions}
    if not all(_covered(sae) for sae in used.values()):
        return None
    s, where = request.sampling, request.where
    return _HEAD.format(
        title=(title or "A steering run of saescope").replace('"', "'").replace("\\", "/"), seed=s.seed, source=source,
        prompt=_prompt(request, any(sae.markup for sae in used.values()) if request.markup is None else request.markup),
        folders=repr({name: sae.folder for name, sae in used.items()}),
        interventions=_list(request.interventions), special=where.special,
        first={"all": "0", "output": "n_prompt", "from": str(where.start)}[where.positions],
        temperature=s.temperature, top_p=s.top_p, top_k=s.top_k, penalty=s.repetition_penalty, length=s.length,
        eos=s.stop_at_eos, stops=repr(list(s.stop)))


def _covered(sae: SnippetSae) -> bool:
    return (sae.out_hook is None and sae.architecture in ("batch_topk", "matryoshka", "topk", "jumprelu", "relu")
            and not sae.hook.endswith(".hook_normalized") and sae.normalize in ("none", "dataset", "layer_norm"))


def _prompt(request: SteerRequest, markup: bool) -> str:
    if not request.chat:
        return (f"ids = [bos, *tokenizer({request.prompt!r}, add_special_tokens=False, "
                f"split_special_tokens={not markup})[\"input_ids\"]]")
    messages = json.dumps([message.model_dump() for message in request.chat])
    return (f"ids = tokenizer.apply_chat_template({messages}, add_generation_prompt=True, return_dict=False)\n"
            "ids = ids if ids[0] == bos or tokenizer.init_kwargs.get('bos_token', bos) is None else [bos, *ids]")


def _list(interventions: tuple[Intervention, ...]) -> str:
    rows = [repr({"sae": i.sae, "latent": i.latent, "mode": i.mode, "strength": i.strength, "max_act": i.max_act})
            for i in interventions]
    return "[\n    " + ",\n    ".join(rows) + "]"
