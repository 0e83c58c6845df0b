"""Errors, once. A bad row is a value: its error becomes columns. A bad run is an exception.

Whether to retry is a property of the error, not of the caller.
"""

from __future__ import annotations

from typing import ClassVar


class PhicorpusError(Exception):
    """Any error this project raises on purpose."""

    exit_code: ClassVar[int] = 1


# --- a bad run: the job stops, and says why -------------------------------------------------------


class ConfigError(PhicorpusError):
    """The configuration or the command line is wrong; nothing was started."""

    exit_code = 2


class PackageMissing(ConfigError, ImportError):
    """A package that only jobs need is not installed; names it, and what installs it."""

    @classmethod
    def of(cls, error: ModuleNotFoundError) -> PackageMissing:
        """Return what a failed import means to a user.

        Example:
            >>> str(PackageMissing.of(ModuleNotFoundError("No module", name="ray.data")))
            "this needs ray, which is not installed: pip install 'phicorpus[run]'"
        """
        package = (error.name or str(error)).partition(".")[0]
        return cls(f"this needs {package}, which is not installed: pip install 'phicorpus[run]'")


class ManifestError(PhicorpusError):
    """The manifest is wrong; names file, column and row. Nothing was started."""

    exit_code = 2


class ManifestChanged(PhicorpusError):
    """The manifest is not the one that was planned; what is published is right, so run it again."""

    exit_code = 5


class CheckpointError(PhicorpusError):
    """A model checkpoint cannot be loaded as it is; names the keys or files at fault."""

    exit_code = 2


class StoreError(PhicorpusError):
    """The output store refused, or does not honour "create if absent"."""

    exit_code = 5


class CredentialsRefused(StoreError):
    """A store that holds assets wants credentials, or other ones: every asset there would fail."""


class OutputRefused(StoreError):
    """The output's URI is none: an unknown scheme, a package that is missing, a bucket's name."""

    exit_code = 2


class StoreBusy(StoreError):
    """The output store failed for now: throttled, slow, unreachable. Tried again before it ends."""


class AccountingError(PhicorpusError):
    """What is about to be published is not what was announced: a defect of this software."""

    exit_code = 70


class WorkersLost(PhicorpusError):
    """Workers could not be kept alive: a model that does not load, a machine that gives way.

    What was published is right; what was open is run by the next run.
    """

    exit_code = 6


class EngineDied(PhicorpusError):
    """The replica is lost: its process has to be replaced."""


# --- a bad row: it ends as an annotation with status "error" --------------------------------------


class SegmentError(PhicorpusError):
    """One asset, segment or request failed; its neighbours are not hurt.

    `stage` names where; `retryable` says whether the same bytes may succeed another time.
    """

    stage: str = "unknown"
    retryable: ClassVar[bool] = False


class Crashed(SegmentError):
    """The row ended its process again and again, at last alone; it was taken out."""

    retryable = True

    def __init__(self, message: str, *, stage: str) -> None:
        super().__init__(message)
        self.stage = stage


class FetchError(SegmentError):
    """The asset's bytes could not be read: missing, refused or the store kept failing."""

    stage = "fetch"
    retryable = True


class AssetMissing(FetchError):
    """The object does not exist."""

    retryable = False


class UriRefused(FetchError):
    """The URI's scheme or prefix is not allowed by the job's config."""

    retryable = False


class AccessDenied(UriRefused):
    """The store knows who asks, and does not let them read this object."""


class BucketMissing(AssetMissing):
    """The store has no such bucket or container."""


class StoreUnreachable(FetchError):
    """No connection to the store: a wrong endpoint, a name that does not resolve, a network."""


class StoreStalled(FetchError):
    """The store took the request and gave nothing, or nothing more, for `fetch.timeout_s`."""


class CredentialsMissing(FetchError):
    """The store wants credentials and was given none, or wrong ones; of a bucket, ends the run."""

    retryable = False


class ChecksumMismatch(FetchError):
    """The bytes are not the ones that the manifest's sha256 names."""

    retryable = False


class LimitExceeded(SegmentError):
    """The asset is larger than a limit of the config; the message names limit and value."""

    stage = "decode"


class AssetTooLarge(LimitExceeded):
    """More bytes than `fetch.max_asset_bytes`."""

    stage = "fetch"


class DecodeError(SegmentError):
    """The bytes are not a readable image, deck or recording."""

    stage = "decode"


class UnsupportedMedia(DecodeError):
    """The content is of a type that this flow does not read."""


class NotUtf8(DecodeError):
    """The text is in another encoding, or none; names the first byte at fault."""


class PasswordRequired(DecodeError):
    """The document is encrypted."""


class RendererMissing(DecodeError):
    """A system program that this asset needs is not installed; names the install line."""

    retryable = True


class RenderError(DecodeError):
    """The renderer failed, or silently dropped content."""


class SandboxTimeout(DecodeError):
    """A decoder ran longer than its limit and was killed."""


class SandboxCrashed(DecodeError):
    """A decoder's process died."""


class RequestRefused(SegmentError):
    """The request cannot be run by this model: too long, wrong media, empty."""

    stage = "infer"


class InferError(SegmentError):
    """The engine failed on this request."""

    stage = "infer"
    retryable = True


class Cancelled(InferError):
    """The request was ended by `Engine.cancel`: what it has is no answer."""


class AnswerError(SegmentError):
    """The model's answer is not what the task asks for, and could not be repaired."""

    stage = "parse"
    retryable = True
