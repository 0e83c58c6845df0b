"""What a row is. Declared in pyarrow, never inferred; columns are only added, and nullable."""

from schemas.annotation import ANNOTATION
from schemas.document import DOCUMENT
from schemas.manifest import MANIFEST
from schemas.run import RUN
from schemas.segment import ASSET, REPLY, SEGMENT

SCHEMAS = {
    "manifest": MANIFEST,
    "asset": ASSET,
    "segment": SEGMENT,
    "reply": REPLY,
    "annotation": ANNOTATION,
    "document": DOCUMENT,
    "run": RUN,
}
"""By the name that `phicorpus schema NAME` takes."""

__all__ = ["ANNOTATION", "ASSET", "DOCUMENT", "MANIFEST", "REPLY", "RUN", "SCHEMAS", "SEGMENT"]
