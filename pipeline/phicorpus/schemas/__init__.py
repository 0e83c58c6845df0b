"""The tables: rows in, rows between stages, rows out.

Declared in pyarrow, never inferred; columns are only added, and nullable.
"""

from phicorpus.schemas.annotation import ANNOTATION
from phicorpus.schemas.document import DOCUMENT
from phicorpus.schemas.manifest import MANIFEST
from phicorpus.schemas.run import RUN
from phicorpus.schemas.segment import ASSET, REPLY, SEGMENT

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
