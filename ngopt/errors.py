"""Errors that ngopt raises on purpose. All derive from `NGOptError`."""


class NGOptError(Exception):
    """Base class of ngopt's own errors."""


class TraceError(NGOptError, RuntimeError):
    """The module could not be run or captured on the example inputs."""


class UnsupportedOpError(NGOptError, NotImplementedError):
    """An operation has no rule, and the caller asked for `strict` tracing."""


class SymmetryError(NGOptError, ValueError):
    """A claimed symmetry does not hold."""


class GraphMismatchError(NGOptError, ValueError):
    """A neural graph and the parameters it is used with do not fit together."""


class CheckpointError(NGOptError, ValueError):
    """A checkpoint is corrupt, foreign, or from an incompatible version."""


class FileError(NGOptError, ValueError):
    """A file is damaged, foreign, or larger than its kind can be."""


class FolderInUseError(NGOptError, RuntimeError):
    """Another process works in this folder; the message says which."""


class MissingExtraError(NGOptError, ImportError):
    """A package of an optional part of ngopt is not installed; the message names the extra that brings it."""


class FrozenSymmetryWarning(UserWarning):
    """Symmetry was given up, soundly: an unknown op, or a certificate that failed."""
