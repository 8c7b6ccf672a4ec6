"""The section `request`: the request for erasure behind a run, and the key that signs the run's manifest."""

from dataclasses import dataclass

from mari_cli.sections import require

LONGEST_LINE = 2000
"""The most characters of an id or of a note."""


@dataclass(kw_only=True)
class RequestConfig:
    """The request for erasure behind a run, for its manifest and for `mari requests`."""

    id: str | None = None
    """The number or name of the request, or several, separated by commas."""
    note: str | None = None
    """A note on the request. The note is written unchanged, so it should not name people."""
    key: str | None = None
    """A private key (elliptic curve, PEM) to sign the manifest with; null: it is not signed."""

    def __post_init__(self) -> None:
        for name in ("id", "note"):
            value = getattr(self, name)
            require(
                value is None or (value.isprintable() and len(value) <= LONGEST_LINE),
                f"request.{name} must be one line of at most {LONGEST_LINE} characters",
            )
        require(
            self.id is None or all(part.strip() for part in self.id.split(",")),
            f"request.id must be one id, or several with commas between them, got {self.id}",
        )

    @property
    def ids(self) -> list[str]:
        return [] if self.id is None else list(dict.fromkeys(part.strip() for part in self.id.split(",")))
