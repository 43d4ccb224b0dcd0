"""Why reinforcement learning on a Mixture-of-Experts model replays the routing of its rollouts.

A small policy is sampled in bfloat16 and trained in float32, as engines and trainers do. Where the two precisions
choose other experts, the trainer computes the probabilities of another model than the one that acted, and the
importance ratios are off before anything was learned. Replay routes the training pass through the experts of the
rollout.

    python examples/policy_gradient.py
"""

from __future__ import annotations

import copy
import os
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import headgate
from headgate.demo.config import ModelConfig
from headgate.demo.model import DemoModel
from headgate.observe.agreement import overlap_at_k
from headgate.observe.trace import RoutingTrace

VOCABULARY, BATCH, LENGTH, STEPS = 64, 16, 48, 6
CLIP = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """What the policy did in bfloat16.

    Attributes:
        tokens: [B, S + 1], the first one given.
        log_probs: [B, S] of the tokens that it took.
        trace: the routing of the first S tokens.
    """

    tokens: Tensor
    log_probs: Tensor
    trace: RoutingTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a training step saw, before its update.

    Attributes:
        changed_fraction: tokens (in a layer) that train with other experts than they were sampled with.
        mean_log_ratio: mean of |ln(pi_train / pi_rollout)|; 0 if both were the same function.
        outside_clip: importance ratios outside 1 +- `CLIP`, whose gradient PPO cuts off.
        reward: mean.
    """

    changed_fraction: float
    mean_log_ratio: float
    outside_clip: float
    reward: float


def make_policy(seed: int) -> DemoModel:
    """An untrained policy that is already sure of some tokens, so that what it does depends on its experts."""
    torch.manual_seed(seed)
    config = ModelConfig(num_layers=4, d_model=64, num_heads=4, num_experts=16, top_k=2, vocab_size=VOCABULARY)
    policy = DemoModel(config)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "experts" in name or "embed" in name:
                parameter.mul_(4.0)
    return policy.eval()


def log_probs_of(policy: DemoModel, tokens: Tensor) -> Tensor:
    """[B, S] log probability of each token after the first."""
    logits = policy(tokens[:, :-1]).float()
    return F.log_softmax(logits, -1).gather(-1, tokens[:, 1:, None])[..., 0]


@torch.no_grad()
def roll_out(policy: DemoModel, generator: torch.Generator) -> Rollout:
    """Sample in bfloat16, and record the routing."""
    narrow = copy.deepcopy(policy).bfloat16()
    tokens = torch.randint(VOCABULARY, (BATCH, 1), generator=generator)
    for _ in range(LENGTH):
        chances = narrow(tokens)[:, -1].float().softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=generator)], dim=1)
    with headgate.tap(narrow) as tape:
        log_probs = log_probs_of(narrow, tokens)
    trace = headgate.trace_of(narrow, tape, token_ids=tokens[:, :-1])
    return Rollout(tokens=tokens, log_probs=log_probs, trace=trace)


def train_step(policy: DemoModel, optimizer: torch.optim.Optimizer, rollout: Rollout, *, replays: bool) -> Step:
    """One step of PPO's clipped policy gradient in float32."""
    reward = (rollout.tokens[:, 1:] % 2 == 0).float().mean(1)
    advantage = (reward - reward.mean()) / (reward.std() + 1e-6)
    inputs = rollout.tokens[:, :-1]
    routed = headgate.replay(policy, rollout.trace, token_ids=inputs) if replays else nullcontext()
    with headgate.tap(policy) as tape, routed:
        log_ratio = log_probs_of(policy, rollout.tokens) - rollout.log_probs
        ratio = log_ratio.exp()
        gain = torch.minimum(ratio * advantage[:, None], ratio.clamp(1 - CLIP, 1 + CLIP) * advantage[:, None])
        optimizer.zero_grad()
        (-gain.mean()).backward()
    ids = torch.stack([found[0].choice.expert_ids for found in tape.values()])
    optimizer.step()
    return Step(
        changed_fraction=(overlap_at_k(ids, rollout.trace.topk_ids) < 1).double().mean().item(),
        mean_log_ratio=log_ratio.detach().abs().mean().item(),
        outside_clip=((ratio - 1).abs() > CLIP).double().mean().item(),
        reward=reward.mean().item(),
    )


def train(*, replays: bool, steps: int = STEPS, seed: int = 0) -> list[Step]:
    """Train a policy, with or without replay, from the same start."""
    policy = make_policy(seed)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    return [train_step(policy, optimizer, roll_out(policy, generator), replays=replays) for _ in range(steps)]


def main() -> None:
    """Train both ways, and print what each step saw before its update."""
    print("          step   other experts   mean |ln ratio|   ratios outside 1 +- 0.2   reward")
    for replays in (False, True):
        for number, step in enumerate(train(replays=replays), start=1):
            name = "replayed" if replays else "free"
            print(
                f"{name:10}{number:4}{step.changed_fraction:16.2%}{step.mean_log_ratio:18.5f}"
                f"{step.outside_clip:26.2%}{step.reward:9.3f}"
            )


if __name__ == "__main__":
    # Under torchrun one process does it, for there is no work to share.
    if os.environ.get("RANK", "0") == "0":
        main()
