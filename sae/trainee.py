"""An SAE in training: parameters, one optimisation step with hand-derived gradients, state.

    y      normalised activations                        loss = FVU + α · AuxK
    pre    = (y − b_dec) · W_encᵀ + b_enc                FVU  = Σ‖y − ŷ‖² / (B · var)
    f      = select(pre)   sparse                        AuxK = Σ‖e − ê‖² / Σ‖e − ē‖², e = y − ŷ detached,
    ŷ      = f · W_dec + b_dec                                  ê from the k_aux strongest dead latents, no bias

`var` is the variance per token of the data, fixed before the first step, so the loss has the
same meaning on every model.  The encoder product is the only work of size B x L; the decoder
and all gradients work on the selected pairs.  It runs in bfloat16, on float32 weights.

Shapes: B tokens, L latents, D width, N selected pairs, M dead latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sae.architectures import make
from sae.architectures.base import Sparsity
from sae.kernels.codes import Codes

ADAM_BETAS = (0.9, 0.99)  # BatchTopK paper, appendix A.1
ADAM_EPS = 6.25e-10  # Gao et al. 2024: gradients of a normalised loss are far below Adam's usual 1e-8


@dataclass
class StepResult:
    """Sums over one batch, as zero-dimensional tensors (no device sync)."""

    codes: Codes
    error_BD: Tensor
    loss: Tensor
    aux_loss: Tensor


class Trainee:
    """The parameters of one SAE and their Adam state."""

    def __init__(
        self, *, architecture: str, n_latents: int, d_model: int, k: int, k_aux: int, aux_alpha: float,
        dead_after_tokens: int, clip_norm: float, variance: float, b_dec_D: Tensor, seed: int,
        device: torch.device, product_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        W_dec_LD = torch.randn(n_latents, d_model, generator=generator)
        W_dec_LD = W_dec_LD / W_dec_LD.norm(dim=1, keepdim=True)
        self.W_dec_LD = torch.nn.Parameter(W_dec_LD.to(device))
        self.W_enc_LD = torch.nn.Parameter(W_dec_LD.to(device, copy=True))  # the decoder's transpose
        self.b_enc_L = torch.nn.Parameter(torch.zeros(n_latents, device=device))
        self.b_dec_D = torch.nn.Parameter(b_dec_D.detach().clone().float().to(device))
        self.sparsity: Sparsity = make(architecture, k)
        self.k_aux, self.aux_alpha, self.clip_norm = k_aux, aux_alpha, clip_norm
        self.dead_after_tokens, self.variance, self.product_dtype = dead_after_tokens, variance, product_dtype
        self.silent_tokens_L = torch.zeros(n_latents, dtype=torch.int64, device=device)
        self.optimizer = torch.optim.Adam(self.parameters(), lr=1.0, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)

    def parameters(self) -> list[torch.nn.Parameter]:
        return [self.W_enc_LD, self.b_enc_L, self.W_dec_LD, self.b_dec_D]

    @property
    def n_dead(self) -> int:
        return int((self.silent_tokens_L > self.dead_after_tokens).sum())

    @torch.no_grad()
    def step(self, y_BD: Tensor, lr: float) -> StepResult:
        """One Adam step on a batch of normalised activations (float32)."""
        result = self.gradients(y_BD)
        self._remove_parallel_gradient()
        torch.nn.utils.clip_grad_norm_(self.parameters(), self.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.W_dec_LD.data /= self.W_dec_LD.norm(dim=1, keepdim=True)
        self.silent_tokens_L += len(y_BD)
        self.silent_tokens_L[result.codes.latent_N] = 0
        return result

    @torch.no_grad()
    def gradients(self, y_BD: Tensor) -> StepResult:
        """Set `.grad` of every parameter to the gradient of the loss on this batch."""
        B = len(y_BD)
        centred_BD = y_BD - self.b_dec_D
        pre_BL = self._encoder_product(centred_BD)
        codes = self.sparsity.select_training(pre_BL)
        error_BD = y_BD - (codes.decode(self.W_dec_LD) + self.b_dec_D)

        grad_out_BD = error_BD * (-2.0 / (B * self.variance))
        # Selected pre-activations are positive, so the gradient of ReLU is 1 on all of them.
        grad_codes = codes.with_values(codes.sampled_product(grad_out_BD, self.W_dec_LD))
        self.W_dec_LD.grad = codes.transpose_matmul(grad_out_BD)
        self.W_enc_LD.grad = grad_codes.transpose_matmul(centred_BD)
        self.b_enc_L.grad = grad_codes.latent_sum_L()
        self.b_dec_D.grad = grad_out_BD.sum(dim=0)
        aux_loss = self._add_aux_gradients(pre_BL, centred_BD, error_BD)
        # b_dec is subtracted before the encoder, so it feels the negative of what the encoder's input feels.
        self.b_dec_D.grad -= self.b_enc_L.grad @ self.W_enc_LD
        loss = error_BD.square().sum() / (B * self.variance) + self.aux_alpha * aux_loss
        return StepResult(codes, error_BD, loss, aux_loss)

    def _encoder_product(self, centred_BD: Tensor) -> Tensor:
        dtype = self.product_dtype
        return torch.addmm(self.b_enc_L.to(dtype), centred_BD.to(dtype), self.W_enc_LD.to(dtype).T)

    def _add_aux_gradients(self, pre_BL: Tensor, centred_BD: Tensor, error_BD: Tensor) -> Tensor:
        """AuxK (Gao et al. 2024, section 2.4): dead latents learn to explain what is left over."""
        zero = torch.zeros((), device=error_BD.device)
        dead_M = (self.silent_tokens_L > self.dead_after_tokens).nonzero().squeeze(1)
        spread = (error_BD - error_BD.mean(dim=0)).square().sum()
        if not self.aux_alpha or not self.k_aux or not len(dead_M) or spread == 0:
            return zero
        # Dense products over the dead latents, in the dtype of the other big products.
        z_BM = pre_BL[:, dead_M].relu_()
        if len(dead_M) > self.k_aux:
            z_BM *= z_BM >= z_BM.topk(self.k_aux, dim=1, sorted=False).values.amin(dim=1, keepdim=True)
        W_dec_MD = self.W_dec_LD[dead_M].to(z_BM.dtype)
        rest_BD = error_BD - (z_BM @ W_dec_MD).float()
        grad_BD = (rest_BD * (-2.0 * self.aux_alpha / spread)).to(z_BM.dtype)
        grad_z_BM = (grad_BD @ W_dec_MD.T) * (z_BM > 0)
        for parameter in (self.W_dec_LD, self.W_enc_LD, self.b_enc_L):
            assert parameter.grad is not None
        self.W_dec_LD.grad[dead_M] += (z_BM.T @ grad_BD).float()  # type: ignore[index]
        self.W_enc_LD.grad[dead_M] += (grad_z_BM.T @ centred_BD.to(z_BM.dtype)).float()  # type: ignore[index]
        self.b_enc_L.grad[dead_M] += grad_z_BM.float().sum(dim=0)  # type: ignore[index]
        return rest_BD.square().sum() / spread

    def _remove_parallel_gradient(self) -> None:
        """Take out of each decoder row's gradient the part along the row: its norm stays 1 anyway."""
        grad_LD = self.W_dec_LD.grad
        assert grad_LD is not None
        grad_LD -= (grad_LD * self.W_dec_LD).sum(dim=1, keepdim=True) * self.W_dec_LD

    # ---- state

    def tensors(self) -> dict[str, Tensor]:
        """The weights by their names in an artefact."""
        names = ("W_enc", "b_enc", "W_dec", "b_dec")
        return {name: p.detach() for name, p in zip(names, self.parameters(), strict=True)}

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs to go on bit for bit."""
        return {
            "tensors": self.tensors(), "optimizer": self.optimizer.state_dict(),
            "silent": self.silent_tokens_L, "sparsity": self.sparsity.state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        for parameter, tensor in zip(self.parameters(), state["tensors"].values(), strict=True):
            parameter.data.copy_(tensor)
        self.optimizer.load_state_dict(state["optimizer"])
        self.silent_tokens_L.copy_(state["silent"])
        self.sparsity.load_state(state["sparsity"])
