"""`Router`: the module that owns a router's weights and decides, for each token, who works on it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Self

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headgate import balance as balance_math
from headgate import scores as score_math
from headgate.balance import Balance
from headgate.errors import InputError, SpecError
from headgate.flow import ExpertChoice, Routing, TokenChoice
from headgate.kernels.route import runs_at_once, runs_with_gradients
from headgate.nn.native_route import is_covered, route_natively
from headgate.nn.routing import Batch, Peers, RecordedChoice, RouterState, capacity_rows, route, sharing
from headgate.selection import make_expert_table
from headgate.spec import RouterSpec


class Router(nn.Module):
    """Scores the experts for each token and picks some.

    Parameters: `weight` [E, D] (E counts zero-compute experts too), `bias` [E] and `noise_weight` [E, D] where the
    spec has them, `threshold` [E] for expert choice. Buffers: `selection_bias` [E] float32, `expert_table` [V, K]
    for hash. `selection_bias` and `threshold` stay float32 when the module is cast: their steps are too small for
    narrower types.

    Args:
        d_model: D.
        spec: the router.
        balance: coefficients of the balance losses and the bias step; None = none.
        balance_group: data-parallel group of the global-batch loss; None = all ranks.
        device, dtype: as for `torch.nn.Linear`.

    Raises:
        SpecError: a balance that has no meaning for this router.

    Warns:
        UserWarning: one choice, normalised: its weight never changes, and without a balance loss nor does the router.
    """

    balance_scale: Tensor
    selection_bias: Tensor | None
    expert_table: Tensor | None

    def __init__(
        self,
        d_model: int,
        spec: RouterSpec,
        *,
        balance: Balance | None = None,
        balance_group: dist.ProcessGroup | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        balance = balance or Balance()
        if balance.bias_rate > 0 and not spec.selection_bias:
            spec = replace(spec, selection_bias=True)
        _check_balance(spec, balance)
        if _is_idle(spec, balance):
            _warn_idle(spec)
        self.spec, self.balance, self.d_model = spec, balance, d_model
        self.balance_group = balance_group
        self.tally: Tensor | None = None
        # Set from outside for the time of a replay: what to route to, given the tokens and which are padding.
        self.replayed: Callable[[Tensor, Tensor | None], RecordedChoice] | None = None
        # Set from outside where the tokens of several ranks are one batch.
        self.peers: Peers | None = None
        self._declare(device=device, dtype=dtype)
        self.reset_parameters()

    def _declare(self, **factory: Any) -> None:
        spec = self.spec
        width = spec.num_choices
        has_weight = spec.score != "ones"

        def parameter(wanted: bool, *shape: int, **kind: Any) -> nn.Parameter | None:
            return nn.Parameter(torch.empty(*shape, **{**factory, **kind})) if wanted else None

        self.weight = parameter(has_weight, width, self.d_model)
        self.bias = parameter(has_weight and spec.linear_bias, width)
        self.noise_weight = parameter(has_weight and spec.noise == "learned", width, self.d_model)
        self.threshold = parameter(spec.selection == "expert_choice", width, dtype=torch.float32)
        device = factory["device"]
        zeros = torch.zeros(width, device=device) if spec.selection_bias else None
        self.register_buffer("selection_bias", zeros)
        table = None
        if spec.vocab_size is not None:
            sizes = {"vocab_size": spec.vocab_size, "num_experts": spec.num_choices, "top_k": spec.top_k}
            table = make_expert_table(**sizes).to(device=device)
        self.register_buffer("expert_table", table)
        self.register_buffer("balance_scale", torch.ones((), device=device), persistent=False)

    def reset_parameters(self) -> None:
        """Draw new weights as `torch.nn.Linear` does; noise starts at width softplus(0), bias and threshold at 0."""
        if self.weight is not None:
            bound = 1.0 / math.sqrt(self.d_model)
            nn.init.uniform_(self.weight, -bound, bound)
        for zeroed in (self.bias, self.noise_weight, self.threshold, self.selection_bias):
            if zeroed is not None:
                nn.init.zeros_(zeroed)

    def forward(
        self,
        x: Float[Tensor, "T D"],
        *,
        sequence_length: int | None = None,
        token_ids: Int[Tensor, " T"] | None = None,
        is_padding: Bool[Tensor, " T"] | None = None,
        keeps_rows: bool = False,
    ) -> Routing:
        """Route T tokens.

        Args:
            x: [T, D]; padding is read as zeros.
            sequence_length: the tokens are sequences of this length; None = one sequence.
            token_ids: [T], for hash routers.
            is_padding: [T], tokens that no expert may get.
            keeps_rows: the plan has T * K rows whatever is dropped; see `plan_token_choice`.

        Returns:
            The decision, with its autograd graph.

        Raises:
            InputError: no token ids for a hash router.
        """
        if is_padding is None and self.decides_at_once(x):
            assert self.weight is not None  # Every covered spec has one.
            return route_natively(self.spec, x, self.weight, self.bias, self.selection_bias)
        batch = Batch(
            sequence_length=x.shape[0] if sequence_length is None else sequence_length,
            training=self.training,
            token_ids=token_ids,
            is_padding=is_padding,
            recorded=None if self.replayed is None else self.replayed(x, is_padding),
            peers=self.peers,
            keeps_rows=keeps_rows,
        )
        routing = self._route(x, batch)
        choice = routing.choice
        losses = self._losses(routing.logits, routing.scores, choice, batch)
        if self.training and torch.is_grad_enabled():
            choice = self._add_gradients(choice, losses, batch)
        return replace(routing, choice=choice, losses={name: value.detach() for name, value in losses.items()})

    def _route(self, x: Float[Tensor, "T D"], batch: Batch) -> Routing:
        """The decision, before its losses."""
        if self._decides_in_kernels(x, batch):
            assert self.weight is not None  # Every covered spec has one.
            return route_natively(self.spec, x, self.weight, self.bias, self.selection_bias)
        logits, deciding, scores = self._score(x, batch)
        state = RouterState(
            selection_bias=self.selection_bias, threshold=self.threshold, expert_table=self.expert_table
        )
        choice, plan = route(self.spec, deciding, scores, batch, state)
        padding = batch.is_padding
        return Routing(logits=logits, scores=scores, choice=choice, plan=plan, is_padding=padding, losses={})

    def decides_at_once(self, x: Float[Tensor, "... D"]) -> bool:
        """Whether one pass decides: for inference, by a spec that it covers, with no loss to report.

        On a CPU that pass is native, and a token's route has the same bits alone and in any batch.
        """
        # Training mode without a graph may be activation checkpointing's first pass, which the second, with a graph,
        # must repeat to the bit.
        if self.replayed is not None or self.training or self.balance.has_losses or not is_covered(self.spec):
            return False
        tensors = (x, self.weight, self.bias)
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors if t is not None):
            return False
        return self._is_plain(x) and runs_at_once(*self._kinds(x))

    def _decides_in_kernels(self, x: Float[Tensor, "T D"], batch: Batch) -> bool:
        """Whether a GPU's kernels decide, gradients included: two launches, where nothing is random or left out."""
        spec = self.spec
        if batch.recorded is not None or batch.is_padding is not None or not is_covered(spec):
            return False
        if self.training and (spec.jitter > 0 or self.noise_weight is not None or spec.second_expert != "best"):
            return False
        return self._is_plain(x) and runs_with_gradients(*self._kinds(x))

    def _is_plain(self, x: Float[Tensor, "... D"]) -> bool:
        weight, bias = self.weight, self.bias
        # A subclass, such as a weight sharded over ranks, has memory of its own kind.
        if type(x) is not Tensor or type(weight) is not nn.Parameter or x.device != weight.device:
            return False
        return bias is None or bias.dtype == weight.dtype

    def _kinds(self, x: Float[Tensor, "... D"]) -> tuple[str, torch.dtype, torch.dtype, int, int]:
        assert self.weight is not None  # Every covered spec has one.
        return x.device.type, x.dtype, self.weight.dtype, self.spec.num_choices, self.spec.top_k

    def _score(self, x: Float[Tensor, "T D"], batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Raw logits, the logits that decide (with noise in training), and their scores."""
        spec = self.spec
        wide = score_math.working_dtype(x.dtype)
        if self.weight is None:
            blank = x.new_zeros((x.shape[0], spec.num_choices), dtype=wide)
            return blank, blank, torch.ones_like(blank)
        seen = x if batch.is_padding is None else x.masked_fill(batch.is_padding[:, None], 0.0)
        if self.training and spec.jitter > 0:
            seen = score_math.jitter_tokens(seen, jitter=spec.jitter)
        logits = score_math.compute_logits(seen, self.weight, self.bias, linear_dtype=spec.linear_dtype)
        deciding = logits
        if self.training and self.noise_weight is not None:
            noise = score_math.compute_logits(seen, self.noise_weight, None, linear_dtype=spec.linear_dtype)
            deciding = score_math.add_learned_noise(logits, noise)
        scores = score_math.compute_scores(
            deciding, score=spec.score, score_dtype=spec.score_dtype, model_dtype=x.dtype
        )
        # SparseMixer compares differences of logits with a threshold: in PhiMoE, rounded as the model's dtype rounds.
        decides_in_model_dtype = spec.selection == "sparsemixer" and spec.score_dtype == "model"
        return logits.to(wide), deciding.to(x.dtype if decides_in_model_dtype else wide), scores

    def _losses(
        self, logits: Tensor, scores: Tensor, choice: TokenChoice | ExpertChoice, batch: Batch
    ) -> dict[str, Tensor]:
        """The value of each balance loss with a coefficient, and of expert choice's threshold in training."""
        balance, padding = self.balance, batch.is_padding
        of_batch: dict[str, Any] = {"is_padding": padding, "add_ranks": None if self.peers is None else self.peers.add}
        losses: dict[str, Tensor] = {}
        if balance.z > 0:
            losses["z"] = balance_math.z_loss(logits, **of_batch)
        if balance.importance > 0:
            losses["importance"] = balance_math.importance_loss(scores, **of_batch)
        if isinstance(choice, ExpertChoice):
            if self.training and self.threshold is not None:
                losses["threshold"] = self._threshold_loss(scores, batch, **of_batch)
            return losses
        if balance.switch > 0 or balance.global_batch > 0:
            counts = self._counts(choice, padding)
            if balance.switch > 0:
                in_batch = counts if self.peers is None else self.peers.add(counts)
                losses["switch"] = balance_math.switch_loss(scores, in_batch, **of_batch)
            if balance.global_batch > 0:
                everywhere = balance_math.reduce_counts(counts, self.balance_group)
                losses["global_batch"] = balance_math.switch_loss(scores, everywhere, **of_batch)
        if balance.sequence > 0:
            losses["sequence"] = balance_math.sequence_loss(
                scores, choice.expert_ids, sequence_length=batch.sequence_length, **of_batch
            )
        return losses

    def _threshold_loss(self, scores: Tensor, batch: Batch, **of_batch: Any) -> Tensor:
        assert self.threshold is not None  # Both belong to expert choice.
        assert self.spec.capacity is not None
        peers = sharing(self.spec.capacity, batch).peers
        num_tokens = scores.shape[0]
        if peers is not None:
            num_tokens = int(peers.add(torch.tensor([num_tokens], device=scores.device)))
        capacity, shared = capacity_rows(self.spec.capacity, self.spec, batch, num_tokens)
        fraction = capacity / max(shared, 1)
        return balance_math.quantile_loss(scores, self.threshold.to(scores.dtype), fraction=fraction, **of_batch)

    def _counts(self, choice: TokenChoice, is_padding: Tensor | None) -> Tensor:
        return balance_math.count_choices(choice.expert_ids, num_experts=self.spec.num_choices, is_padding=is_padding)

    def _add_gradients(
        self, choice: TokenChoice | ExpertChoice, losses: dict[str, Tensor], batch: Batch
    ) -> TokenChoice | ExpertChoice:
        """Tie the losses' gradients, and the tally of the bias step, to the combine weights' way back.

        The combine weights, not the scores, carry them: where weights come from the logits (softmax over the
        chosen) nothing flows back through the scores.
        """
        weights = choice.combine_weights
        if losses and weights.requires_grad:
            terms = [self._coefficient(name) * value for name, value in losses.items()]
            total = torch.stack([term.to(weights.dtype) for term in terms]).sum()
            weights = balance_math.add_loss_gradient(weights, total * self.balance_scale.to(weights.dtype))
        if isinstance(choice, ExpertChoice):
            return replace(choice, combine_weights=weights)
        if self.balance.bias_rate > 0:
            if self.tally is None:
                _warn_detached_bias()
            elif weights.requires_grad:
                counts = self._counts(choice, batch.is_padding)
                weights = balance_math.count_in_backward(weights, counts, self.tally)
        return replace(choice, combine_weights=weights)

    def _coefficient(self, name: str) -> float:
        return 1.0 if name == "threshold" else float(getattr(self.balance, name))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the module, but leave `selection_bias` and `threshold` in float32."""
        bias, threshold = self.selection_bias, None if self.threshold is None else self.threshold.data
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if bias is not None and self.selection_bias is not None and self.selection_bias.dtype != bias.dtype:
            self.selection_bias = bias.to(self.selection_bias.device)
        if threshold is not None and self.threshold is not None and self.threshold.dtype != threshold.dtype:
            self.threshold.data = threshold.to(self.threshold.device)
        if self.tally is not None:
            self.tally = self.tally.to(self.balance_scale.device)
        return self

    def extra_repr(self) -> str:
        """Sizes and how experts are picked."""
        spec = self.spec
        return (
            f"d_model={self.d_model}, num_experts={spec.num_experts}, top_k={spec.top_k}, "
            f"score={spec.score!r}, selection={spec.selection!r}"
        )


def check_token_ids(token_ids: Tensor, vocab_size: int) -> None:
    """Raise for token ids outside a hash router's table; called where it costs no device synchronisation.

    Raises:
        InputError: the smallest or largest id, and the table's size.
    """
    if token_ids.numel() == 0:
        return
    low, high = int(token_ids.min()), int(token_ids.max())
    if low < 0 or high >= vocab_size:
        raise InputError(
            f"token_ids (={low}..{high}) must be in [0, vocab_size (={vocab_size})); "
            "build the hash router with the tokenizer's full size"
        )


def _check_balance(spec: RouterSpec, balance: Balance) -> None:
    by_choice = {name: getattr(balance, name) for name in ("switch", "sequence", "global_batch")}
    active = [name for name, value in by_choice.items() if value > 0]
    if active and spec.selection == "expert_choice":
        raise SpecError(f"balance {active} has no use in expert choice, where every expert takes equally many; drop it")
    if active and spec.score == "linear":
        raise SpecError(f"balance {active} needs scores that are not negative, and score is 'linear'; use balance 'z'")
    if spec.score == "ones" and any(getattr(balance, name) > 0 for name in ("z", "importance", *by_choice)):
        raise SpecError("a router with score 'ones' has no weights that a balance loss could move; use balance=None")


def _is_idle(spec: RouterSpec, balance: Balance) -> bool:
    """Whether the router has weights that no gradient will ever reach: a single choice divided by itself is 1."""
    # An epsilon of the size of a score leaves the weight its slope.
    is_divided = spec.normalise == "softmax" or (spec.normalise == "sum" and spec.epsilon < 1e-3)
    is_constant = spec.top_k == 1 and is_divided and spec.score != "ones" and spec.num_choices > 1
    return is_constant and not balance.has_losses


def _warn_idle(spec: RouterSpec) -> None:
    warnings.warn(
        f"top_k (=1) with normalise (={spec.normalise!r}) gives every token the same weight, so training leaves the "
        "router as it is; use normalise='none', as Switch does, or add a balance loss. For inference alone "
        "this is fine.",
        UserWarning,
        stacklevel=3,
    )


def _warn_detached_bias() -> None:
    if not torch.compiler.is_compiling():
        warnings.warn(
            "balance bias_rate is set, but nothing steps the selection bias; routing trains unbalanced. "
            "Call headgate.attach_balance(model, optimizer) once, after building the optimizer.",
            UserWarning,
            stacklevel=2,
        )
