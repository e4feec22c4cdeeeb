"""What clients name a job and its files: fields of requests, none of which the gateway interprets."""

from __future__ import annotations

from typing import Any

from marshmallow import fields, validate

from gateway.domain.jobs import MAX_FILENAME, MAX_REFERENCE

# PostgreSQL can neither store nor look for a NUL.
PRINTABLE = validate.Regexp(r"^[^\x00-\x1f\x7f]+\Z", error="Must not contain control characters.")
# Without what would make a path, end a header or turn the direction of text, so that another extension seems the last.
_NAME = validate.Regexp(
    r"^[^/\\\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+\Z",
    error="Must be a name without a folder and without control characters.",
)


class Reference(fields.String):
    """Text, or an integer, which is taken as text: a row's number is a common id."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        return super()._deserialize(text, attr, data, **kwargs).strip()


def reference(description: str) -> Reference:
    """A field for the client's own id of a job."""
    return Reference(validate=[validate.Length(1, MAX_REFERENCE), PRINTABLE], metadata={"description": description})


def filename() -> fields.String:
    """A field for the name of a job's downloads."""
    return fields.String(
        validate=[validate.Length(1, MAX_FILENAME), _NAME],
        metadata={
            "description": "Name under which the finished file is downloaded; the extension is added. Several files "
            "get their output's name at the end. Without it, the name is that of the job."
        },
    )
