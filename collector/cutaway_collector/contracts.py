"""The small promises between stages: what a store, a scorer and a receiver's `submit` must do. No behaviour here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from cutaway_collector.blocks import Block

Encoding = Literal["protobuf", "json", "logs/protobuf", "logs/json", "scores/json"]
"""What a body is: an ExportTraceServiceRequest, or with `logs/` an ExportLogsServiceRequest, protobuf or OTLP/JSON; or scores."""

Scope = Literal["ingest", "read", "edit", "admin"]
"""What a credential may do: send; look (a viewer); keep searches and mute alerts as well (an editor, `edit` includes `read`);
everything, what concerns the collector itself among it (`admin` includes the others)."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One OTLP request as rows. `rejected` spans are in neither block; `message` says why in English, "" when none were."""

    spans: Block
    tokens: Block
    rejected: int
    message: str
    scores: Block | None = None
    """A gen_ai_scores block of what the request itself judges (log records that carry evaluation results), None without any."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One OTLP request that is known to be sound and will become rows, together with others (decode.build).

    wire: the request as protobuf, laid out as encoders do; b"" for logs. counts: rows of each table of decode.tables it fills.
    spans: how many become rows; rejected, message: of the others (see Decoded). row_bytes: what the rows will take in memory,
    about. received_ns: since 1970. scores: rows of logs, which are made at once.
    """

    wire: bytes
    counts: tuple[int, ...]
    spans: int
    rejected: int
    message: str
    row_bytes: int
    received_ns: int
    tenant: str
    scores: Block | None = None

    @property
    def held_bytes(self) -> int:
        """Memory it takes while it waits."""
        return len(self.wire) + (0 if self.scores is None else self.scores.nbytes())


@dataclass(frozen=True, slots=True)
class Rows:
    """Several requests as rows, in their order. token_rows: int64 [requests], rows of `tokens` each of them brought."""

    spans: Block
    tokens: Block
    token_rows: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, as its credential says. `tenant` is "" while there is only one, `name` "" where nobody is asked."""

    tenant: str
    scopes: frozenset[Scope]
    name: str = ""


class Authenticate(Protocol):
    """Authorization header of a request -> who it is from.

    Raises Unauthenticated (no credential, or an unknown one), PermissionDenied (known, but not allowed to), TooManyRequests.
    """

    def __call__(self, authorization: str, scope: Scope, peer: str) -> Caller:
        """authorization: value of the header, "" without one; peer: the sender's address, for throttling failures."""
        ...


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of a listener. client_ca: who signs the certificates clients must show, "" when they need none."""

    certificate: str
    key: str
    client_ca: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a request: spans accepted, spans rejected, and the words for partial_success ("" when there are none)."""

    accepted: int
    rejected: int
    message: str


class Submit(Protocol):
    """Takes one uncompressed OTLP trace or logs request; returns once it is safe on disk. What was sent before is not kept again.

    Raises MalformedRequest (nothing kept), Overloaded (nothing kept, come back later).
    """

    def __call__(self, payload: bytes, encoding: Encoding, tenant: str = "") -> Receipt:
        """The call itself; see the class."""
        ...


@dataclass(frozen=True, slots=True)
class Result:
    """Rows of a query with what they cost. `rows_read` and `bytes_read` are -1 when the engine did not tell.

    cut: its time was up, and these rows are what had been found by then.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    elapsed_s: float
    rows_read: int = -1
    bytes_read: int = -1
    cut: bool = False


class Store(Protocol):
    """ClickHouse, in process or over HTTP. Thread-safe. A server may be away: calls then fail until it is back."""

    database: str

    def prepare(self) -> None:
        """Makes the schema unless that has been done; the other calls see to it themselves. Raises StoreError."""
        ...

    def insert(self, block: Block, deduplication_token: str) -> None:
        """Inserts all rows or none; the same token twice stores once. Raises StoreError."""
        ...

    def query(self, sql: str, parameters: Mapping[str, Any] | None = None, *, seconds_max: float | None = None) -> Result:
        """Runs one SELECT, bounded by the query limits of the settings, values bound as `{name:Type}`. Raises StoreError.

        seconds_max: give what was found by then instead of failing (see `Result.cut`); the limit of the settings stands above it.
        """
        ...

    def command(self, sql: str) -> None:
        """Runs one DDL statement. Raises StoreError."""
        ...

    def close(self) -> None:
        """Lets go of the engine; further calls fail."""
        ...


@dataclass(frozen=True, slots=True)
class ScoreName:
    """One name in gen_ai_scores. unit: "" for a plain number; source: who published the formula, "" for a plain statistic."""

    name: str
    scorer: str
    unit: str
    meaning: str
    source: str = ""


class Scorer(Protocol):
    """Judges sequences. `name` prefixes nothing: the keys of the result are the score names as stored and searched.

    A scorer may have `columns: tuple[str, ...]`, the columns of gen_ai_tokens it reads; a back-fill then reads no others.
    """

    name: str
    version: str

    def score(self, tokens: Block) -> Mapping[str, npt.NDArray[np.float64]]:
        """tokens: a gen_ai_tokens block of n rows. Returns score name -> float64 [n]; NaN means "does not apply", not stored."""
        ...


@dataclass(frozen=True, slots=True)
class Texts:
    """What sequences say: one entry a sequence in every column, "" where it is not known.

    prompt: the last turn that was put to the model, its tools' results included; answer: what was generated; reference: the answer
    that would have been right; system: the instructions the model was given.
    """

    prompt: Sequence[str]
    answer: Sequence[str]
    reference: Sequence[str]
    system: Sequence[str]

    def __len__(self) -> int:
        return len(self.answer)

    def __getitem__(self, rows: slice) -> Texts:
        return Texts(self.prompt[rows], self.answer[rows], self.reference[rows], self.system[rows])


@dataclass(frozen=True, slots=True)
class Judged:
    """One score of n sequences. values: float64 [n], NaN means "does not apply" and is not stored.

    labels, explanations: [n] words for the values, "" for none, or None where the score has no words. An explanation says why, and
    never quotes the texts: who may see a score need not be allowed to see them.
    """

    values: npt.NDArray[np.float64]
    labels: Sequence[str] | None = None
    explanations: Sequence[str] | None = None


class TextScorer(Protocol):
    """Judges what sequences say. The keys of the result are the score names as stored and searched.

    Runs beside ingest, in one thread; may load a model at its first call and raise MissingExtra when it cannot.
    """

    name: str
    version: str

    def score(self, texts: Texts) -> Mapping[str, Judged]:
        """texts: of n sequences, all of one tenant. Returns score name -> Judged of n values."""
        ...
