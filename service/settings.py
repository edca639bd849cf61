"""The settings of a service, by environment variables (LSR_HOST, LSR_READ_KEY, …) or in code."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

# Characters of a key at least: a shorter one could be guessed.
SHORTEST_KEY = 16


class Settings(BaseSettings):
    """Where a service listens, who may use it, and its limits."""

    model_config = SettingsConfigDict(
        env_prefix="LSR_",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,  # the input contains keys
    )

    host: str = Field(default="127.0.0.1", description="address to listen on")
    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        default=8080, description="port; 0 for any that is free"
    )
    read_key: SecretStr | None = Field(default=None, description="key that may search")
    admin_key: SecretStr | None = Field(default=None, description="key that may also write")
    cors_origins: tuple[str, ...] = Field(
        default=(), description="origins whose pages may call the API; none by default"
    )

    queue: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=64, description="requests that wait for the engine; more are refused with 429"
    )
    micro_batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="waiting requests that go through the engine together"
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=2, description="Java threads of a batch"
    )
    model_threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1,
        description="torch's threads for a model: more help large writes, and hinder all else",
    )
    timeout_ms: Annotated[int, Field(ge=1, le=600_000)] = Field(
        default=10_000, description="deadline of a request, and the longest it may ask for"
    )
    write_timeout_ms: Annotated[int, Field(ge=1, le=3_600_000)] = Field(
        default=60_000, description="deadline of a write, until it is durable"
    )
    watch_seconds: Annotated[float, Field(gt=0, le=3600)] = Field(
        default=1.0, description="how often new generations and commits are looked for"
    )
    drain_seconds: Annotated[int, Field(ge=0, le=3600)] = Field(
        default=30, description="time that requests in flight have to end when the service stops"
    )

    max_body: Annotated[int, Field(ge=1024, le=2**30)] = Field(
        default=2**20, description="bytes of a body, and of a line of a stream of documents"
    )
    max_query: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="characters of a query"
    )
    max_query_terms: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1024, description="terms of a query given as weights"
    )
    max_k: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=1000, description="hits of one answer"
    )
    max_depth: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="hits that paging reaches"
    )
    rerankers: tuple[str, ...] = Field(
        default=(), description="cross-encoders that a request may name; none by default"
    )
    max_rerank: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=100, description="documents that a cross-encoder reads for a request"
    )
    max_batch: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=64, description="requests of one batch"
    )
    max_connections: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=1000, description="open connections"
    )
    header_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        default=10.0, description="time that a client has for the head of a request"
    )
    body_seconds: Annotated[float, Field(gt=0, le=600)] = Field(
        default=30.0, description="longest silence of a client that sends a body"
    )

    @field_validator("read_key", "admin_key")
    @classmethod
    def _long_enough(cls, key: SecretStr | None) -> SecretStr | None:
        value = key.get_secret_value() if key else None
        if value is not None and not (
            len(value) >= SHORTEST_KEY and value.isascii() and value.isprintable()
        ):
            # Errors are logged, so the message leaves out the key.
            raise ValueError(f"a key must be {SHORTEST_KEY} or more printable ASCII characters")
        return key

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if not (self.read_key or self.admin_key) and not self.is_loopback:
            raise ValueError(
                f"`host` {self.host!r} can be reached from elsewhere: set LSR_READ_KEY or "
                "LSR_ADMIN_KEY first, or listen on 127.0.0.1"
            )
        if self.read_key and self.read_key == self.admin_key:
            raise ValueError("`read_key` and `admin_key` must differ")
        return self

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False  # a host name may stand for any address
