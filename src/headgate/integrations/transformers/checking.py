"""Examine a model of `transformers`: the battery of `headgate check`, on its own layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headgate.errors import ArtifactError, InputError
from headgate.integrations.transformers.checkpoint import load_causal_model, load_tokenizer
from headgate.integrations.transformers.recording import known_specs, make_trace
from headgate.integrations.transformers.tap import Tape, require_sites, tap
from headgate.observe.battery import RANKED, ModelPass, changed_fraction, choose_in, examine
from headgate.observe.check_model import in_mode, poison_first
from headgate.observe.findings import Finding
from headgate.observe.trace import RoutingTrace
from headgate.wording import number_of

AGREEMENT = 0.9
"""A formula that gives the model's own choice for fewer tokens than this is not the model's."""

NUM_SEQUENCES = 8
SEQUENCE_TOKENS = 128

_OF_TEXT = ("balance", "balance per pass", "dead experts")
"""What depends on the text that a model is given."""


def check_transformers(model: nn.Module, token_ids: Int[Tensor, "B S"]) -> list[Finding]:
    """Run a model of transformers a few times, each with one thing changed, and look at what its routing does.

    Args:
        model: with MoE layers; called with `input_ids` and returning logits. Nothing of it is changed.
        token_ids: a text that it should do well on; at least two sequences of at least two tokens.

    Raises:
        InputError: too few tokens, or a model without MoE layers.

    Example:
        >>> from transformers import MixtralConfig, MixtralForCausalLM
        >>> sizes = {"hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 2, "vocab_size": 64}
        >>> config = MixtralConfig(**sizes, num_attention_heads=4, num_key_value_heads=2)
        >>> findings = check_transformers(MixtralForCausalLM(config), torch.arange(64).view(4, 16))
        >>> {finding.check: finding.status for finding in findings}["causality"]
        'pass'
    """
    require_sites(model)
    return examine(_TransformersModel(model), token_ids)


def check_checkpoint(name: str, texts: Sequence[str] = ()) -> list[Finding]:
    """Load a model and examine it: on texts, or on Python's documentation, or, without a tokenizer, on random tokens.

    Raises:
        ArtifactError: there is no such model, or its weights are missing.
        InputError: it has no MoE layer, or the texts are too short or can't be given to it.
    """
    model, tokenizer = load_checkpoint(name)
    token_ids, text = text_to_check(model, tokenizer, texts)
    findings = check_transformers(model, token_ids)
    if tokenizer is None:
        findings = [_of_noise(finding) if finding.check in _OF_TEXT else finding for finding in findings]
    return [text, *findings]


def _of_noise(finding: Finding) -> Finding:
    """What random tokens show of the load is no verdict on the model."""
    return replace(finding, status="unknown", sentence=f"on random tokens, {finding.sentence}")


def load_checkpoint(name: str) -> tuple[nn.Module, Any]:
    """A causal language model, and its tokenizer or None, from a directory or the Hub.

    Raises:
        ArtifactError: there is no such model, or its weights are missing.
        InputError: it has no MoE layer, has an encoder, or is no language model.
    """
    model = load_causal_model(name)
    try:
        return model, load_tokenizer(name)
    except ArtifactError:
        return model, None


def text_to_check(model: Any, tokenizer: Any, texts: Sequence[str]) -> tuple[Int[Tensor, "B S"], Finding]:
    """Sequences to examine a model on, and what is to be said of them.

    Args:
        model: which must know the tokens.
        tokenizer: of the model; None = random tokens.
        texts: to take tokens from; empty = Python's own documentation.

    Raises:
        InputError: texts without a tokenizer, or fewer tokens than two sequences need.
    """
    config = model.config.get_text_config()
    longest = int(getattr(config, "max_position_embeddings", 0) or SEQUENCE_TOKENS)
    length = min(SEQUENCE_TOKENS, longest)
    if tokenizer is None:
        if texts:
            raise InputError("the model has no tokenizer, so a text can't be given to it; leave the text out")
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(int(config.vocab_size), (NUM_SEQUENCES, length), generator=generator)
        said = "there is no tokenizer, so the tokens are random, and what they show of the load is noise"
        return ids, Finding(check="text", status="unknown", sentence=said)
    wanted = NUM_SEQUENCES * length
    found = list(islice(_tokens(tokenizer, texts or _documentation()), wanted))
    length = min(length, len(found) // 2)
    if length < 2:
        raise InputError(f"the text has {len(found)} tokens, and two sequences need at least 4; give more text")
    count = len(found) // length
    ids = torch.tensor(found[: count * length]).view(count, length)
    sequences = number_of(count, "sequence")
    of = "the text given" if texts else "Python's documentation"
    return ids, Finding(check="text", status="pass", sentence=f"{sequences} of {length} tokens of {of}")


def _tokens(tokenizer: Any, texts: Iterable[str]) -> Iterator[int]:
    for text in texts:
        yield from tokenizer(text)["input_ids"]


def _documentation() -> Iterator[str]:
    """Text that is on every machine: the topics of Python's own help."""
    from pydoc_data.topics import topics

    return (topics[name] for name in sorted(topics))


class _TransformersModel:
    """A model of transformers as a `Subject`."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def run(self, token_ids: Int[Tensor, "B S"], *, training: bool = False) -> ModelPass:
        tape, output = self._tapped(token_ids, training=training)
        ids = {path: torch.cat([one.expert_ids for one in layer.decisions]) for path, layer in tape.layers.items()}
        return ModelPass(expert_ids=ids, output=output)

    def _tapped(
        self, token_ids: Int[Tensor, "B S"], *, training: bool = False, logits: bool = False
    ) -> tuple[Tape, Tensor]:
        with in_mode(self._model, training=training), tap(self._model, logits=logits) as tape:
            output = self._model(token_ids, use_cache=False).logits
        return tape, output

    def run_poisoned(self, token_ids: Int[Tensor, "B S"]) -> tuple[ModelPass, str, int] | None:
        layer = next(iter(self._tapped(token_ids[:1, :1])[0].layers.values()))
        if layer.router_path is None:
            return None
        router = self._model.get_submodule(layer.router_path)
        handle = router.register_forward_pre_hook(poison_first)
        try:
            return self.run(token_ids), layer.path, layer.num_experts
        finally:
            handle.remove()

    def record(self, token_ids: Int[Tensor, "B S"]) -> RoutingTrace:
        return make_trace(self._tapped(token_ids, logits=True)[0])

    def narrow_changes(self, token_ids: Int[Tensor, "B S"]) -> Mapping[str, float]:
        tape, _ = self._tapped(token_ids[:1, :1])
        routers = {path: layer.router_path for path, layer in tape.layers.items() if layer.router_path is not None}
        with self._inputs_of(routers) as inputs:
            tape, _ = self._tapped(token_ids)
        specs, changes = known_specs(tape), {}
        for path, router_path in routers.items():
            spec, linear = specs[path], self._model.get_submodule(router_path)
            weight, x = getattr(linear, "weight", None), inputs[path]
            if spec is None or spec.selection not in RANKED or weight is None or weight.shape[1:] != x.shape[1:]:
                continue
            options = {"bias": getattr(linear, "bias", None), "selection_bias": tape.layers[path].selection_bias}
            wide, narrow = (choose_in(d, spec, x, weight, **options) for d in (torch.float32, torch.bfloat16))
            ids = torch.cat([one.expert_ids for one in tape[path]])
            if 1 - min(changed_fraction(ids, wide), changed_fraction(ids, narrow)) >= AGREEMENT:
                changes[path] = changed_fraction(wide, narrow)
        return changes

    @contextmanager
    def _inputs_of(self, routers: Mapping[str, str]) -> Iterator[dict[str, Tensor]]:
        """What each router sees, as [T, D], for as long as the context lasts."""
        inputs: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path, router_path in routers.items():

                def keep(module: nn.Module, args: tuple[Tensor, ...], path: str = path) -> None:
                    inputs[path] = args[0].detach().reshape(-1, args[0].shape[-1])

                stack.callback(self._model.get_submodule(router_path).register_forward_pre_hook(keep).remove)
            yield inputs
