"""`run_in_turns`: while one batch's tokens travel, another's gate and experts run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch

_Value = TypeVar("_Value")


def run_in_turns(calls: Sequence[Callable[[], _Value]]) -> list[_Value]:
    """Run calls one at a time, each until its layers wait for rows of other ranks; then the next one goes on.

    What a batch has to wait for so overlaps with what another one computes: its attention, its gate, its experts. The
    calls take their turns in their order, so that on every rank the collectives have the same order, and each call
    returns what it returns alone, to the bit. A call may hold the backward pass as well; gradients are then added in an
    order that is the same on every run, but not that of one call after the other.

    Args:
        calls: each runs the model on one batch; as many, and of as many layers, on every rank. Modules must allow
            several forward passes at a time: DDP's and FSDP's own don't, sharded experts and plain modules do.

    Returns:
        What each call returned.

    Raises:
        Exception: what the first call that failed raised; the others are abandoned.

    References:
        DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, https://arxiv.org/abs/2412.19437, section 3.4: two batches,
        of which one computes while the other's tokens travel.

    Example:
        >>> run_in_turns([lambda: 1, lambda: 2])
        [1, 2]
    """
    around, conditions = _Round(len(calls)), _Conditions.of_this_thread()

    def take_part(number: int) -> _Value:
        token = _SEAT.set(_Seat(around, number))
        try:
            around.wait(number)
            with conditions.applied():
                return calls[number]()
        except BaseException as error:
            around.failure = around.failure or error
            raise
        finally:
            _SEAT.reset(token)
            around.leave(number)

    with ThreadPoolExecutor(max_workers=max(len(calls), 1)) as threads:
        futures = [threads.submit(take_part, number) for number in range(len(calls))]
    if around.failure is not None:
        raise around.failure
    return [future.result() for future in futures]


def give_way() -> None:
    """Let the other calls of `run_in_turns` go on until it is this one's turn again; without others, do nothing."""
    seat = _SEAT.get()
    if seat is not None:
        seat.around.pass_on(seat.number)


class _Round:
    """Threads that pass a baton round: one runs, the others wait for it.

    Attributes:
        failure: what the first thread that failed raised.
    """

    def __init__(self, size: int) -> None:
        self.failure: BaseException | None = None
        self._batons = [threading.Semaphore(1 if number == 0 else 0) for number in range(size)]
        self._present = list(range(size))

    def wait(self, number: int) -> None:
        """Wait for the baton.

        Raises:
            _Abandoned: another thread has failed.
        """
        self._batons[number].acquire()
        if self.failure is not None:
            raise _Abandoned

    def pass_on(self, number: int) -> None:
        """Give the baton to the next one, and wait until it comes back."""
        following = self._present[(self._present.index(number) + 1) % len(self._present)]
        if following != number:
            self._batons[following].release()
            self.wait(number)

    def leave(self, number: int) -> None:
        """Give the baton away for good."""
        at = self._present.index(number)
        self._present.remove(number)
        if self._present:
            self._batons[self._present[at % len(self._present)]].release()


class _Abandoned(BaseException):
    """Ends a call whose neighbour has failed; no one outside sees it."""


class _Seat(NamedTuple):
    around: _Round
    number: int


_SEAT: ContextVar[_Seat | None] = ContextVar("seat", default=None)
"""Of the thread that runs; what autograd runs in threads of its own, as on GPUs, has none and simply waits."""


class _Conditions(NamedTuple):
    """What torch keeps for each thread, and a call should find as its caller left it."""

    inference: bool
    gradients: bool
    autocast: tuple[dict[str, Any], ...]
    device: int | None
    stream: Any

    @classmethod
    def of_this_thread(cls) -> _Conditions:
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        kinds = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
        return cls(
            inference=torch.is_inference_mode_enabled(),
            gradients=torch.is_grad_enabled(),
            autocast=tuple(
                {
                    "device_type": kind,
                    "dtype": torch.get_autocast_dtype(kind),
                    "enabled": torch.is_autocast_enabled(kind),
                    "cache_enabled": torch.is_autocast_cache_enabled(),
                }
                for kind in kinds
            ),
            device=None if accelerator is None else torch.accelerator.current_device_index(),
            stream=None if accelerator is None else torch.accelerator.current_stream(),
        )

    @contextmanager
    def applied(self) -> Iterator[None]:
        if self.device is not None:
            torch.accelerator.set_device_index(self.device)
            torch.accelerator.set_stream(self.stream)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.gradients))
            for options in self.autocast:
                stack.enter_context(torch.autocast(**options))
            yield
