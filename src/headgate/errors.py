"""The errors and warnings that Headgate raises on purpose.

HeadgateError
├── SpecError (ValueError)         a configuration that can't mean anything
├── InputError (ValueError)        a tensor or argument that a call can't use
├── BackendError (RuntimeError)    a backend that was asked for by name and isn't there
├── ArtifactError (RuntimeError)   a file or folder that can't be read, written or resumed
└── RankError (RuntimeError)       another rank was killed, hangs or raised

NativeMissingWarning               the C++ library isn't there; PyTorch does its work instead
"""

from __future__ import annotations


class HeadgateError(Exception):
    """The root of every error that Headgate raises on purpose."""


class SpecError(HeadgateError, ValueError):
    """A configuration that can't mean anything, such as more choices than experts."""


class InputError(HeadgateError, ValueError):
    """A tensor or argument that a call can't use, such as one of the wrong width."""


class BackendError(HeadgateError, RuntimeError):
    """A backend was asked for by name and can't run here."""


class ArtifactError(HeadgateError, RuntimeError):
    """A file or folder can't be read, written or resumed."""


class RankError(HeadgateError, RuntimeError):
    """Another rank of a distributed run was killed, hangs or raised; which one, and what is known of it."""


class NativeMissingWarning(UserWarning):
    """The native library is not available, so PyTorch operations do its work."""
